"""The part of a range that `make test` tries; `make test-slow` tries all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings

WHOLE = "whole"
"""The profile of hypothesis with which ranges are tried as far as they go."""

Test = Callable[..., Any]
Value = TypeVar("Value")


def examples(count: int, **more: Any) -> Callable[[Test], Test]:
    """Mark a property test: ``count`` examples with the profile WHOLE, else an eighth.

    ``more`` are settings of hypothesis.
    """
    whole = settings.get_current_profile_name() == WHOLE
    wanted = count if whole else max(2, count // 8)
    chosen = settings(max_examples=wanted, deadline=None, **more)
    return lambda test: pytest.mark.ranges(chosen(test))


def every(step: int, values: Iterable[Value]) -> Iterable[Value]:
    """All values of a property test with the profile WHOLE, else one in ``step``."""
    whole = settings.get_current_profile_name() == WHOLE
    return islice(values, 0, None, 1 if whole else step)


def first(count: int, cases: Sequence[Any]) -> list[Any]:
    """The cases of a test of which every run tries the ``count`` first, as they show
    that the kind is caught; the others are slow."""
    return [*cases[:count], *map(_slow, cases[count:])]


def turned(files: Iterable[Path], turn: int) -> dict[Path, int]:
    """Map files to their places in an order that begins with another one each turn."""
    order = sorted(set(files))
    return {file: (at - turn) % len(order) for at, file in enumerate(order)}


def _slow(case: Any) -> Any:
    values = case if type(case) is tuple else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
