"""Text that is put into templates: as many lines as there are, where a name stands.

A template line that holds nothing but ``{{ name }}`` becomes the lines of that name, at
its indentation; where there are none the line goes. So what a kernel does before and
after its body is chosen in Python, as data, and a template does not branch.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import jinja2

from glmc.backends import layout
from glmc.backends.triton.launch import Launch

Line = str | Callable[[int], str]
"""A line, or what lays one out that may have to be broken, from a column on."""
Lines = Sequence[Line]
_MARK = re.compile(r"( *)\0(\d+)\0")


def call(target: str, function: str, arguments: Sequence[str], tail: str = "") -> Line:
    """Write ``target = function(arguments)``, broken where it is too long."""
    return lambda indent: layout.call(target, function, arguments, indent, tail)


def render(
    env: jinja2.Environment, template: str, variables: Mapping[str, object]
) -> str:
    """Render one template of ``kernels/``, without empty lines around it.

    Values that are lists or tuples of lines, and what a :class:`Launch` prints as
    ``NAME.glossary``, ``NAME.signature`` and ``NAME.call``, are put in line by line.
    """
    placed: list[Lines] = []

    def mark(lines: Lines) -> str:
        placed.append(lines)
        return f"\0{len(placed) - 1}\0"

    given = {name: _value(value, mark) for name, value in variables.items()}
    text = env.get_template(f"kernels/{template}.py.j2").render(given)
    made = []
    for line in text.split("\n"):
        found = _MARK.fullmatch(line)
        made += _laid(placed[int(found[2])], len(found[1])) if found else [line]
    return "\n".join(made).strip("\n")


def _value(value: object, mark: Callable[[Lines], str]) -> object:
    if isinstance(value, Launch):
        printed = {
            "glossary": value.glossary(),
            "signature": value.signature(),
            "call": value.call(),
        }
        return {name: mark(lines) for name, lines in printed.items()}
    return mark(value) if isinstance(value, list | tuple) else value


def _laid(lines: Lines, indent: int) -> list[str]:
    """Indent lines; those after the first of a call have their own indentation
    besides."""
    pad = " " * indent
    found = []
    for line in lines:
        first, *rest = (line if isinstance(line, str) else line(indent)).split("\n")
        found.append(pad + first if first else "")
        found += [pad + more for more in rest] if isinstance(line, str) else rest
    return found
