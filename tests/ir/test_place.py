"""Programs of several ranks: placements, what is refused, and what a mistake does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.backends.target import target
from glmc.backends.torch.execute import compare
from glmc.ir import model as m
from glmc.ir import placing
from glmc.ir.errors import (
    FusionSilentError,
    NotDealtError,
    PassChangedResultsError,
)
from glmc.ir.graph import Program
from glmc.ir.ledger import Entry
from glmc.ir.lower import lower
from glmc.ir.op import Op
from glmc.ir.passes import Pass, Stage, fusions, pipeline, run
from glmc.ir.passes.place import Place
from glmc.ir.passes.rewrite import Fusion
from glmc.ir.placement import REPLICATED, shard
from glmc.ir.placing import PlacingError
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_program
from glmc.ir.types import Type
from glmc.ir.types import placed as placed_type
from glmc.ir.verify import VerifyError, verify
from support import EXAMPLES
from support.mispasses import swapped
from support.models import changed, chatglm, norm, sandwich
from support.op_types import types_of, with_results
from support.ranked import without_a_reduce

TOLERANCE = 1e-5
Typed = Callable[[Op, Mapping[str, Type]], tuple[Type, ...]]


def placed(model: m.Model, ranks: int) -> tuple[Program, list[Entry]]:
    """The program of one rank, and what the pass noted."""
    return Place(ranks).run(lower(model, cuts=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_compute_what_one_does(ranks: int) -> None:
    small = shrink(chatglm(), ranks)
    stages = list(run(lower(small, cuts=True), (Place(ranks), *_passes())))
    programs = [lower(small), stages[1].program, stages[-1].program]
    assert max(compare(programs)) < TOLERANCE


def _passes() -> tuple[Pass, ...]:
    return target("any").passes()


def test_a_dump_says_where_everything_lies() -> None:
    program, _ = placed(chatglm(), 2)
    text = print_program(program)
    assert text.startswith("program @chatglm f16 on 2 ranks\n")
    assert ".slice(0, 0, 64).shard(0, 2)" in text, "q is cut for itself"
    assert "partial" in text
    assert "per token shard(0)" in text
    assert parse_program(text) == program


def test_cuts_are_read_back() -> None:
    program = lower(chatglm(), cuts=True)
    text = print_program(program)
    assert "cut(kv_heads, 0, 2, repeats)" in text
    assert "cut(vocabulary, 0, 61, pads)" in text
    assert parse_program(text) == program
    assert "cut(" not in print_program(lower(chatglm()))


def test_two_ranks_share_a_head_where_there_are_too_few() -> None:
    program, _ = placed(shrink(chatglm(), 4), 4)
    text = print_program(program)
    assert "state %kv: kv[1," in text
    assert ".shard(0, 4, copies=2)" in text


def test_every_conversion_is_noted() -> None:
    _, entries = placed(chatglm(), 2)
    made = [entry.made for entry in entries if entry.graph == "layer"]
    assert made == [("all_reduce",), ("all_reduce",)]


def test_fusions_refuse_across_a_sum() -> None:
    stages = run(lower(chatglm(), cuts=True), (Place(2), *_passes()))
    (found,) = [stage for stage in stages if stage.name == "linear-add"]
    reasons = {entry.reason for entry in found.ledger if entry.status == "refused"}
    assert any("is made by all_reduce, not linear" in reason for reason in reasons)


def test_a_number_of_ranks_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(NotDealtError, match=r"4 heads of @q.* cannot.* to 3; 2, 4 "):
        placed(chatglm(), 3)


def test_an_op_that_says_nothing_of_parts_is_refused_by_name() -> None:
    program = lower(chatglm(), cuts=True)
    text = print_program(program)
    text = text.replace("activation(%gate, fn=silu)", "cut_below(%gate, deviations=1)")
    with pytest.raises(NotDealtError, match="cut_below takes no part of x"):
        Place(2).run(parse_program(text))


def test_keys_of_parts_of_channels_go_with_their_parts() -> None:
    """Whole keys beside a part of the channels would be read by the wrong ones."""
    given = {"v": "f32[B,T,6]", "step": "f32[B,T,6]", "a_log": "f32[6,4]"}
    given |= {"skip": "f32[6]", "state": "row[6,4]"}
    for keys, fits in (("f32[B,T,4]", True), ("f32[B,T,8]", False)):
        whole = {**given, "k": keys, "q": keys}
        op = with_results("selective_scan", {}, whole)
        types = types_of(whole)
        types["v"] = placed_type(types["v"], shard(2))
        if fits:
            assert op.placing(op, types).wants["k"] == REPLICATED
            continue
        with pytest.raises(PlacingError, match="keys of parts only in parts"):
            op.placing(op, types)
        types |= {name: placed_type(types[name], shard(2)) for name in "kq"}
        assert op.placing(op, types).wants["q"] == shard(2)


def test_a_forgotten_sum_does_not_verify() -> None:
    program, _ = placed(chatglm(), 2)
    verify(program)
    with pytest.raises(VerifyError, match="takes y replicated here, and it is partial"):
        verify(without_a_reduce(program))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("f16[32,32] shard(0)", "f16[32,32]", "assembled as shard"),
        ("on 2 ranks", "on 4 ranks", "dealt to 2 ranks, not 4"),
        ("ranks=2, size=61", "ranks=2, size=63", "do not make 63"),
        ("kv[1,16,16] per token shard(0)", "kv[1,16,16] per token", "takes kv shard"),
    ],
)
def test_an_edited_dump_is_refused(old: str, new: str, says: str) -> None:
    program, _ = placed(chatglm(), 2)
    text = print_program(program)
    assert old in text
    with pytest.raises(VerifyError, match=says):
        verify(parse_program(text.replace(old, new)))


@pytest.mark.parametrize("checked", [True, False])
def test_a_pass_that_forgets_a_sum_is_caught(
    checked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the verifier, and with the verifier off by running a shrunken model."""
    right = Place.run
    monkeypatch.setattr(
        Place,
        "run",
        lambda self, program: (without_a_reduce(right(self, program)[0]), []),
    )
    source = EXAMPLES / "configs/llama-3.1-70b.json"
    asked: dict[str, Any] = {"tensor_parallel": 2, "verify_passes": True}
    if checked:
        with pytest.raises(VerifyError, match="and it is partial"):
            compile_model(source, tmp_path / "build", **asked)
        return
    monkeypatch.setattr(pipeline, "verify", lambda program: None)
    monkeypatch.setattr(placing, "typed", _without_placements(placing.typed))
    monkeypatch.setattr("glmc.ir.build.typed", _without_placements(placing.typed))
    with pytest.raises(PassChangedResultsError, match="place changed the logits"):
        compile_model(source, tmp_path / "build", **asked)


