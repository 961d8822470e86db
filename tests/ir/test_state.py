"""What layers keep: declared, written once, and the same however tokens are read."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.backends.emit_model import model_view
from glmc.backends.torch.execute import compare, random_checkpoint
from glmc.backends.torch.readings import differences
from glmc.ir import model as m
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_program
from glmc.ir.verify import VerifyError, verify
from support.models import chatglm, norm, projection
from support.stages import run

TOLERANCE = 1e-4


def attending_twice() -> m.Model:
    """ChatGLM2's block with a second attention, of another size, before its MLP."""
    model = chatglm(2)
    (block,) = model.blocks
    attend, feed = block.steps
    prefix = "encoder.layers.{i}.second_"
    sizes: dict[str, Any] = {"heads": 4, "kv_heads": 1, "head_dim": 32}
    parts = {slot: projection(f"{prefix}{slot}") for slot in "qkvo"}
    second = attend.op.model_copy(update={**sizes, **parts})
    steps = (attend, m.Step(op=second, pre=norm(f"{prefix}norm")), feed)
    blocks = (block.model_copy(update={"steps": steps}),)
    return model.model_copy(update={"blocks": blocks})


def worst(program: Program) -> float:
    """How far any reading is from the prompt in one call."""
    return max(d for _, d in differences(program, random_checkpoint(program)))


def test_two_attentions_keep_two_states() -> None:
    program = lower(attending_twice())
    kept = {state.name: str(state.type) for state in program.blocks[0].states}
    assert kept == {"kv": "kv[2,16,16] per token", "kv_2": "kv[1,32,32] per token"}
    text = print_program(program)
    assert "  state %kv_2: kv[1,32,32] per token\n" in text
    assert parse_program(text) == program
    (layer,) = model_view(attending_twice(), program)["classes"]
    assert layer["states"] == (
        "states = States(kv=KeysValues(2, 16, 16), kv_2=KeysValues(1, 32, 32))"
    )


def test_two_attentions_decode_as_their_prompt_says() -> None:
    stages = list(run(lower(shrink(attending_twice()))))
    assert max(compare([stage.program for stage in stages])) < TOLERANCE
    assert worst(stages[0].program) < TOLERANCE
    assert worst(stages[-1].program) < TOLERANCE


def one_state_for_two() -> Program:
    """Two attentions of one size, the second of which is given the first's state."""
    model = attending_twice()
    (block,) = model.blocks
    attend, second, feed = block.steps
    sizes = {"kv_heads": 2, "head_dim": 16, "heads": 4}
    second = second.model_copy(update={"op": second.op.model_copy(update=sizes)})
    blocks = (block.model_copy(update={"steps": (attend, second, feed)}),)
    text = print_program(lower(shrink(model.model_copy(update={"blocks": blocks}))))
    lines = [line for line in text.splitlines() if "state %kv_2" not in line]
    return parse_program("\n".join(lines).replace("kv_write(%kv_2,", "kv_write(%kv,"))


def test_a_state_that_two_write_is_refused() -> None:
    with pytest.raises(VerifyError, match="kv_write reads %kv as it was before it was"):
        verify(one_state_for_two())
    after = print_program(one_state_for_two())
    after = after.replace("kv_write(%kv, %kr_2", "kv_write(%kv_now, %kr_2")
    with pytest.raises(VerifyError, match="writes %kv, which kv_write has written"):
        verify(parse_program(after))


def test_and_shows_where_tokens_are_read_one_by_one() -> None:
    """The control of the readings: what the verifier refuses decodes wrongly."""
    assert worst(one_state_for_two()) > 0.01
