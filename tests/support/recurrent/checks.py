"""One state for each row: declared in a dump, executed, emitted, decoded, replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc.backends.runtime.cache import Cache as RuntimeCache
from glmc.backends.target import target
from glmc.backends.torch import ops as reference
from glmc.backends.torch.execute import compare
from glmc.backends.torch.readings import differences
from glmc.backends.torch.weights import random_checkpoint
from glmc.compile.dumps import rebuild
from glmc.compile.writing import write_build
from glmc.ir.cost import Call
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.passes import Stage
from glmc.ir.text import parse_program, print_model, print_program
from glmc.ir.verify import VerifyError, verify
from glmc.look.builds import Build
from glmc.look.inspecting import kept, summary
from support.builds import import_build
from support.models import chatglm
from support.ondevice import operations
from support.recurrent import Running, running
from support.tape import Tapes

TOLERANCE = 1e-4
MODEL = chatglm(4).model_copy(update={"dtype": "f32"})


DECLARED = """  state %h: f32[32] per row
  @decay: f32[32] = "decay.weight"[32]
"""
RUNS = """  %ran: f32[B,T,32], %h_now: f32[32] per row = running(%h1, @decay, %h)
  %x1: f32[B,T,32] = add(%both, %ran)
"""
ATTENDS = re.compile(r"  (state %kv|[@%](q|k|v|dense|ctx|attn)[a-z_]*:).*\n")


def hybrid() -> Program:
    """Layers 0 and 2 attend and run; 1 and 3 only run, and keep no keys."""
    text = print_program(lower(MODEL))
    head, block, tail = re.split(r"block @layer\[0:4\]|\n(?=head )", text)
    block = block.replace("  @input_layernorm", f"{DECLARED}  @input_layernorm", 1)
    block = block.replace("%x1: f32[B,T,32]", "%both: f32[B,T,32]", 1)
    both = block.replace("  %h2:", f"{RUNS}  %h2:", 1)
    only = ATTENDS.sub("", both).replace("add(%x, %attn)", "add(%x, %h1)")
    blocks = f"block @both[0,2]{both}\nblock @only[1,3]{only}"
    program = parse_program(f"{head}{blocks}\n{tail}")
    verify(program)
    return program


def checkpoint_of(program: Program) -> dict[str, torch.Tensor]:
    """Random weights, with decays that remember some ten tokens."""
    found = random_checkpoint(program)
    for name in found:
        if "decay" in name:
            found[name] = found[name].sigmoid() * 0.3 + 0.65
    return found


@pytest.fixture(scope="module")
def program() -> Program:
    return hybrid()


@pytest.fixture(scope="module")
def stages(program: Program) -> list[Stage]:
    return list(target("any").stages(program, ()))


@pytest.fixture(scope="module", params=["lowered", "fused"])
def folder(
    request: Any, stages: list[Stage], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A build from a dump, with its checkpoint beside it."""
    made: Path = tmp_path_factory.mktemp(request.param)
    stage = stages[0] if request.param == "lowered" else stages[-1]
    (made / "0-model.glmc").write_text(print_model(MODEL))
    (made / "mine.glmc").write_text(print_program(stage.program))
    write_build(
        made / "build", rebuild(made / "mine.glmc", made_for="any"), force=False
    )
    (made / "weights").mkdir()
    tensors = checkpoint_of(stages[0].program)
    save_file(tensors, made / "weights" / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def build(folder: Path) -> ModuleType:
    return import_build(folder / "build")


@pytest.fixture
def model(build: ModuleType, folder: Path) -> Any:
    return build.load(folder / "weights", device="cpu", dtype="float32")


@pytest.fixture
def recorded(build: ModuleType, folder: Path) -> Any:
    """The model with a recorder, and attention that asks the host for nothing."""
    other = build.load(folder / "weights", device="cpu", dtype="float32")
    other.ops = operations(build.reference)
    other.tapes = Tapes()
    decoder = type(other.decoder)
    other._decoder = decoder(lambda _: other.tapes)
    return other


IDS = torch.randint(3, 61, (3, 11), generator=torch.Generator().manual_seed(0))
STARTS = (0, 4, 2)
MASK = (torch.arange(11) >= torch.tensor(STARTS)[:, None]).long()


def test_it_prints_and_parses(stages: list[Stage]) -> None:
    for stage in stages:
        text = print_program(stage.program)
        assert parse_program(text) == stage.program
    assert "  state %h: f32[32] per row\n" in text
    assert {s.name for s in stages[-1].program.blocks[0].states} == {"h", "kv"}
    assert {s.name for s in stages[-1].program.blocks[1].states} == {"h"}
    assert any("qkv_attention" in print_program(s.program) for s in stages)


def test_every_stage_means_the_same_however_it_is_read(stages: list[Stage]) -> None:
    checkpoint = checkpoint_of(stages[0].program)
    assert max(compare([stage.program for stage in stages])) < TOLERANCE
    for stage in (stages[0], stages[-1]):
        for what, difference in differences(stage.program, checkpoint):
            assert difference < TOLERANCE, what


def forgets(x: Any, decay: Any, h: Any) -> Any:
    """Leaves the state as it was."""
    seen = SimpleNamespace(rows=h.rows.clone(), start=h.start, position=h.position)
    return running.running(x, decay, seen)[0], h


def reads_padding(x: Any, decay: Any, h: Any) -> Any:
    """Lets padding change the state."""
    seen = SimpleNamespace(rows=h.rows, start=None, position=h.position)
    return running.running(x, decay, seen)[0], h


@pytest.mark.parametrize("wrong", [forgets, reads_padding])
def test_control_a_wrong_state_is_seen(
    program: Program, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "running", wrong)
    found = dict(differences(program, checkpoint_of(program)))
    assert max(found.values()) > 0.01


def test_control_a_second_writer_is_refused(program: Program) -> None:
    text = print_program(program)
    again = "  %ran_2: f32[B,T,32], %h_2: f32[32] per row = running(%h1, @decay, %h"
    lines = text.replace("  %h2:", f"{again}_now)\n  %h2:", 1)
    with pytest.raises(VerifyError, match="running writes %h, which running has"):
        verify(parse_program(lines))
    with pytest.raises(VerifyError, match="as it was before it was written; it is %h_"):
        verify(parse_program(text.replace("  %h2:", f"{again})\n  %h2:", 1)))


def test_a_build_declares_it(folder: Path) -> None:
    text = (folder / "build" / "model.py").read_text()
    row = "h=PerRow(32, dtype=torch.float32)"
    assert f"states = States(kv=KeysValues(2, 16, 16), {row})" in text
    assert f"states = States({row})" in text
    assert "from .state import KeysValues, PerRow, States" in text
    assert "state.h)" in text


def cached(model: Any, ids: Any, mask: Any, calls: tuple[int, ...]) -> torch.Tensor:
    """Logits of tokens that are read in several calls."""
    cache, begin, found = None, 0, []
    for count in calls:
        end = begin + count
        given = {} if mask is None else {"attention_mask": mask[:, :end]}
        out = model(ids[:, begin:end], past_key_values=cache, **given)
        cache, begin = out.past_key_values, end
        found.append(out.logits)
    return torch.cat(found, 1)


def test_a_build_decodes_as_its_prompt_says(model: Any) -> None:
    whole = cached(model, IDS, MASK, (11,))
    for calls in ((5, *[1] * 6), (5, 2, 1, 3), (6, 5)):
        got = cached(model, IDS, MASK, calls)
        assert (got - whole)[MASK.bool()].abs().max() < TOLERANCE
    for row, start in enumerate(STARTS):
        ids = IDS[row : row + 1, start:]
        for calls in ((11 - start,), (1,) * (11 - start), (2, 9 - start)):
            got = cached(model, ids, None, calls)
            assert (got - whole[row, start:]).abs().max() < TOLERANCE


def test_a_state_keeps_its_dtype(build: ModuleType, folder: Path) -> None:
    half = build.load(folder / "weights", device="cpu", dtype="bfloat16")
    cache = half.new_cache(2, 4)
    assert cache.layers[0].h.rows.dtype == torch.float32
    assert cache.layers[0].kv.keys.dtype == torch.bfloat16
    half.keep_cache_as("int8")
    cache = half.new_cache(2, 4)
    assert cache.layers[0].h.rows.dtype == torch.float32
    assert cache.layers[0].kv.keys.dtype == torch.int8


def test_rows_are_reordered_and_no_token_is_taken_back(model: Any) -> None:
    whole = cached(model, IDS, MASK, (11,))
    cache = model(IDS[:, :7], attention_mask=MASK[:, :7]).past_key_values
    with pytest.raises(ValueError, match="keep a state for each row, which 7 tokens"):
        cache.crop(5)
    order = torch.tensor([2, 0, 0, 1])
    cache.reorder(order)
    out = model(IDS[order, 7:], attention_mask=MASK[order], past_key_values=cache)
    real = MASK[order, 7:].bool()
    assert (out.logits - whole[order, 7:])[real].abs().max() < TOLERANCE
    cache.restart()
    again = model(IDS[order], attention_mask=MASK[order], past_key_values=cache)
    real = MASK[order].bool()
    assert (again.logits - whole[order])[real].abs().max() < TOLERANCE


def test_a_call_that_breaks_off_is_not_continued(model: Any, build: Any) -> None:
    cache = model(IDS[:1, :5]).past_key_values
    before = cache.layers[0].h.rows.clone()
    calls: list[Any] = []

    def breaks(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise MemoryError
        return build.reference.running(*given)

    model.ops = SimpleNamespace(**{**vars(build.reference), "running": breaks})
    with pytest.raises(MemoryError):
        model(IDS[:1, 5:], past_key_values=cache)
    assert not torch.equal(cache.layers[0].h.rows, before)
    model.ops = None
    with pytest.raises(ValueError, match="is of a call that broke off"):
        model(IDS[:1, 5:], past_key_values=cache)
    cache.restart()
    again = model(IDS[:1], past_key_values=cache).logits
    assert torch.equal(again, model(IDS[:1]).logits)


def generations(model: Any) -> Iterator[torch.Tensor]:
    """One row, three padded ones in a bucket of four, then others on the same cache."""
    options: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": ()}
    yield model.generate(IDS[:1], **options)
    yield model.generate(IDS, MASK, **options)
    yield model.generate(IDS[:1, 5:], **options)
    yield model.generate(IDS[[1, 0]], MASK[[1, 0]], **options)
    yield model.generate(IDS, MASK, **options)


def test_replayed_steps_generate_the_same(model: Any, recorded: Any) -> None:
    for want, got in zip(generations(model), generations(recorded), strict=True):
        assert recorded.decode_path.startswith("one graph replay a token")
        assert torch.equal(got, want)
    # One row; on the larger cache, which then stays, four, one and two.
    assert len(recorded.tapes.recorded) == 4
    assert recorded.tapes.replays > 0


def test_control_a_trial_step_that_leaves_a_trace_is_seen(
    model: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = type(recorded.new_cache(1, 2))
    assert caches is not RuntimeCache
    monkeypatch.setattr(caches, "changing", lambda self: [self.position])
    want, got = next(generations(model)), next(generations(recorded))
    assert recorded.decode_path.startswith("one graph replay a token")
    assert not torch.equal(got, want)


def test_control_a_cache_that_is_not_emptied_is_seen(
    model: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = type(recorded.new_cache(1, 2))
    monkeypatch.setattr(caches, "restart", caches._begin)
    pairs = list(zip(generations(model), generations(recorded), strict=True))
    assert torch.equal(*pairs[0])
    assert not all(torch.equal(got, want) for want, got in pairs)


def test_it_is_counted(folder: Path, program: Program) -> None:
    facts = summary(Build(folder / "build"), [100])
    each, row = 2 * 2 * (16 + 16) * 4, 4 * 32 * 4  # keys in two layers of four
    assert facts["state_bytes_per_token"] == each
    assert facts["state_bytes_per_row"] == row
    assert facts["state_bytes"] == {"100": row + 100 * each}
    assert kept(facts) == f"{each} B a token, {row} B a sequence"
    block = program.blocks[1]
    (op,) = (op for op in block.ops if isinstance(op, Running))
    types: Any = program.operand_types(block, op)
    moved = 2 * 32 * 4 * 2 + 32 * 4 + 2 * 2 * 32 * 4
    assert op.cost(types, Call(batch=2)).nbytes == moved