def _without_placements(typed: Typed) -> Typed:
    """The rule of types of fusions, were it to forget of ranks."""

    def forgetful(op: Op, types: Mapping[str, Type]) -> tuple[Type, ...]:
        try:
            return typed(op, types)
        except placing.PlacingError:
            return op.infer({f: placed_type(of, REPLICATED) for f, of in types.items()})

    return forgetful


def test_a_forgotten_sum_is_seen_by_running() -> None:
    small = shrink(chatglm(), 2)
    program, _ = placed(small, 2)
    _, difference = compare([lower(small), without_a_reduce(program)])
    assert not difference < 0.1


# --- the sum of all ranks, add and norm as one op -------------------------------------

REDUCED = fusions.REDUCE_ADD_NORM


def fused(model: m.Model, ranks: int, last: Fusion = REDUCED) -> list[Stage]:
    """The stages of a model of several ranks, with another fusion in the last place."""
    passes = [last if one.name == last.name else one for one in _passes()]
    return list(run(lower(model, cuts=True), (Place(ranks), *passes)))


def made(program: Program, *names: str) -> list[int]:
    """The numbers of some ops in stem, layer and head."""
    graphs = (program.stem, program.blocks[0], program.head)
    return [sum(op.mnemonic in names for op in graph.ops) for graph in graphs]


def layer_normed() -> m.Model:
    """The model of most tests, with LayerNorms."""
    model = chatglm()
    block = changed(model.blocks[0], pre=norm("layers.{i}.pre", "layer"))
    final = norm("final", "layer")
    return model.model_copy(update={"blocks": (block,), "final_norm": final})


