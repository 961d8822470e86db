"""Calls of single C++ kernels: tensors in, tensors out.

The harness is compiled once for each set of instructions and dtype, from the headers of
``codegen_templates/cpu`` as they are, or with a planted mistake.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glmc.backends.runtime import engine, native
from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.instructions import LEVELS, flags
from glmc.backends.runtime.packed import PackedWeight
from glmc.backends.runtime.state import KvState

HEADERS = Path(native.__file__).parents[2] / "codegen_templates" / "cpu"
HARNESS = Path(__file__).parent / "harness.cpp"
FUNCTIONS = (
    *("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "tanh"),
    *("sigmoid", "softplus"),
)
STYLES = ("half", "interleaved")
Mistake = tuple[str, str, str]
"""A header, a text of it, and what stands there instead."""


class View(ctypes.Structure):
    """Rows of the harness."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
    )


class KeysValues(ctypes.Structure):
    """The struct of this name in `attention.h`."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("heads", ctypes.c_int),
        ("key_width", ctypes.c_int),
        ("value_width", ctypes.c_int),
        ("value_stride", ctypes.c_int),
    )


class Attention(ctypes.Structure):
    """The options of attention."""

    _fields_ = (
        ("prefix", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("sinks", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int),
        ("learned", ctypes.c_int),
        ("chunk", ctypes.c_int),
        ("softcap", ctypes.c_float),
    )


class Router(ctypes.Structure):
    """The options of a router; numbers stand for words as its header numbers them."""

    _fields_ = (
        ("bias", ctypes.c_void_p),
        ("correction", ctypes.c_void_p),
        ("top_k", ctypes.c_int),
        ("softcap", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("score", "after", "groups", "top_groups")),
        *((name, ctypes.c_int) for name in ("group_score", "ineligible")),
        ("renormalise", ctypes.c_bool),
        *((name, ctypes.c_float) for name in ("least_sum", "sum_eps", "scale")),
    )


SCORES = (*FUNCTIONS, "softmax", "sqrt_softplus", "logit")


class Experts(ctypes.Structure):
    """The options of experts."""

    _fields_ = (
        ("gate_up_bias", ctypes.c_void_p),
        ("down_bias", ctypes.c_void_p),
        ("fn", ctypes.c_int),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
        ("weigh", ctypes.c_int),
        ("gated", ctypes.c_bool),
    )


class LatentAttention(ctypes.Structure):
    """The options of attention over latents."""

    _fields_ = (
        ("bias", ctypes.c_void_p),
        ("sinks", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int),
    )


def levels() -> list[str]:
    """The sets of instructions that this machine has, the best first."""
    return [n for n, needs in LEVELS.items() if native.features() >= {*needs}]


@functools.cache
def compiled(level: str, dtype: torch.dtype, mistake: Mistake | None = None) -> Kernels:
    """The harness for a set of instructions."""
    folder = Path(tempfile.mkdtemp(prefix="kernels"))
    for header in HEADERS.glob("*.h"):
        shutil.copy(header, folder)
    if mistake:
        file, text, wrong = mistake
        before = (folder / file).read_text()
        assert before.count(text) == 1, f"{file} has {text!r} not once"
        (folder / file).write_text(before.replace(text, wrong))
    shutil.copy(HARNESS, folder)
    out = folder / "harness.so"
    arguments = [*flags(level, native.DTYPES[dtype]), str(folder / "harness.cpp")]
    subprocess.run([native.compiler(), *arguments, "-o", str(out)], check=True)
    kernels = Kernels(ctypes.CDLL(str(out)), dtype)
    shutil.rmtree(folder)
    return kernels


class Kernels:
    """The kernels of a library; values are float32 [B, T, ...]."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.library = library
        self.dtype = dtype
        self.threads = 1

    def call(
        self,
        name: str,
        values: Sequence[torch.Tensor],
        *more: Any,
        cache: Cache | None = None,
        **given: Any,
    ) -> None:
        """Calls a kernel with views of values; the first ones are its results."""
        batch, tokens = values[0].shape[:2]
        views = (View * len(values))()
        for view, value in zip(views, values, strict=True):
            assert value.is_contiguous()
            width = value[0, 0].numel()
            heads = value.shape[2] if value.dim() == 4 else 1
            view.data, view.width, view.heads = value.data_ptr(), width, heads
        arguments = engine.Arguments(
            batch=batch, tokens=tokens, threads=self.threads, keep=tokens, **given
        )
        if cache is not None:
            arguments.past, arguments.capacity = cache.length, cache.capacity
            if cache.start is not None:
                arguments.start = cache.start.data_ptr()
        function = getattr(self.library, f"try_{name}")
        function(ctypes.byref(arguments), views, *map(_argument, more))

    def weight(self, weight: torch.Tensor, kind: str = "blocks") -> PackedWeight:
        """Packs a copy of a weight."""
        return PackedWeight.pack(weight.clone(), kind, self.library)

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`x @ weight.T + bias`."""
        y = torch.full((*x.shape[:2], weight.shape[0]), torch.nan)
        packed = self.weight(weight)
        self.call("linear", [y, x], packed.blocks, len(weight), bias)
        return y

    def attention(
        self,
        q: torch.Tensor,
        cache: Cache,
        *,
        prefix: torch.Tensor | None = None,
        slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        scale: float,
        **numbers: Any,
    ) -> torch.Tensor:
        """`ops.attention` of the newest slots."""
        kv = kept_of(cache)
        options = Attention(scale=scale, **numbers)
        tensors = {"prefix": prefix, "slopes": slopes, "sinks": sinks}
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(options, name, tensor.data_ptr())
        width = q.shape[2] * kv.values.shape[-1]
        y = torch.full((*q.shape[:2], width), torch.nan)
        self.call("attention", [y, q], self.kept(cache), options, cache=cache)
        return y

    def kept(self, cache: Cache) -> KeysValues:
        """The keys and values of a cache with one layer."""
        kv = kept_of(cache)
        heads, _, width = kv.keys.shape[1:]
        places = kv.keys.data_ptr(), kv.values.data_ptr()
        own = kv.values.shape[-1]
        return KeysValues(*places, heads, width, own, own)


def kept_of(cache: Cache) -> KvState:
    """The keys and values of a cache with one layer."""
    (kv,) = cache.own
    assert isinstance(kv, KvState)
    return kv


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_int64(value) if isinstance(value, int) else value
