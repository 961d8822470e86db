"""Chat templates that attack end in one sentence, soon, and without much memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glmc.backends.runtime.tokenizer import budget, jinja
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.jinja import render
from support import attacks
from support.vocabularies import tokenizer_json, write

TESTS = Path(attacks.__file__).parents[1]
#: Of processor time in seconds, and MiB beyond what the interpreter needs.
SECONDS, MEMORY = 10.0, 512


def attacked(steps: int) -> dict[str, tuple[str, float, int]]:
    """Return what each attack ended in, its seconds and its MiB, in a small process."""
    done = subprocess.run(
        [sys.executable, "-m", "support.attacks", str(steps)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (said, took, grown) for name, said, took, grown in lines}


def check(found: dict[str, tuple[str, float, int]]) -> None:
    assert found.keys() == attacks.HOSTILE.keys()
    for name, (said, took, grown) in found.items():
        cause = attacks.HOSTILE[name][1]
        if not said:
            assert name in attacks.EITHER, f"{name} was rendered"
            continue
        assert re.search(f"chat template \\(T.*(?:{cause})", said, re.DOTALL), name
        assert "MemoryError" not in said, said
        assert len(said) < 600
        assert took < SECONDS, name
        assert grown < MEMORY, name


def test_attacks() -> None:
    """With few of the steps, so that it is soon done."""
    check(attacked(budget.MAX_STEPS >> 5))


@pytest.mark.slow
def test_attacks_with_all_steps() -> None:
    check(attacked(budget.MAX_STEPS))


def test_control_an_attack_is_seen() -> None:
    """The check catches what is rendered, is slow, is large or says something else."""
    good = {
        name: (f"the chat template (T) {cause.partition('|')[0]}", 0.1, 1)
        for name, (_, cause) in attacks.HOSTILE.items()
    }
    for bad in (
        ("", 0.1, 1),
        (good["zeros"][0], 99.0, 1),
        (good["zeros"][0], 0.1, 999),
    ):
        with pytest.raises(AssertionError):
            check(good | {"zeros": bad})
    with pytest.raises(AssertionError):
        check(good | {"zeros": ("the chat template (T) is odd", 0.1, 1)})


HARMLESS = (
    "{% set n = namespace(x='') %}{% for a in range(99) %}"
    "{% set n.x = n.x ~ 'ab' * 3 + (a % 7) | string %}{% endfor %}{{ n.x }}"
    "{{ '{:>5}'.format('x') }}{{ 'a' | center(5) }}{{ 'aa'.replace('a', 'bb') }}"
    "{{ '%3d|%s' % (7, [1, 'b']) }}{{ '%s' | format({'a': 1}) }}{{ 2 ** 10 }}"
    "{{ range(5) | batch(2, 0) | list }}{{ range(5) | slice(2) | map('list') | list }}"
    "{{ [3, 1] | sort }}{{ 'a\nb' | indent(2) }}{{ {'a': (1,)} | tojson(indent=1) }}"
    "{{ messages | selectattr('role', 'eq', 'user') | map(attribute='role') | first }}"
    "{{ [[1, 2], [1, 2]] == [[1, 2]] * 2 }}{{ ('a', 1) in {('a', 1): 2} }}"
    "{{ 'x'.encode('utf-8').hex() }}{{ 1.2345 | round(2) }}{{ '7'.zfill(3) }}"
)


def test_control_harmless_templates_render() -> None:
    """The same means in small are not refused, and do what they do in Jinja."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "x"}]
    theirs, _ = render_jinja_template([messages], chat_template=HARMLESS)
    assert render(HARMLESS, {"messages": messages}) == theirs[0]


def test_long_chats_are_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 messages take a small part of what is allowed."""
    template = (
        "{% set n = namespace(last=messages | length - 1) %}"
        "{% for m in messages[::-1] %}{% if m.role == 'user' and m.content is string "
        "and not m.content.startswith('<tool') %}{% set n.last = loop.index %}"
        "{% endif %}{% endfor %}"
        "{% for m in messages %}{% set parts = m.content.split('</think>') %}"
        "{{ '<|im_start|>' + m.role + '\\n' + parts[-1].lstrip('\\n') }}"
        "{% if loop.index0 > n.last %}{{ parts | first | trim }}{% endif %}"
        "{% endfor %}"
    )
    said = {"role": "assistant", "content": "<think>a</think>" + "b " * 500}
    asked = {"role": "user", "content": "why " * 500}
    spent: list[budget.Budget] = []

    class Seen(budget.Budget):
        def __init__(self) -> None:
            super().__init__()
            spent.append(self)

    monkeypatch.setattr(jinja, "Budget", Seen)
    text = render(template, {"messages": [asked, said] * 1000})
    assert text.count("<|im_start|>") == 2000
    assert 0 < spent[0].steps < budget.MAX_STEPS // 8
    assert 0 < spent[0].made < budget.MAX_MADE // 16


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    from glmc.backends.runtime.tokenizer import load_tokenizer

    files = {
        "tokenizer.json": tokenizer_json(),
        "chat_template.jinja": "{% macro f(m) %}\n{{ m.a.b }}\n{% endmacro %}\n\n"
        "{{ f(messages[0]) }}",
    }
    found = load_tokenizer(write(tmp_path, files))
    with pytest.raises(TokenizerError, match=r"\(chat_template.jinja, line 2\)"):
        found.apply_chat_template([{"role": "user", "content": "x"}])
