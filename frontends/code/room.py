"""Room for texts that call within calls: a thread with a deep stack of its own."""

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_STACK = 512 << 20
_FRAMES = 40_000
"""A call of a text takes some thirty frames of the reader; 80 are allowed."""


def roomy(function: Callable[[], T]) -> T:
    """Call a function where deep texts have room; gives or raises what it does."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.extend((True, function()))
        except BaseException as error:
            found.extend((False, error))

    size, frames = threading.stack_size(_STACK), sys.getrecursionlimit()
    sys.setrecursionlimit(max(frames, _FRAMES))
    try:
        thread = threading.Thread(target=run, name="text")
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
        sys.setrecursionlimit(frames)
    fine, result = found
    if not fine:
        raise result
    value: T = result
    return value
