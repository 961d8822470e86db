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
from glmc.ir.errors import NotDealtError, PassChangedResultsError
from glmc.ir.graph import Program
from glmc.ir.ledger import Entry
from glmc.ir.lower import lower
from glmc.ir.op import Op
from glmc.ir.passes import Pass, pipeline, run
from glmc.ir.passes.place import Place
from glmc.ir.placement import REPLICATED
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_program
from glmc.ir.types import Type
from glmc.ir.types import placed as placed_type
from glmc.ir.verify import VerifyError, verify
from support import EXAMPLES
from support.models import chatglm
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