@pytest.mark.parametrize(
    ("model", "op"),
    [
        (chatglm(), "reduce_add_rms_norm"),
        (layer_normed(), "reduce_add_layer_norm"),
    ],
)
def test_sums_of_all_ranks_are_fused_with_add_and_norm(model: m.Model, op: str) -> None:
    small = shrink(model, 2)
    *before, after = fused(small, 2)
    assert made(after.program, op) == [0, 2, 1]
    assert made(after.program, "all_reduce") == [0, 0, 0]
    assert {entry.status for entry in after.ledger} == {"applied"}
    assert after.program.partial == (1,), "a layer hands on its summand"
    assert parse_program(print_program(after.program)) == after.program
    programs = [lower(small), before[-1].program, after.program]
    assert max(compare(programs)) < TOLERANCE


@pytest.mark.parametrize(("parallel", "sums"), [(False, 2), (True, 1)])
def test_branches_beside_each_other_are_summed_once(parallel: bool, sums: int) -> None:
    model = chatglm()
    (block,) = model.blocks
    attend, feed = block.steps
    steps = (attend, feed.model_copy(update={"parallel": parallel}))
    blocks = (block.model_copy(update={"steps": steps}),)
    small = shrink(model.model_copy(update={"blocks": blocks}), 2)
    program, _ = placed(small, 2)
    assert made(program, "all_reduce")[1] == sums
    assert max(compare([lower(small), program])) < TOLERANCE


@pytest.mark.parametrize(("normed", "more"), [(False, 0), (True, 1)])
def test_no_sum_is_added_where_the_stem_ends_in_one(normed: bool, more: int) -> None:
    """It hands on its summand; another one hands on zeros, which are summed too."""
    model = chatglm()
    embed = model.embed.model_copy(
        update={"norm": norm("embedding_norm") if normed else None}
    )
    model = shrink(model.model_copy(update={"embed": embed}), 2)
    _, first, *_, last = fused(model, 2)
    sums = ("all_reduce", "reduce_add_rms_norm")
    counts = []
    for stage in (first, last):
        stem, layer, head = made(stage.program, *sums)
        counts.append(stem + model.layers * layer + head)
    assert counts[1] - counts[0] == more
    assert max(compare([lower(model), last.program])) < TOLERANCE


def test_one_rank_has_nothing_to_sum() -> None:
    program = lower(chatglm())
    after, (entry,) = REDUCED.run(program)
    assert entry.status == "absent"
    assert after is program


def test_a_norm_behind_no_sum_says_so() -> None:
    last = fused(sandwich(), 2)[-1]
    reasons = {entry.reason for entry in last.ledger}
    assert "%attn_normed is made by rms_norm, not all_reduce" in reasons


def test_a_fusion_that_sums_the_residual_does_not_verify() -> None:
    broken = swapped(REDUCED, "%x, %y, @w", "%y, %x, @w")
    with pytest.raises(PlacingError, match="takes x replicated here, and it is parti"):
        fused(shrink(chatglm(), 2), 2, broken)


@pytest.mark.parametrize(
    ("old", "new"), [("eps=$eps", "eps=0.5"), ("%s, %h =", "%h, %s =")]
)
def test_a_fusion_that_means_something_else_is_caught(old: str, new: str) -> None:
    small = shrink(chatglm(), 2)
    *_, last = fused(small, 2, swapped(REDUCED, old, new))
    _, difference = compare([lower(small), last.program])
    assert not difference < 100 * TOLERANCE


def test_a_summand_that_is_taken_for_the_sum_does_not_verify() -> None:
    program = fused(chatglm(), 2)[-1].program
    text = print_program(program)
    one = text.replace("reduce_add_rms_norm(%x, ", "add_rms_norm(%x, ", 1)
    assert one != text
    with pytest.raises(VerifyError, match="add_rms_norm takes y replicated here"):
        verify(parse_program(one))
    whole = text.replace("%delta: f16[B,T,32] partial,", "%delta: f16[B,T,32],")
    assert whole != text
    with pytest.raises(VerifyError, match="takes y partial here, and it is replicated"):
        verify(parse_program(whole))


def test_strict_does_not_ask_for_what_stands_behind_a_sum(tmp_path: Path) -> None:
    source = EXAMPLES / "configs/llama-3.1-70b.json"
    asked: dict[str, Any] = {"strict": True, "tensor_parallel": 2}
    compile_model(source, tmp_path / "build", **asked)
    apart = ("add-rms-norm", "carry-residual")
    with pytest.raises(FusionSilentError, match="act-mul"):
        compile_model(
            source, tmp_path / "other", **asked, disable=(*apart, "merge-gate-up")
        )
