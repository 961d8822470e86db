"""The interpreting copy of Triton leaves no trace in other tests of the process."""

from __future__ import annotations

import os
import sys

import triton

from support.kernels import interpreter


def kernel() -> None: ...


def test_it_comes_and_goes() -> None:
    flag = os.environ.get("TRITON_INTERPRET")
    for _ in range(2):
        with interpreter():
            assert sys.modules["triton"] is not triton
            made = sys.modules["triton"].jit(kernel)
            assert type(made).__name__ == "InterpretedFunction"
        assert sys.modules["triton"] is triton
        assert type(triton.jit(kernel)).__name__ == "JITFunction"
        assert os.environ.get("TRITON_INTERPRET") == flag
