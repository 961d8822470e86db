"""Quantised weights in the IR: what rows allow, and what the pass refuses."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.backends.torch.execute import compare
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from glmc.ir.passes import Stage, run
from glmc.ir.passes.ledger import Entry
from glmc.ir.recipe import tensors
from support.models import chatglm

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
    """What keep-quantized left."""
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
