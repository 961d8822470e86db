"""The state of layers: declared, written once, and the same however tokens are read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from glmc.backends.emit_model import model_view
from glmc.backends.torch.execute import compare
from glmc.backends.torch.readings import differences
from glmc.backends.torch.weights import random_checkpoint
from glmc.compile.dumps import rebuild
from glmc.compile.writing import write_build
from glmc.ir import model as m
from glmc.ir.errors import ModelShapeError
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.ops import RopeTableLongRope
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_model, print_program
from glmc.ir.verify import VerifyError, verify
from support.builds import load
from support.handed import handing_models, sharing
from support.mixtures import mixed_models
from support.models import chatglm, glm, models, norm, projection
from support.ranges import examples
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
    """Return how far any reading is from the prompt in one call."""
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


def test_a_build_with_two_attentions_decodes_as_its_prompt_says(
    tmp_path: Path,
) -> None:
    model = attending_twice().model_copy(update={"dtype": "f32"})
    (tmp_path / "0-model.glmc").write_text(print_model(model))
    write_build(tmp_path / "build", rebuild(tmp_path / "0-model.glmc"), force=False)
    tensors = random_checkpoint(lower(model))
    save_file(tensors, tmp_path / "model.safetensors")
    made = load(tmp_path / "build", tmp_path)
    ids = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    whole = made(ids, attention_mask=mask).logits
    cache, found = None, []
    for begin, end in ((0, 4), (4, 5), (5, 6), (6, 9)):
        given = {"attention_mask": mask[:, :end], "past_key_values": cache}
        out = made(ids[:, begin:end], **given)
        cache = out.past_key_values
        found.append(out.logits)
    assert cache is not None
    assert sorted(vars(cache.layers[0])) == ["kv", "kv_2"]
    difference = (torch.cat(found, 1) - whole)[mask.bool()].abs().max()
    assert difference < TOLERANCE


@given(st.one_of(models(), mixed_models(), handing_models()))
@examples(25)
def test_any_model_answers_the_same_however_it_is_read(model: m.Model) -> None:
    program = lower(shrink(model))
    for what, difference in differences(program, random_checkpoint(program)):
        assert difference < TOLERANCE, what


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_is_read_in_one_call(projection: bool) -> None:
    assert worst(lower(shrink(glm(projection=projection)))) < TOLERANCE


@pytest.mark.parametrize(("limit", "calls"), [(64, 8), (6, 6), (2, 2)])
def test_tables_that_depend_on_a_call_are_compared_up_to_there(
    limit: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LongRoPE turns all keys otherwise beyond a position; up to it nothing differs."""
    model = chatglm(1)
    (block,) = model.blocks
    attend, feed = block.steps
    scaling = m.LongRopeScaling(
        short_factor=(1.0,) * 4,
        long_factor=(2.0, 3.0, 4.0, 5.0),
        original_max_positions=limit,
        attention_factor=1.0,
    )
    rope = m.Rope(dim=8, theta=1e4, style="half", scaling=scaling)
    attend = attend.model_copy(
        update={"op": attend.op.model_copy(update={"rope": rope})}
    )
    block = block.model_copy(update={"steps": (attend, feed)})
    program = lower(shrink(model.model_copy(update={"blocks": (block,)})))
    found = dict(differences(program, random_checkpoint(program)))
    assert max(found.values()) < TOLERANCE
    assert len(found) == calls
    monkeypatch.setattr(RopeTableLongRope, "steady_until", None)
    assert (worst(program) > TOLERANCE) is (limit < 12)


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


PROGRAM = print_program(lower(attending_twice()))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("attention(%qr, %kv_now,", "attention(%qr, %kv,", "it is %kv_now now"),
        (
            "attention(%qr, %kv_now,",
            "attention(%qr, %x,",
            "kv must hold keys and values",
        ),
        ("add(%x, %attn)", "add(%x, %kv)", "add takes no state for y"),
        ("return %out", "return %kv_now", "returns the state %kv_now"),
        ("state %kv_2: kv[1", "state %kv_2: kv[2", "do not fit kv[2,32,32]"),
        (
            "  @input_layernorm",
            "  state %rest: f32[4] per row\n  @input_layernorm",
            "no op reads or writes %rest",
        ),
        (
            "  @input_layernorm",
            "  state %rest: f32[99999999,9999999] per row\n  @input_layernorm",
            "is larger than any memory",
        ),
        ("kv_write(%kv, %kr,", "kv_write(%kv_now, %kr,", "undefined %kv_now"),
        ("(%x: f16[B,T,32])\n", "(%x: f16[B,T,32])\n  state %a: [3] per row\n", "only"),
    ],
)
def test_a_state_that_is_used_wrongly_is_refused(old: str, new: str, rule: str) -> None:
    assert old in PROGRAM
    with pytest.raises(VerifyError) as caught:
        verify(parse_program(PROGRAM.replace(old, new, 1)))
    assert rule in str(caught.value)


def test_a_state_that_is_only_read_is_always_empty() -> None:
    text = PROGRAM.replace("attention(%qr, %kv_now,", "attention(%qr, %kv,")
    lines = [line for line in text.splitlines() if "= kv_write(%kv, " not in line]
    with pytest.raises(VerifyError, match="no op writes %kv"):
        verify(parse_program("\n".join(lines)))


def test_layers_that_share_name_whose_keys_they_read() -> None:
    model = sharing((0, 1))
    own, reader = model.blocks
    lost = (own, reader.model_copy(update={"kv_from": ()}))
    with pytest.raises(ModelShapeError, match="1 attentions of reader have no keys"):
        lower(model.model_copy(update={"blocks": lost}))
    (twice,) = attending_twice().blocks
    several = (twice, reader)
    with pytest.raises(ModelShapeError, match=r"layer 0 .* has 2 attentions with some"):
        lower(model.model_copy(update={"blocks": several}))
    encoder = glm().prefix_encoder
    with pytest.raises(ModelShapeError, match="one attention in each layer, and layer"):
        lower(attending_twice().model_copy(update={"prefix_encoder": encoder}))


@pytest.mark.parametrize(
    ("mask", "without"), [("full", {"k"}), ("full", {"k", "v"}), ("causal", {"k"})]
)
def test_attention_without_keys_is_refused(mask: str, without: set[str]) -> None:
    """But for a cached one without values too, which reads those of another layer."""
    model = chatglm(2)
    (block,) = model.blocks
    attend, *others = block.steps
    bare = dict.fromkeys(without) | {"mask": mask}
    step = attend.model_copy(update={"op": attend.op.model_copy(update=bare)})
    blocks = (block.model_copy(update={"steps": (step, *others)}),)
    with pytest.raises(ModelShapeError, match="no keys"):
        lower(model.model_copy(update={"blocks": blocks}))


def test_only_encoders_count_positions_by_padding() -> None:
    causal = glm(2)
    embed = causal.embed.model_copy(update={"padding": 1})
    with pytest.raises(ModelShapeError, match="which only encoders do"):
        lower(causal.model_copy(update={"embed": embed}))


def test_a_state_is_highlighted() -> None:
    pytest.importorskip("pygments")
    highlight = importlib.import_module("glmc.look.highlight")
    token = importlib.import_module("pygments.token")
    found = list(highlight.DumpLexer().get_tokens(PROGRAM))
    assert (token.Keyword.Declaration, "state") in found
    assert (token.Keyword.Type, "per token") in found
    assert not [text for kind, text in found if kind is token.Error]
