"""Emitted kernels in tests: op uses to render, modules to import, an interpreter."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import torch
from hypothesis import Phase

from glmc import codegen_templates
from glmc.backends.runtime import ranks, tuning
from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import KeysValues, PerToken
from glmc.backends.triton.registry import render_kernels
from glmc.backends.triton.uses import OpUse
from support import ranges
from support.hasten import hasten

TEMPLATES = Path(codegen_templates.__file__).parent

ENV = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    line_statement_prefix="#%",
)


def norm_use(name: str, width: int = 64, bias: bool = False, **attrs: object) -> OpUse:
    """rms_norm, layer_norm, or one with the residual addition before."""
    operands = frozenset({"bias"} if bias else ())
    return OpUse(name, {"eps": 1e-5, **attrs}, operands, {"weight": (width,)})


def pointwise_use(name: str, fn: str, width: int = 64) -> OpUse:
    """activation or act_mul."""
    operand = "x" if name == "activation" else "gate_up"
    return OpUse(name, {"fn": fn}, shapes={operand: ("B", "T", width)})


def moe_use(
    fn: str = "silu",
    *operands: str,
    experts: int = 8,
    top_k: int = 2,
    width: int = 64,
    ff: int = 48,
    **attrs: object,
) -> OpUse:
    """moe_experts; ``operands`` are biases."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", width),
        "experts": ("B", "T", top_k),
        "gate_up": (experts, 2 * ff, width),
        "down": (experts, width, ff),
    }
    return OpUse("moe_experts", {"fn": fn, **attrs}, frozenset(operands), shapes)


def router_use(
    *operands: str,
    experts: int = 8,
    top_k: int = 2,
    width: int = 64,
    **attrs: object,
) -> OpUse:
    """moe_router; ``operands`` are a bias and a correction."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", width),
        "weight": (experts, width),
    }
    given = {"top_k": top_k, "score": "softmax", **attrs}
    return OpUse("moe_router", given, frozenset(operands), shapes)


def qkv_use(
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    *,
    rotary: int = 0,
    norm: bool = False,
    prefix: bool = False,
    extras: Sequence[str] = (),
    **attrs: object,
) -> OpUse:
    """qkv_attention; ``rotary`` channels turn, none with 0; ``extras`` are operands."""
    given = [
        *extras,
        *(("prefix",) if prefix else ()),
        *(("cos", "sin") if rotary else ()),
        *(("q_norm", "k_norm") if norm else ()),
    ]
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    shapes: dict[str, tuple[int | str, ...]] = {
        "cos": ("B", "T", rotary // 2),
        "kv": (kv_heads, head_dim, head_dim),
    }
    merged = {"scale": head_dim**-0.5, "eps": 1e-6, **sizes, **attrs}
    return OpUse("qkv_attention", merged, frozenset(given), shapes)


def product_use(
    name: str, rows: int = 48, width: int = 64, *operands: str, **attrs: object
) -> OpUse:
    """linear, or a product fused with what is around it; ``operands`` may be absent."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", width),
        "weight": (rows, width),
        "norm": (width,),
    }
    normed = {"eps": 1e-5} if "norm" in name else {}
    return OpUse(name, {**normed, **attrs}, frozenset(operands), shapes)


def coded_use(
    name: str,
    bits: int,
    rows: int = 48,
    width: int = 64,
    *operands: str,
    group: int = 0,
    **attrs: object,
) -> OpUse:
    """A product whose weight is codes; without ``group`` rows have one scale."""
    use = product_use(name, rows, width, *operands, **attrs)
    scale = (rows, width // group) if group else (rows,)
    packed = (rows, width * bits // 8)
    shapes = {**use.shapes, "weight": packed, "scale": scale, "zeros": scale}
    return OpUse(name, {**use.attrs, "bits": bits}, use.operands | {"scale"}, shapes)


def quantized_use(
    bits: int,
    width: int = 64,
    rows: int = 48,
    *,
    bias: bool = False,
    group: int = 0,
    zeros: bool = False,
) -> OpUse:
    """quantized_linear; without ``group`` rows have one scale."""
    given = {"bias": bias, "zeros": zeros}
    names = [name for name, there in given.items() if there]
    return coded_use("quantized_linear", bits, rows, width, *names, group=group)


def attention_use(
    heads: int = 4,
    kv_heads: int = 2,
    k_dim: int = 64,
    v_dim: int = 0,
    *,
    prefix: bool = False,
    extras: Sequence[str] = (),
    **attrs: object,
) -> OpUse:
    """attention on its own, as an unfused model uses it; values are as wide as keys
    where ``v_dim`` is 0, and ``extras`` are operands."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "q": ("B", "T", heads, k_dim),
        "kv": (kv_heads, k_dim, v_dim or k_dim),
    }
    given = frozenset([*extras, *(("prefix",) if prefix else ())])
    return OpUse("attention", {"scale": 0.2, **attrs}, given, shapes)


def latent_uses(
    heads: int = 3,
    nope: int = 12,
    turned: int = 8,
    v_dim: int = 20,
    rank: int = 32,
    *,
    selects: bool = False,
) -> list[OpUse]:
    """latent_attention and the write before it."""
    latents = (rank + turned,)
    written: dict[str, tuple[int | str, ...]] = {
        "latents": latents,
        "latent": ("B", "T", rank),
        "shared": ("B", "T", 1, turned),
    }
    read: dict[str, tuple[int | str, ...]] = {
        "q": ("B", "T", heads, nope + turned),
        "latents": latents,
        "kv_b": (heads * (nope + v_dim), rank),
    }
    given = {"q", "latents", "kv_b", *(["selection"] if selects else [])}
    return [
        OpUse("latent_write", {}, frozenset(written), written),
        OpUse("latent_attention", {"scale": 0.2}, frozenset(given), read),
    ]


def elementwise_use(
    name: str, width: int = 64, gates: int = 0, **attrs: object
) -> OpUse:
    """add, mul, scale, gate or rms_normalize; ``gates`` as many as channels if 0."""
    names = {"add": "xy", "mul": "xy", "gate": "xg"}.get(name, "x")
    sizes = {"x": width, "y": width, "g": gates or width}
    shapes: dict[str, tuple[int | str, ...]] = {
        operand: ("B", "T", sizes[operand]) for operand in names
    }
    return OpUse(name, attrs, shapes=shapes)


def write_use(heads: int = 2, k_dim: int = 64, v_dim: int = 64) -> OpUse:
    """kv_write, as heads of unlike widths need it."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "kv": (heads, k_dim, v_dim),
        "k": ("B", "T", heads, k_dim),
        "v": ("B", "T", heads, v_dim),
    }
    return OpUse("kv_write", {}, shapes=shapes)


def rope_use(
    heads: int = 4, width: int = 64, rotary: int = 64, **attrs: object
) -> OpUse:
    """rope outside attention, of ``rotary`` channels."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", heads, width),
        "cos": ("B", "T", rotary // 2),
        "sin": ("B", "T", rotary // 2),
    }
    return OpUse("rope", {"style": "half", **attrs}, shapes=shapes)


def full_use(heads: int, kv_heads: int, k_dim: int, v_dim: int | None = None) -> OpUse:
    """full_attention of all tokens with all."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "q": ("B", "T", heads, k_dim),
        "k": ("B", "T", kv_heads, k_dim),
        "v": ("B", "T", kv_heads, v_dim or k_dim),
        "mask": ("B", "T"),
    }
    return OpUse("full_attention", {"scale": k_dim**-0.5}, shapes=shapes)


