"""Kernels run interpreted here, and only while a test that asks for it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from glmc.backends.triton.uses import OpUse
from support import kernels


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[..., ModuleType]]:
    """Render the kernels of some op uses and import them for the interpreter."""

    def get(*uses: OpUse, edit: Callable[[str], str] = str) -> ModuleType:
        return kernels.emitted(edit(kernels.render(*uses)))

    with kernels.interpreter():
        yield get
