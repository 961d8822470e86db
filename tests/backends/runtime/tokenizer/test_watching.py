"""Templates may be as large, as deep and as branched as the limits say, and no more."""

from __future__ import annotations

import pytest

from glmc.backends.runtime.tokenizer import watching
from glmc.backends.runtime.tokenizer.budget import TooMuchError
from glmc.backends.runtime.tokenizer.watching import (
    MAX_BRANCHES,
    MAX_DEPTH,
    _descend,
)

NODES = 600


@pytest.fixture(autouse=True)
def _few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is tried on templates of a size that is soon read."""
    monkeypatch.setattr(watching, "MAX_NODES", NODES)


def parts(text: str) -> int:
    from jinja2 import Environment

    return sum(1 for _ in _descend(Environment(autoescape=True).parse(text)))


def nested(depth: int) -> str:
    """A template whose innermost name is so deep: below it are template and output."""
    return "{{ " + "not " * (depth - 2) + "x }}"


def branched(count: int) -> str:
    return "{% if x %}" + "{% elif x %}" * count + "{% endif %}"


def test_what_just_may_be() -> None:
    assert parts(nested(MAX_DEPTH)) == MAX_DEPTH + 1
    assert parts(branched(MAX_BRANCHES // 2)) == 3 + MAX_BRANCHES
    assert parts("{{ x }}" * (NODES - 2)) == NODES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nested(MAX_DEPTH + 1), f"parts of a template {MAX_DEPTH} deep"),
        (branched(MAX_BRANCHES + 1), f"more than {MAX_BRANCHES} branches"),
        ("{{ x }}" * (NODES - 1), f"a template of more than {NODES} parts"),
    ],
    ids=["deep", "branched", "large"],
)
def test_what_may_not(text: str, said: str) -> None:
    with pytest.raises(TooMuchError, match=said):
        parts(text)
