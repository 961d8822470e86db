"""Ops with kernels and without: told for every op, and as it is emitted."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from types import ModuleType

import pytest

import glmc.ir.ops  # noqa: F401  registers the ops
from glmc.backends.ledger import Place
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
    norm_use,
    product_use,
    qkv_use,
    quantized_use,
    render,
    router_use,
)

Interpreted = Callable[..., ModuleType]

NOT_WRITTEN = frozenset(
    {"block_attention", "block_select", "index_select", "normalised_linear"}
    | {"spread_streams", "gather_streams", "expert_queries", "expert_outputs"}
    # What works element by element, where no fusion takes it.
    | {"add_bias", "scale_by", "scale_heads"}
    | {"scale_experts", "clamp", "clamped_glu", "concat", "cut_below", "mix_streams"}
    | {"correct_streams", "add_to_others", "xielu"}
    | {"layer_norm_heads", "layer_normalize", "token_write"}
    # Mixers.
    | {"step_size", "decay", "bounded_decay", "l2_normalize"}
    | {"sigmoid", "scale_each", "add_skip"}
    | {"same"}
    # Streams and rates.
    | {"hyper_read", "hyper_write", "hyper_head", "mean_streams", "grouped_linear"}
    | {
        "pair_values",
        "difference",
        "mix_snapshots",
        "snapshot",
        "pool_tokens",
        "pool_write",
        "pool_select",
        "pooled_attention",
    }
    # Of models that are dealt to ranks.
    | {"square_sum", "rms_norm_part", "own_experts", "own_weights"}
)
"""Ops that each layer launches, for which somebody has yet to write a kernel."""

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


def test_what_runs_once_a_call_is_left_to_torch_and_what_each_layer_runs_is_not() -> (
    None
):
    uses = [OpUse("clamp"), OpUse("clamp", once=True)]
    each, once = places(uses)
    assert each == Place("reference", "clamp: no kernel is written for it")
    assert once == Place("torch", "runs once a call, and not in each layer")


def test_nothing_that_works_on_elements_is_torchs_by_design() -> None:
    views = {name for name, cls in registry().items() if cls.is_view}
    once = {
        "made once a call, for all layers",
        "what ranks tell each other, by torch.distributed",
    }
    rows = {"embedding", "quantized_embedding", "add_table", "own_rows"}
    for op, why in placement.TORCH.items():
        assert op in views | rows or why in once, op


def told(uses: list[OpUse], op: str) -> list[Place]:
    """Return where each use of an op runs."""
    found = zip(uses, places(uses), strict=True)
    return [place for use, place in found if use.name == op]


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_kernel_takes_says_why(what: str) -> None:
    op, why, uses, taken = REFUSED[what]
    place = told(uses, op)[-1]
    assert why in place.reason
    assert place.where == ("torch" if op == "linear" else "reference")
    assert place.where == "torch" or place.reason.startswith(f"{op}: ")
    if taken:
        assert set(told(taken, op)) == {Place("kernel")}
        assert "reference import" not in render(*taken)
        assert "import reference" not in render(*taken)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_told_is_what_is_emitted(what: str) -> None:
    _, _, uses, taken = REFUSED[what]
    for given in filter(None, (uses, taken)):
        text = render(*given)
        for op in {use.name for use in given}:
            found = {place.where for place in told(given, op)}
            assert (f"def {op}(" in text) == ("kernel" in found)
            beside = len(found) > 1
            assert (f"reference.{op}" in text) == beside
            assert (f"from .reference import {op}" in text) == ("kernel" not in found)


ODD: dict[str, tuple[OpUse, OpUse, dict[str, object], dict[str, object]]] = {
    "a wide head": (
        qkv_use(4, 2, 64),
        qkv_use(4, 2, 1024),
        {"head_dim": 64},
        {"head_dim": 1024},
    ),
    "chunks and a prefix": (
        qkv_use(chunk=8),
        qkv_use(chunk=8, prefix=True),
        {"head_dim": 64, "prefix": None},
        {"head_dim": 64, "prefix": 3},
    ),
    "a window and none": (
        qkv_use(window=4),
        qkv_use(),
        {"head_dim": 64, "window": 4},
        {"head_dim": 64, "window": None},
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_layer_does_not_take_the_others_with_it(
    what: str, interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call goes where its layer's place says."""
    usual, odd, *calls = ODD[what]
    module = interpreted(usual, odd)
    went: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *operands, **given: went.append(name)

    reference = types.SimpleNamespace(qkv_attention=note("reference"))
    monkeypatch.setattr(module, "reference", reference, raising=False)
    table = getattr(module, "QKV_ATTENTION_FORMS", {})
    for key, launcher in table.items():
        kind = "kernel" if isinstance(launcher, types.FunctionType) else "reference"
        monkeypatch.setitem(table, key, note(kind))
    monkeypatch.setattr(module, "_qkv_attention", note("kernel"), raising=False)
    for given in calls:
        sizes = {"heads": 4, "kv_heads": 2, "scale": 1.0}
        module.qkv_attention(None, None, **sizes, **given)
    assert went == [place.where for place in places([usual, odd])]


def test_experts_of_two_forms_have_kernels_each() -> None:
    uses = [moe_use(), moe_use(weigh="input"), moe_use("gelu")]
    assert set(told(uses, "moe_experts")) == {Place("kernel")}
    text = render(*uses)
    assert "MOE_EXPERTS_FORMS = {" in text
    for kernel in ("silu", "silu_input", "gelu"):
        assert f"def moe_gate_up_{kernel}_kernel(" in text


def test_what_an_op_gets_that_no_kernel_knows_is_seen() -> None:
    """An attribute that is added to an op is not passed over by its kernels."""
    use = norm_use("rms_norm", squared=True)
    (place,) = places([use])
    assert place == Place("reference", "rms_norm: no kernel takes its squared")
    assert "from .reference import rms_norm" in render(use)


def test_a_kernel_of_ones_own_is_told_as_such() -> None:
    uses = [OpUse("index_select"), qkv_use(8, 2, 1024)]
    found = places(uses, own=["index_select"])
    assert [place.where for place in found] == ["own", "reference"]


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
        (place,), specs = places([use]), aot_specs(render(use), [use], dtype)
        assert bool(specs) == (place.where == "kernel") == (width <= 512)
        assert (str(width) in place.reason) == (width > 512)


def test_each_group_gets_specifications_or_a_reason() -> None:
    where = {}
    for bits, group in itertools.product((4, 8), GROUPS):
        use = quantized_use(bits, 1920, group=group)
        (place,) = places([use])
        specs = aot_specs(render(use), [use], "bf16")
        assert bool(specs) == (place.where == "kernel")
        assert (f"groups of {group} " in place.reason) != bool(specs)
        where[bits, group] = place.where
    # Rows of 1920 codes: tiles of 128 columns for 4 bits, and of 64 for 8.
    fit = {bits: {g for b, g in where if b == bits and where[b, g] == "kernel"}
           for bits in (4, 8)}  # fmt: skip
    assert fit == {4: {16, 32, 64, 128}, 8: {16, 32, 64, 128, 960}}


def test_an_unknown_target_or_dtype_is_refused() -> None:
    with pytest.raises(UnknownDeviceError, match=r"hip:gfx803.*can be compiled for"):
        parse_targets(["hip:gfx803"])
    with pytest.raises(KernelDtypeError, match=r"'f64'.*f32, f16, bf16"):
        aot_specs("", [qkv_use()], "f64")