def render(*uses: OpUse) -> str:
    """The text of kernels.py."""
    return render_kernels(uses, ENV)


@cache
def emitted(text: str) -> types.ModuleType:
    """kernels.py imported as part of a package, as in a build."""
    name = f"emitted_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder = Path(tempfile.mkdtemp(prefix="glmc-kernels-")) / "tests" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "reference.py").write_text("def __getattr__(name): return name\n")
    shutil.copy(str(tuning.__file__), folder / "tuning.py")
    shutil.copy(str(ranks.__file__), folder / "ranks.py")
    (folder / "kernels.py").write_text(text, encoding="utf-8")
    for part in ("", ".kernels"):
        file = folder / (f"{part[1:] or '__init__'}.py")
        spec = importlib.util.spec_from_file_location(name + part, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if not part:
            module.__path__ = [str(folder)]
        sys.modules[name + part] = module
        spec.loader.exec_module(module)
    return module


def _triton_modules() -> dict[str, types.ModuleType]:
    """Triton's Python modules; its C extension cannot be loaded twice and stays."""
    return {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "triton" and not name.startswith("triton._C")
    }


_interpreted: dict[str, types.ModuleType] = {}


@contextmanager
def interpreter() -> Iterator[None]:
    """Within it, triton is a second copy that interprets, whoever imported it before.

    Triton decides when its modules are imported; so the copy comes and goes with them.
    """
    usual, flag = _triton_modules(), os.environ.get("TRITON_INTERPRET")
    for name in usual:
        del sys.modules[name]
    sys.modules.update(_interpreted)
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        hasten(importlib.import_module("triton.runtime.interpreter"))
        yield
    finally:
        _interpreted.update(_triton_modules())
        for name in _interpreted:
            sys.modules.pop(name, None)
        sys.modules.update(usual)
        if flag is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = flag


def kernels_of(package: str) -> types.ModuleType:
    """A build's kernels, to interpret a whole model with: in a few large programs.

    Each program costs the interpreter time. Tests of single kernels run shipped tiles.
    """
    kernels = importlib.import_module(f"{package}.kernels")
    tables = vars(kernels)
    if "SPLITS" in tables:
        tables["SPLITS"] = 2
    if "GEMV" in tables:
        tables["GEMV"] = {0: tables["GEMV"][0] | {"ROWS": 64}}
    for name in {"CODE_GEMV", "GROUP_GEMV", "SKINNY", "CODE_SKINNY"} & tables.keys():
        sizes = tables[name].items()
        wide = {"ROWS": 64} | ({"PARTS": 2} if "SKINNY" in name else {})
        tables[name] = {size: {0: tiles[0] | wide} for size, tiles in sizes}
    return kernels


def examples(count: int, **more: Any) -> Callable[[ranges.Test], ranges.Test]:
    """The same ``count`` examples whenever the whole range is tried, not shrunk: the
    interpreter is slow."""
    phases = (Phase.explicit, Phase.generate)
    fixed: dict[str, Any] = {"derandomize": True, "database": None, "phases": phases}
    return ranges.examples(count, **fixed, **more)


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Standard normal values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def filled_cache(
    sizes: tuple[int, ...],
    *,
    batch: int,
    past: int,
    tokens: int,
    dtype: torch.dtype,
    start: Sequence[int] | None = None,
    room: int = 3,
) -> Cache:
    """A cache of keys and values, or of a vector for each token where there is one
    size: ``past`` random slots, NaN where nothing may be read."""
    kept = KeysValues(*sizes) if len(sizes) == 3 else PerToken(*sizes)
    cache = Cache([{"kept": kept}], batch, past + tokens + room, dtype, "cpu")
    (state,) = cache.own
    assert state.slots_dim
    for seed, slots in enumerate(state.tensors().values()):
        slots.fill_(torch.nan)
        old = slots.narrow(state.slots_dim, 0, past)
        old.copy_(random(*old.shape, dtype=dtype, seed=seed))
    cache.length = past
    cache.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return cache
