"""The interpreter's quicker look-ups change nothing that a kernel computes."""

from __future__ import annotations

import importlib
import sys

import torch

from support.hasten import CHANGED
from support.kernels import emitted, interpreter, pointwise_use, render


def test_the_interpreter_has_what_is_changed() -> None:
    """Else this Triton needs another change, and the tests are slow until then."""
    with interpreter():
        made = importlib.import_module("triton.runtime.interpreter")
        assert made.hastened
        assert all(hasattr(made, name) for name in CHANGED)


def test_the_language_is_as_it_was_after_a_launch() -> None:
    kernels = {}
    with interpreter():
        language = sys.modules["triton.language"]
        before = dict(vars(language))
        module = emitted(render(pointwise_use("activation", "silu", 40)))
        x = torch.randn(3, 40)
        kernels["silu"] = module.activation(x, fn="silu")
        assert dict(vars(language)) == before
    torch.testing.assert_close(kernels["silu"], torch.nn.functional.silu(x))
