"""What has kernels and what has none: told for every op, and as it is emitted."""

from __future__ import annotations

import itertools

import pytest

import glmc.ir.ops  # noqa: F401  registers the ops
from glmc.backends.triton import placement
from glmc.backends.triton.registry import KERNELS, aot_specs, places
from glmc.backends.triton.targets import LIMITS, parse_targets
from glmc.backends.triton.uses import OpUse
from glmc.ir.errors import KernelDtypeError, UnknownDeviceError
from glmc.ir.op import registry
from support.kernels import (
    attention_use,
    full_use,
    latent_uses,
    moe_use,
    product_use,
    qkv_use,
    quantized_use,
    render,
    router_use,
)

NOT_WRITTEN = frozenset(
    {"block_attention", "block_select", "index_select", "normalised_linear"}
    | {"spread_streams", "gather_streams", "expert_queries", "expert_outputs"}
)
"""Ops that read matrices or the cache, for which somebody has yet to write a kernel."""

DTYPES = ("f32", "f16", "bf16")
HEAD_DIMS = (17, 80, 96, 192, 256, 512, 1024)
GROUPS = (4, 8, 16, 20, 24, 32, 48, 64, 96, 128, 960)


def test_of_every_op_it_is_known_whether_it_has_a_kernel() -> None:
    ops = set(registry())
    assert ops - set(KERNELS) - set(placement.TORCH) == NOT_WRITTEN
    assert set(placement.TORCH) <= ops
    assert not set(KERNELS) & set(placement.TORCH)


def latent(**sizes: int) -> OpUse:
    """latent_attention with other sizes than the usual."""
    return latent_uses(**sizes)[1]


# What no kernel takes, and its neighbour that one takes: op, why, uses, uses.
REFUSED: dict[str, tuple[str, str, list[OpUse], list[OpUse]]] = {
    "a wide head": (
        "qkv_attention",
        "heads of 512 channels at most, not of 513",
        [qkv_use(8, 2, 513)],
        [qkv_use(8, 2, 512)],
    ),
    "a wide head, of another layer": (
        "attention",
        "not of 1024",
        [attention_use(4, 2, 64), attention_use(4, 2, 1024)],
        [attention_use(4, 2, 64), attention_use(4, 2, 512)],
    ),
    "a wide head of an encoder": (
        "full_attention",
        "not of 640",
        [full_use(4, 4, 640)],
        [full_use(4, 4, 64)],
    ),
    "chunks and a prefix": (
        "qkv_attention",
        "no kernel takes chunks together with prefix",
        [qkv_use(chunk=8, prefix=True)],
        [qkv_use(chunk=8)],
    ),
    "groups across tiles": (
        "quantized_linear",
        "groups of 20 columns do not fit the tiles of 32 that kernels read from rows",
        [quantized_use(4, 480, group=20)],
        [quantized_use(4, 480, group=32)],
    ),
    "rows that fill no word": (
        "quantized_linear",
        "rows of 60 codes do not fill words",
        [quantized_use(4, 60)],
        [quantized_use(4, 64)],
    ),
    "experts": (
        "moe_experts",
        "no kernel takes its norm, skipped",
        [moe_use("silu", "norm", skipped=3)],
        [moe_use(skipped=0)],
    ),
    "a clamp": (
        "moe_experts",
        "no kernel clamps silu without an alpha",
        [moe_use(limit=7.0)],
        [moe_use(limit=7.0, alpha=1.7)],
    ),
    "experts of two forms": (
        "moe_experts",
        "its 2 kinds of layer differ in form",
        [moe_use(), moe_use(weigh="input")],
        [moe_use(), moe_use("gelu")],
    ),
    "many experts": (
        "moe_router",
        "among 1024 experts at most, not 2048",
        [router_use(experts=2048)],
        [router_use(experts=1024)],
    ),
    "wide latents": (
        "latent_attention",
        "latents of 512 channels at most, not of 576",
        [latent(rank=576)],
        [latent(rank=512)],
    ),
    "an encoder": (
        "linear",
        "an encoder multiplies all tokens",
        [product_use("linear"), full_use(4, 4, 64)],
        [product_use("linear")],
    ),
    "not written": (
        "index_select",
        "no kernel is written for it",
        [OpUse("index_select")],
        [],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_kernel_takes_says_why(what: str) -> None:
    op, why, uses, taken = REFUSED[what]
    place = places(uses)[op]
    assert why in place.reason
    assert place.where == ("torch" if op == "linear" else "reference")
    assert place.where == "torch" or place.reason.startswith(f"{op}: ")
    if taken:
        assert places(taken)[op] == placement.Place("kernel")
        assert "from .reference" not in render(*taken)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_told_is_what_is_emitted(what: str) -> None:
    _, _, uses, taken = REFUSED[what]
    for given in filter(None, (uses, taken)):
        text, told = render(*given), places(given)
        for use in given:
            here = f"def {use.name}(" in text
            assert here == (told[use.name].where == "kernel")


def test_a_kernel_of_ones_own_is_told_as_such() -> None:
    uses = [OpUse("index_select"), qkv_use(8, 2, 1024)]
    found = places(uses, own=["index_select"])
    assert found["index_select"].where == "own"
    assert found["qkv_attention"].where == "reference"


def test_each_target_dtype_and_head_gets_specifications_or_a_reason() -> None:
    assert [target.name for target in parse_targets(LIMITS)] == list(LIMITS)
    for width, dtype, name in itertools.product(
        HEAD_DIMS, DTYPES, ("qkv_attention", "attention", "full_attention")
    ):
        use = {
            "qkv_attention": qkv_use(8, 2, width, rotary=16),
            "attention": attention_use(8, 2, width),
            "full_attention": full_use(8, 8, width),
        }[name]
        place, specs = places([use])[name], aot_specs(render(use), [use], dtype)
        assert bool(specs) == (place.where == "kernel") == (width <= 512)
        assert (str(width) in place.reason) == (width > 512)


def test_each_group_gets_specifications_or_a_reason() -> None:
    told = {}
    for bits, group in itertools.product((4, 8), GROUPS):
        use = quantized_use(bits, 1920, group=group)
        place = places([use])["quantized_linear"]
        specs = aot_specs(render(use), [use], "bf16")
        assert bool(specs) == (place.where == "kernel")
        assert (f"groups of {group} " in place.reason) != bool(specs)
        told[bits, group] = place.where
    # Rows of 1920 codes: tiles of 128 columns for 4 bits, and of 64 for 8.
    fit = {bits: {g for b, g in told if b == bits and told[b, g] == "kernel"}
           for bits in (4, 8)}  # fmt: skip
    assert fit == {4: {16, 32, 64, 128}, 8: {16, 32, 64, 128, 960}}


def test_an_unknown_target_or_dtype_is_refused() -> None:
    with pytest.raises(UnknownDeviceError, match=r"hip:gfx803.*can be compiled for"):
        parse_targets(["hip:gfx803"])
    with pytest.raises(KernelDtypeError, match=r"'f64'.*f32, f16, bf16"):
        aot_specs("", [qkv_use()], "f64")
