"""Chat templates that attack, each with what must be said of it.

Run as a program it renders all in one process of little memory, and prints what each
ended in, how long it took, and the memory in MiB that it needed. Its argument is the
number of steps that a rendering may take.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time

GROW = "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"


def shared(name: str) -> str:
    """A namespace with 2 ** 32 places in lists, of which there are 32."""
    made = "{% set NAME = namespace(x=[]) %}{% for i in range(32) %}"
    made += "{% set NAME.x = [NAME.x, NAME.x] %}{% endfor %}"
    return made.replace("NAME", name)


SHARED = shared("n")
TWICE = SHARED + shared("m")
LONG = "{% set long = 'a' * 4000000 %}"
ROUNDS = "{% for i in range(99999) %}{% for j in range(99999) %}"
END = "{% endfor %}{% endfor %}"

HOSTILE = {
    "python": ("{{ ().__class__.__base__.__subclasses__() }}", "'__class__' of"),
    "python by a filter": ("{{ messages | attr('__class__') | attr('mro') }}", "unsaf"),
    "python by format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "unsafe"),
    "python by format_map": ("{{ '{a.__class__.x}'.format_map({'a': 1}) }}", "unsafe"),
    "python by a namespace": (
        "{% set n = namespace() %}{{ n._Namespace__attrs.x }}",
        "unsafe",
    ),
    "files": ("{% include '/etc/hostname' %}", "no loader"),
    "inheritance": ("{% extends '/etc/hostname' %}", "no loader"),
    "change": ("{% set _ = messages.append(1) %}", "'append' of 'list'"),
    # Rounds
    "rounds": (ROUNDS + END, "steps"),
    "rounds of words": (ROUNDS + "a" + END, "steps"),
    "rounds of conditions": (ROUNDS + "{% if j == 'a' %}{% endif %}" + END, "steps"),
    "rounds of large bodies": (ROUNDS + "{% if a and b %}c{% endif %}" * 999 + END, ""),
    "recursive rounds": (
        "{% for x in range(99999) recursive %}"
        "{% if loop.depth0 < 2 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "steps",
    ),
    "two answers of a macro": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
        "{% endmacro %}{{ f(99) }}",
        "steps|Recursion",
    ),
    "recursion": (
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "Recursion",
    ),
    "a range": ("{{ range(999999999) | list }}", "Range too big|TooMuch"),
    "ranges of a filter": (
        "{% for i in range(9999) %}{{ range(99999) | sum }}{% endfor %}",
        "steps",
    ),
    # Lists that share their parts
    "shared lists": (SHARED + "{{ n.x | length }}{{ n.x }}", "steps"),
    "shared lists, counted": (SHARED + "{{ n.x | string | length }}", "steps"),
    "shared lists as JSON": (SHARED + "{{ n.x | tojson }}", "steps"),
    "shared lists, indented": (SHARED + "{{ n.x | tojson(indent=2) }}", "steps"),
    "shared lists, joined": (SHARED + "{{ 'a' ~ n.x }}", "steps"),
    "shared lists, joined by a filter": (SHARED + "{{ n.x | join }}", "steps"),
    "shared lists, compared": (TWICE + "{{ n.x == m.x }}", "steps"),
    "shared lists, tested": (TWICE + "{{ n.x is eq(m.x) }}", "steps"),
    "shared lists, sought": (TWICE + "{{ n.x in [m.x] }}", "steps"),
    "shared lists, found": (TWICE + "{{ [n.x].index(m.x) }}", "steps"),
    "shared lists, sorted": (TWICE + "{{ [n.x, m.x] | sort }}", "steps"),
    "shared lists, formatted": (SHARED + "{{ '{}'.format(n.x) }}", "steps"),
    "shared lists, by %": (SHARED + "{{ '%s' % n.x }}", "steps"),
    "shared lists, by a format filter": (SHARED + "{{ '%s' | format(n.x) }}", "steps"),
    "shared lists, pretty": (SHARED + "{{ n.x | pprint }}", "steps"),
    "shared tuples as keys": (
        SHARED.replace("[n.x, n.x]", "(n.x, n.x)") + "{{ {n.x: 1} }}",
        "steps",
    ),
    "shared tuples as indices": (
        SHARED.replace("[n.x, n.x]", "(n.x, n.x)") + "{{ {}[n.x] }}",
        "steps",
    ),
    "a namespace in itself": ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", ""),
    # Widths
    "a width": ("{{ 'a' | center(9999999999) }}", "TooMuch"),
    "a width four times": ("{{ '\U0001f600' | center(250000000) }}" * 4, "TooMuch"),
    "a width by a method": ("{{ 'a'.rjust(9999999999) }}", "TooMuch"),
    "zeros": ("{{ '1'.zfill(999999999) }}", "TooMuch"),
    "tabs": ("{{ ('\\t' * 9999).expandtabs(99999) }}", "TooMuch"),
    "bytes of a number": ("{{ (1).to_bytes(999999999, 'big') }}", "TooMuch"),
    "a width by %": ("{{ '%999999999d' % 1 }}", "a format that wide"),
    "a width by % and *": ("{{ '%*d' % (999999999, 1) }}", "TooMuch"),
    "repeats by %": ("{{ '%(a)s' * 99999 % {'a': 'b' * 9999} }}", "TooMuch"),
    "a width by format": ("{{ '{:999999999}'.format('a') }}", "a format that wide"),
    "a width by both": ("{{ '{:{}}'.format('a', 9999999999) }}", "TooMuch"),
    "repeats by format": ("{{ ('{0}' * 99999).format('b' * 9999) }}", "TooMuch"),
    "a width by a format filter": ("{{ '%999999999d' | format(1) }}", "that wide"),
    "batches": ("{{ range(3) | batch(400000000, 'x') | list }}", "TooMuch"),
    "batches of a generator": (
        "{{ range(3) | map('string') | batch(400000000, 'x') | list }}",
        "TooMuch",
    ),
    "slices": ("{{ range(3) | slice(400000000) | list }}", "TooMuch"),
    "an indent": ("{{ ('\\n' * 9999) | indent(99999) }}", "TooMuch"),
    "an indent of text": ("{{ ('\\n' * 9999) | indent('a' * 99999) }}", "TooMuch"),
    "an indent of JSON": ("{{ messages | tojson(indent=999999999) }}", "an indent"),
    "a separator of JSON": (
        LONG + "{{ range(9999) | list | tojson(separators=(long, long)) }}",
        "TooMuch",
    ),
    "a wrap": ("{{ ('a ' * 9999) | wordwrap(1, wrapstring='b' * 99999) }}", "TooMuch"),
    "a round": ("{{ 1.5 | round(999999999) }}{{ 5 | round(-999999999) }}", "digits"),
    "ceilings": ("{{ 5 | round(999999999, 'ceil') }}", "digits"),
    # Operators
    "a power": ("{{ 9 ** 9999999 }}", "bits"),
    "powers": ("{% set n = namespace(x=9) %}" + "{% set n.x = n.x * n.x %}" * 99, ""),
    "a number of text": (LONG + "{{ ('f' * 4000000) | int(base=16) }}", "bits"),
    "a product": ("{{ 'a' * 999999999 }}", "TooMuch"),
    "a product of lists": ("{{ [0] * 999999999 }}", "TooMuch"),
    "products that are kept": (
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}"
        "{% set n.x = [n.x, 'a' * 9999999] %}{% endfor %}",
        "MiB|steps",
    ),
    "doubling": (
        GROW + "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "MiB|that large|steps",
    ),
    "adding": (GROW + "{% set n.x = n.x + n.x %}{% endfor %}", "MiB|that large|steps"),
    "replacing": (
        GROW + "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "TooMuch",
    ),
    "slices that are kept": (
        LONG + "{% set n = namespace(x=[]) %}{% for i in range(9999) %}"
        "{% set n.x = [n.x, long[1:]] %}{% endfor %}",
        "MiB|steps",
    ),
    "blocks that are kept": (
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set y %}"
        + "a" * 99999
        + "{% endset %}{% set n.x = [n.x, y] %}{% endfor %}",
        "MiB|steps",
    ),
    "words": (LONG + "{{ ('a ' * 9999999).split() | length }}", "TooMuch"),
    "output": ("{% set x = 'a' * 9999999 %}" + "{{ x }}" * 4, "33554432 characters"),
    # Time in C
    "long texts, compared": (
        LONG + ROUNDS + "{% if long == long ~ '' %}{% endif %}" + END,
        "MiB|steps",
    ),
    "long texts, searched": (LONG + ROUNDS + "{{ long.count('b') }}" + END, "steps"),
    "tags": (
        "{{ ('<!--' * 9999 + '-->' * 9999) | striptags }}" * 99,
        "striptags of|st",
    ),
    "addresses": ("{{ ('a@b.' * 99999) | urlize }}", "urlize of"),
    "an encoding": ("{{ ('é' * 99999).encode('punycode') }}", "the encoding"),
    "sums of lists": (
        "{{ ([[0] * 9999] * 9999) | sum(start=[]) | length }}",
        "steps",
    ),
    "text at will": ("{{ lipsum(99999999) }}", "'lipsum' is undefined"),
    # What does not compile
    "spaces": ("{{ a }}" + (" " * 99 + "\n") * 2000 + "{%- if 1 %}{% endif -%}", ""),
    "raw": ("{% raw %}" + ("{%" + " " * 999) * 250, "raw"),
    "size": (" " * (1 << 19), "524288 characters"),
    "syntax": ("a\n{% if %}", "line 2.*TemplateSyntaxError"),
    "nested loops": ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "SyntaxError"),
    "nested conditions": ("{% if 1 %}" * 999 + "{% endif %}" * 999, "deep|Recursion"),
    "nested parentheses": ("{{ " + "(" * 9999 + ")" * 9999 + " }}", "Recursion"),
    "nested lists": ("{{ " + "[" * 150 + "]" * 150 + " }}", "SyntaxError|Recursion"),
    "a long sum": ("{{ 1" + " + 1" * 50000 + " }}", "deep"),
    "a long path": ("{{ a" + ".b" * 50000 + " }}", "deep"),
    "many branches": (
        "{% if 0 %}" + "{% elif 0 %}" * 19999 + "{% endif %}",
        "branches",
    ),
    "many parts": ("{{a}}" * 40000, "32768 parts"),
    "a name of Python": ("{% for __debug__ in [1] %}{% endfor %}", ""),
    "a keyword of Python": ("{% macro f(None) %}{% endmacro %}{{ f(1) }}", ""),
    "a long number": ("{{ " + "9" * 5000 + " }}", "ValueError"),
    "a name twice": ("{% macro f(a, a) %}{% endmacro %}", "SyntaxError"),
    "a block twice": ("{% block a %}{% endblock %}" * 2, "defined twice"),
    "break outside": ("{% break %}", "SyntaxError"),
    "an open block": ("{% generation %}", "Unexpected end|endgeneration"),
    # What is missing
    "a missing filter": ("{{ 1 | nothing }}", "No filter named"),
    "a missing key": ("a\n\n{{ messages[0].a.b.c }}", "line 3.*no attribute 'a'"),
    "a zero": ("{{ 1 // 0 }}", "by zero"),
    "a surrogate": ("{{ '\\ud800' }}", "surrogate"),
}
#: Refused with some sentence, or harmless; what matters is what they cost.
EITHER = {"a keyword of Python", "a name of Python", "powers", "a surrogate", "spaces"}


def render_named(name: str) -> str:
    """Return what the template ends in: nothing, the refusal, or the name of an
    escape."""
    from glmc.backends.runtime.tokenizer.files import TokenizerError
    from glmc.backends.runtime.tokenizer.jinja import render

    try:
        render(HOSTILE[name][0], {"messages": [{"role": "user", "content": "x"}]}, "T")
    except TokenizerError as error:
        return str(error)
    return ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    """See the module."""
    from glmc.backends.runtime.tokenizer import budget

    budget.MAX_STEPS = int(sys.argv[1])
    render_named("syntax")
    with open("/proc/self/statm") as opened:
        size = int(opened.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
    for name in HOSTILE:
        before, start = _peak(), time.process_time()
        signal.alarm(60)
        said = render_named(name)
        signal.alarm(0)
        took = time.process_time() - start
        print(json.dumps([name, said, took, _peak() - before]), flush=True)


if __name__ == "__main__":
    main()
