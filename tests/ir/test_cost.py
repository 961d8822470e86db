"""Bytes and operations of ops, against counting by hand and against torch's counter."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glmc.backends.target import target
from glmc.ir.cost import Call
from glmc.ir.graph import Program
from glmc.ir.op import Op, Result, registry
from glmc.ir.ops import (
    ActMul,
    Add,
    Attention,
    Embedding,
    LatentAttention,
    Linear,
    LinearAdd,
    QkvAttention,
    RmsNorm,
    RmsNormLinear,
)
from glmc.ir.state import KvType, TokenType
from glmc.ir.text import parse_program
from glmc.ir.types import TensorType, Type
from glmc.look.builds import Build
from support import GOLDEN
from support.builds import load

KV = KvType(kv_heads=2, k_dim=8, v_dim=4)


def tensor(*dims: int | str, dtype: str = "f16") -> TensorType:
    return TensorType(dtype=dtype, dims=dims)


def result(type_of: Type) -> Result:
    return Result(name="y", type=type_of)


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
def test_scores_are_the_pairs_of_a_causal_mask(window: int | None) -> None:
    for context, tokens in itertools.product(range(7), range(1, 7)):
        pairs = [
            (query, slot)
            for query in range(context, context + tokens)
            for slot in range(query + 1)
            if window is None or query - slot < window
        ]
        call = Call(tokens=tokens, context=context)
        assert call.scores(window) == len(pairs)
        assert call.slots(window) == len({slot for _, slot in pairs})


def test_a_linear_reads_its_weights_once() -> None:
    op = Linear(x="x", weight="w", bias="b", results=(result(tensor("B", "T", 6)),))
    types = {"x": tensor("B", "T", 5), "weight": tensor(6, 5), "bias": tensor(6)}
    cost = op.cost(types, Call(batch=2, tokens=3))
    assert cost.nbytes == 2 * (2 * 3 * 5 + 6 * 5 + 6 + 2 * 3 * 6)
    assert cost.flops == 2 * (2 * 3) * 5 * 6
    assert cost.dtype == "f16"


def test_an_embedding_reads_no_more_than_its_rows() -> None:
    op = Embedding(ids="i", weight="w", results=(result(tensor("B", "T", 5)),))
    types = {"ids": tensor("B", "T", dtype="i64"), "weight": tensor(1000, 5)}
    cost = op.cost(types, Call(tokens=3))
    assert (cost.nbytes, cost.flops) == (3 * 8 + 2 * 3 * 5 * 2, 0)


def test_attention_reads_the_slots_it_sees() -> None:
    y = result(tensor("B", "T", 4 * 4))
    op = Attention(q="q", kv="kv", scale=1.0, window=10, results=(y,))
    types: dict[str, Type] = {"q": tensor("B", "T", 4, 8), "kv": KV}
    cost = op.cost(types, Call(batch=3, context=100))
    assert cost.nbytes == 3 * 2 * (10 * 2 * (8 + 4) + 4 * 8 + 4 * 4)
    assert cost.flops == 3 * 4 * 10 * 2 * (8 + 4)


def test_qkv_attention_costs_no_more_than_its_parts_write() -> None:
    kv = KvType(kv_heads=1, k_dim=8, v_dim=8)
    op = QkvAttention(
        qkv="x",
        kv="kv",
        heads=2,
        kv_heads=1,
        head_dim=8,
        scale=1.0,
        results=(result(tensor("B", "T", 16)),),
    )
    types: dict[str, Type] = {"qkv": tensor("B", "T", 32), "kv": kv}
    cost = op.cost(types, Call(context=9))
    # qkv, the context, one slot written, ten slots read; keys and values of 8 each.
    assert cost.nbytes == 2 * (32 + 16 + 16 + 10 * 16)
    assert cost.flops == 2 * 10 * 2 * (8 + 8)
    # A token in one launch, a prompt in two.
    assert target("cuda").launches(["qkv_attention"], tokens=1) == 1
    assert target("cuda").launches(["qkv_attention"], tokens=2) == 2


def test_latent_attention_takes_the_cheaper_way() -> None:
    """8 latent and 4 turned channels cached; 3 heads of 5 + 4, values of 6."""
    latents = TokenType(sizes=(8 + 4,))
    types: dict[str, Type] = {"q": tensor("B", "T", 3, 9), "latents": latents}
    types["kv_b"] = tensor(3 * (5 + 6), 8)
    y = result(tensor("B", "T", 3 * 6))
    op = LatentAttention(q="q", latents="c", kv_b="w", scale=1.0, results=(y,))
    decode = op.cost(types, Call(batch=2, context=99))
    assert decode.nbytes == 2 * (2 * (100 * 12 + 27 + 18) + 33 * 8)
    # Each query and context times its half of kv_b; 12 and 8 channels for each slot.
    assert decode.flops == 2 * 2 * (33 * 8 + 3 * 100 * (12 + 8))
    # All latents times kv_b; 9 and 6 channels for each pair.
    prompt = op.cost(types, Call(batch=2, tokens=100))
    assert prompt.flops == 2 * 2 * (100 * 33 * 8 + 3 * 5050 * (9 + 6))


@pytest.fixture(scope="module")
def build(compiled: Callable[[Path], Path]) -> Build:
    return Build(compiled(GOLDEN / "chatglm3"))


def test_products_are_what_torch_counts(build: Build) -> None:
    """The reference runs under torch's counter; linears are its mm and addmm."""
    model = load(build.path, GOLDEN / "chatglm3")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor([[5, 6, 7], [7, 6, 5]]), logits_to_keep=3)
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    assert set(counts) >= {"aten.mm", "aten.addmm"}
    products = parse_program(build.dump("act-mul"))
    assert flops_of(products, Linear) == counts["aten.mm"] + counts["aten.addmm"]


def flops_of(program: Program, *kinds: type[Op]) -> int:
    """Of all ops of some kinds in a call of two rows of three tokens."""
    return sum(
        op.cost(program.operand_types(graph, op), Call(batch=2, tokens=3)).flops
        * (len(graph.layers) or 1)
        for graph in program.graphs
        for op in graph.ops
        if isinstance(op, kinds)
    )


def test_fused_products_do_what_their_parts_do(build: Build) -> None:
    parts = (Linear, RmsNorm, Add, ActMul)
    before = flops_of(parse_program(build.dump("act-mul")), *parts)
    assert flops_of(build.program, RmsNormLinear, LinearAdd) == before


def test_every_op_of_a_model_costs_something_unless_it_is_a_view(build: Build) -> None:
    for stage in list(build.stages)[1:]:
        program = parse_program(build.dump(stage))
        for graph, op in ((g, op) for g in program.graphs for op in g.ops):
            cost = op.cost(program.operand_types(graph, op), Call(2, 3, 4))
            assert (cost.nbytes > 0) == (not op.is_view)
            assert cost.flops >= 0


def test_every_op_that_multiplies_says_so() -> None:
    wide = {name for name, op in registry().items() if op.multiplies}
    assert wide >= {"linear", "attention", "qkv_attention"}
