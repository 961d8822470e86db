"""Quantised weights in the IR: what rows allow, and what the pass refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from glmc.backends.torch.execute import compare
from glmc.backends.triton.passes import products
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.ledger import Entry
from glmc.ir.lower import lower
from glmc.ir.passes import Stage
from glmc.ir.passes.rewrite import Fusion, Rule
from glmc.ir.recipe import tensors
from glmc.ir.text import parse_program, print_program
from glmc.ir.verify import VerifyError, verify
from support.models import chatglm
from support.stages import run

TOLERANCE = 1e-4


def stored(model: m.Model, storage: m.Storage, layout: str | None = None) -> m.Model:
    """The model with the matrices of its layers stored so; ``layout`` is for qkv."""
    (block,) = model.blocks
    steps = []
    for step in block.steps:
        changes: dict[str, Any] = {}
        for name, value in step.op:
            if isinstance(value, m.Projection):
                update: dict[str, Any] = {"storage": storage}
                if layout and name in ("q", "k", "v"):
                    update["layout"] = layout
                weight = value.weight.model_copy(update=update)
                changes[name] = value.model_copy(update={"weight": weight})
                if layout and value.bias:
                    changes[name] = changes[name].model_copy(update={"bias": None})
        op = step.op.model_copy(update=changes)
        steps.append(step.model_copy(update={"op": op}))
    return model.model_copy(
        update={
            "blocks": (block.model_copy(update={"steps": tuple(steps)}),),
            "dtype": "f32",
        }
    )


def ledger(model: m.Model) -> list[Entry]:
    return list(kept(list(run(lower(model)))).ledger)


def kept(stages: list[Stage]) -> Stage:
    """Return what keep-quantized left."""
    return next(stage for stage in stages if stage.name == "keep-quantized")


def groups(packing: str, bits: int = 4, **more: Any) -> m.Storage:
    fields = {"packing": packing, "bits": bits, "group": 16, **more}
    return m.GroupQuantized.model_validate(fields)


STORAGES = [
    m.RowQuantized(bits=4),
    m.RowQuantized(bits=8),
    m.BlockQuantized(),
    m.BlockQuantized(block="row"),
    m.BlockQuantized(block="matrix"),
    groups("gptq", zeros=True),
    groups("gptq_v2", 8, zeros=True, ordered=False),
    groups("awq", zeros=True),
    groups("packed", 8, group=None),
    groups("plain", 8, zeros=True),
]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_every_stage_computes_the_same(storage: m.Storage) -> None:
    programs = [stage.program for stage in run(lower(stored(chatglm(), storage)))]
    assert max(compare(programs)) <= TOLERANCE


@pytest.mark.parametrize(
    "storage", [m.RowQuantized(bits=4), groups("gptq", zeros=True)], ids=str
)
def test_codes_fuse_as_floats_do(storage: m.Storage) -> None:
    final = list(run(lower(stored(chatglm(), storage))))[-1].program
    ops = final.blocks[0].ops
    assert [op.mnemonic for op in ops] == [
        "rms_norm_linear",
        "qkv_attention",
        "linear_add",
        "rms_norm_linear",
        "linear_add",
    ]
    assert all(op.attributes()["bits"] == 4 for op in ops if "linear" in op.mnemonic)


@pytest.mark.parametrize(
    ("fusion", "old", "new"),
    [
        (products.LINEAR_ADD, "zeros=@zeros, ", ""),
        (products.RMS_NORM_LINEAR, "zeros=@zeros, ", ""),
        (products.LINEAR_ACT, "zeros=@zeros, ", ""),
    ],
)
def test_a_fusion_that_loses_zero_points_is_caught(
    fusion: Fusion, old: str, new: str
) -> None:
    """The control of the checks above."""
    before = lower(stored(chatglm(), groups("gptq", zeros=True)))
    for stage in run(before):
        if stage.name == fusion.name:
            break
        before = stage.program
    rules = [Rule(rule.match, rule.replace.replace(old, new)) for rule in fusion.rules]
    after, entries = replace(fusion, rules=tuple(rules)).run(before)
    assert any(entry.status == "applied" for entry in entries)
    assert max(compare([before, after])) > TOLERANCE


def test_a_scale_without_codes_is_refused() -> None:
    final = list(run(lower(stored(chatglm(), m.RowQuantized(bits=8)))))[-1].program
    text = print_program(final)
    bare = re.sub(r"(= \w*linear\w*\(.*), bits=8", r"\1", text)
    assert bare != text
    with pytest.raises(VerifyError, match="scale goes with codes, which have bits"):
        verify(parse_program(bare))


# As ChatGLM-6B has it: q, k and v of one head beside each other, taken apart by rows.
PER_HEAD = "(K [q:(G D)|k:D|v:D]) E"


@pytest.mark.parametrize("layout", [None, PER_HEAD])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_that_are_taken_apart_keep_their_scales(
    bits: int, layout: str | None
) -> None:
    model = stored(chatglm(), m.RowQuantized.model_validate({"bits": bits}), layout)
    stages = list(run(lower(model)))
    assert {entry.status for entry in kept(stages).ledger} == {"applied"}
    block = stages[-1].program.blocks[0]
    codes, scale = block.param("qkv"), block.param("qkv_scale")
    assert codes is not None
    assert scale is not None
    assert codes.type.dims == (128, 32 * bits // 8)
    assert scale.type.dims == (128,)
    sources = [tensor.name for tensor in tensors(scale.recipe)]
    stem = "encoder.layers.{i}.qkv.weight"
    assert set(sources) == {stem, f"{stem}_scale"}
    assert max(compare([stage.program for stage in stages])) <= TOLERANCE


def test_a_transposed_matrix_is_made_at_load_time() -> None:
    """Its scales belong to columns of the product, not to rows of it."""
    layout = "E [q:(H D)|k:(K D)|v:(K D)]"
    model = stored(chatglm(), m.RowQuantized(bits=8), layout)
    refused = [entry for entry in ledger(model) if entry.status == "refused"]
    assert [entry.reason for entry in refused] == ["it is stored transposed"]
    programs = [stage.program for stage in run(lower(model))]
    assert max(compare(programs)) <= TOLERANCE


def test_a_part_of_floats_makes_the_whole_at_load_time() -> None:
    model = stored(chatglm(), m.RowQuantized(bits=8))
    (block,) = model.blocks
    attention, *rest = block.steps
    op = attention.op
    assert isinstance(op, m.Attention)
    plain = op.q.weight.model_copy(
        update={"storage": None, "tensor": "q.{i}.weight", "layout": None, "part": None}
    )
    op = op.model_copy(update={"q": m.Projection(weight=plain, bias=op.q.bias)})
    steps = (attention.model_copy(update={"op": op}), *rest)
    block = block.model_copy(update={"steps": steps})
    entries = ledger(model.model_copy(update={"blocks": (block,)}))
    assert "a part of it is stored as floats" in {entry.reason for entry in entries}


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (groups("gptq", zeros=True, ordered=False), "desc_act"),
        (groups("plain", 8, group=24), "groups of 24 do not divide rows of 32 codes"),
        (groups("plain", 8, group=4), "groups of 4 do not fit the tiles of 32 codes"),
    ],
)
def test_groups_that_no_kernel_reads_are_made_at_load_time(
    storage: m.Storage, reason: str
) -> None:
    refused = {e.reason for e in ledger(stored(chatglm(), storage)) if e.reason}
    assert any(reason in text for text in refused), refused


def test_floats_have_no_candidates() -> None:
    assert [entry.status for entry in ledger(chatglm())] == ["absent"]


def test_rows_that_do_not_fill_bytes_are_refused() -> None:
    model = chatglm().model_copy(update={"hidden": 33})
    with pytest.raises(GlmcError, match="rows of 33 weights, which do not fill"):
        lower(stored(model, m.RowQuantized(bits=4)))
