"""Templates may be as large, as deep and as branched as the limits say, and no more."""

from __future__ import annotations

import pytest

from glmc.backends.runtime.tokenizer import watching
from glmc.backends.runtime.tokenizer.budget import TooMuchError
from glmc.backends.runtime.tokenizer.watching import _descend

NODES, DEPTH, BRANCHES = 1100, 200, 500


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
    assert parts(nested(DEPTH)) == DEPTH + 1
    assert parts(branched(BRANCHES)) == 3 + 2 * BRANCHES
    assert parts("{{ x }}" * (NODES - 2)) == NODES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nested(DEPTH + 1), f"parts of a template {DEPTH} deep"),
        (branched(BRANCHES + 1), f"more than {BRANCHES} branches"),
        ("{{ x }}" * (NODES - 1), f"a template of more than {NODES} parts"),
    ],
    ids=["deep", "branched", "large"],
)
def test_what_may_not(text: str, said: str) -> None:
    with pytest.raises(TooMuchError, match=said):
        parts(text)
