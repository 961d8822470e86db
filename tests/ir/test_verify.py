"""The verifier: every rule refuses a program that breaks it."""

from typing import Any

import pytest

from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from glmc.ir.op import OpTypeError
from glmc.ir.ops import FullAttention, LatentAttention, LatentWrite
from glmc.ir.state import KvType, State, TokenType
from glmc.ir.text import parse_program, print_program
from glmc.ir.types import TensorType, Type
from glmc.ir.verify import VerifyError, verify
from support.handed import sharing, with_parts
from support.models import bert, bidirectional, chatglm, glm

TEXT = print_program(lower(chatglm()))


def test_a_lowered_program_passes() -> None:
    verify(parse_program(TEXT))


GLM = print_program(lower(glm()))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("n=8)", "n=4)", "but the op gives"),
        ("sections=2", "sections=3", "does not make 3 sections"),
        ("prefix: i32[B]", "prefix: i64[B]", "prefix must be i32[B]"),
        ("learned=7", "learned=-7", "-7 learned slots"),
        ("learned=7", "window=3, learned=7", "do not go together"),
        ("prefix=%prefix, ", "window=3, ", "a window would hide"),
        ("pos: i64[B,2,T]", "pos: i64[B,T]", "positions must be [B,S,T]"),
        ("layer[0:2]", "layer[0:1]", "the layers take [4, 16] a row"),
        ("return %x, %cos, %sin, %prefix", "return %x, %cos, %sin", "%prefix does"),
    ],
)
def test_a_broken_prefix_is_refused(old: str, new: str, rule: str) -> None:
    verify(parse_program(GLM))
    assert old in GLM
    with pytest.raises(VerifyError) as caught:
        verify(parse_program(GLM.replace(old, new)))
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("heads(%q, n=4)", "heads(%qq, n=4)", "reads undefined %qq"),
        ("linear(%h1, @q,", "linear(%h1, @qq,", "reads undefined @qq"),
        ("%kh: f16", "%qh: f16", "%qh is defined twice"),
        ("return %out", "return %nothing", "returns undefined %nothing"),
        ("%act: f16[B,T,48]", "%act: f16[B,T,47]", "but the op gives f16[B,T,48]"),
        ("%act: f16[B,T,48]", "%act: f32[B,T,48]", "but the op gives f16[B,T,48]"),
        ("heads(%q, n=4)", "heads(%q, n=2)", "but the op gives"),
        ("heads(%k, n=2)", "heads(%k, n=3)", "is not made of 3 heads"),
        ("mul(%act, %up)", "mul(%act, %h2)", "is not f16[B,T,32]"),
        ("linear(%ctx, @dense)", "linear(%ctx, @gate)", "does not multiply"),
        ("bias=@q_bias", "bias=@k_bias", "does not fit"),
        ('"dense.weight"[32,64]', '"dense.weight"[64,32]', "is assembled as [64, 32]"),
        ("bias=@q_bias", "", "@q_bias is never read"),
        ("kv_write(%kv, %kr, %vh)", "kv_write(%kv, %qr, %vh)", "do not fit kv"),
        ("rope(%qh, %cos, %sin", "rope(%qh, %x, %x", "is wider than the heads"),
        ("embedding(%ids, ", "embedding(%h1, ", "reads undefined %h1"),
        ("@layer[0:2]", "@layer[1:3]", "not each exactly once"),
        ("return %x, %cos, %sin", "return %x, %cos", "%sin does not come"),
    ],
)
def test_a_broken_program_is_refused(old: str, new: str, rule: str) -> None:
    assert old in TEXT
    with pytest.raises(VerifyError) as caught:
        verify(parse_program(TEXT.replace(old, new, 1)))
    assert rule in str(caught.value)


HANDING = print_program(lower(with_parts(sharing((0, 1)))))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (
            "from [0:2]",
            "from [0,2]",
            "layer 2 has no %kv: kv[2,16,16] per token",
        ),
        ("from [0:2]", "from [0,3]", "layer 3 reads %kv of layer 3"),
        ("of %layer_inputs", "of %parts", "%parts does not come from the stem"),
        ("of %layer_inputs", "of %x", "%x is not ['B', 'T', 4, 6], a part for every"),
        ("attention(%qr, %kv,", "attention(%qr, %kv_2,", "reads undefined %kv_2"),
    ],
)
def test_what_is_handed_on_wrongly_is_refused(old: str, new: str, rule: str) -> None:
    verify(parse_program(HANDING))
    assert old in HANDING
    with pytest.raises(VerifyError) as caught:
        verify(parse_program(HANDING.replace(old, new)))
    assert rule in str(caught.value)


def test_a_cache_is_filled_by_the_layer_that_has_it() -> None:
    program = lower(sharing((0, 1)))
    own, reader = program.blocks
    (read,) = reader.states

    def owned_by(*layers: int) -> State:
        return read.model_copy(update={"owners": layers})

    for rule, wrong in (
        ("kv_write writes %kv, which belongs", {"ops": own.ops, "params": own.params}),
        ("one owner for each layer", {"states": (owned_by(0),)}),
        ("of its own for layer 3", {"states": (owned_by(0, 2),)}),
    ):
        blocks = (own, reader.replace(**wrong))
        with pytest.raises(VerifyError) as caught:
            verify(program.model_copy(update={"blocks": blocks}))
        assert rule in str(caught.value)


def test_a_part_for_a_layer_needs_an_embedding_that_has_some() -> None:
    model = with_parts(sharing())
    embed = model.embed.model_copy(update={"per_layer": None})
    with pytest.raises(GlmcError, match=r"needs embed\.per_layer"):
        lower(model.model_copy(update={"embed": embed}))


def test_a_prefix_encoder_needs_a_cache_for_every_layer() -> None:
    encoder = glm().prefix_encoder
    with pytest.raises(GlmcError, match="layers that read those of another"):
        lower(sharing().model_copy(update={"prefix_encoder": encoder}))


ENCODER = print_program(lower(bert()))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("attention(%qh, %kh", "attention(%qh, %x", "do not go with"),
        ("attention(%qh, %kh", "attention(%x, %kh", "must be [B,T,heads,width]"),
        ("%vh, %mask,", "%vh, %x,", "mask must be bool[B,T]"),
        ("return %x, %mask", "return %x", "%mask does not come from the stem"),
        ("first_token(%x)", "first_token(%first_2)", "reads undefined"),
        ("%first: f32[B,32]", "%first: f32[B,T,32]", "but the op gives f32[B,32]"),
        ("embedding(%types, @types)", "embedding(%types, @norm)", "must have 2 dims"),
    ],
)
def test_a_broken_encoder_is_refused(old: str, new: str, rule: str) -> None:
    verify(parse_program(ENCODER))
    assert old in ENCODER
    with pytest.raises(VerifyError) as caught:
        verify(parse_program(ENCODER.replace(old, new, 1)))
    assert rule in str(caught.value)


def test_masks_that_do_not_go_together_are_refused() -> None:
    causal = chatglm().blocks[0]
    full = bidirectional(causal, post_norm=False)
    mixed = (
        causal.model_copy(update={"layers": (0,)}),
        full.model_copy(update={"layers": (1,), "name": "other"}),
    )
    with pytest.raises(GlmcError, match="mixes full and causal attention"):
        lower(chatglm().model_copy(update={"blocks": mixed}))
    far = m.Distances(weight=m.Weight(tensor="far"), rows=32)
    op = causal.steps[0].op.model_copy(update={"distances": far})
    step = causal.steps[0].model_copy(update={"op": op})
    counted = causal.model_copy(update={"steps": (step, *causal.steps[1:])})
    with pytest.raises(GlmcError, match="numbers by distance in attention with a"):
        lower(chatglm().model_copy(update={"blocks": (counted,)}))


def test_a_full_mask_may_have_a_window() -> None:
    """It is on both sides of a query: what is lowered says how wide."""
    full = bert().blocks[0]
    op = full.steps[0].op.model_copy(update={"window": 4})
    step = full.steps[0].model_copy(update={"op": op})
    windowed = full.model_copy(update={"steps": (step, *full.steps[1:])})
    program = lower(bert().model_copy(update={"blocks": (windowed,)}))
    verify(program)
    found = [op for op in program.blocks[0].ops if isinstance(op, FullAttention)]
    assert [op.window for op in found] == [4]


@pytest.mark.parametrize(
    "option",
    [{"softcap": 30.0}, {"chunk": 4}, {"sinks": m.Weight(tensor="sinks")}],
    ids=lambda option: next(iter(option)),
)
def test_a_full_mask_has_no_options_of_a_cache(option: dict[str, object]) -> None:
    """The op has none of them, and what it cannot say is not left out unsaid."""
    full = bert().blocks[0]
    op = full.steps[0].op.model_copy(update=option)
    step = full.steps[0].model_copy(update={"op": op})
    changed = full.model_copy(update={"steps": (step, *full.steps[1:])})
    with pytest.raises(GlmcError, match=f"{next(iter(option))} in attention with the"):
        lower(bert().model_copy(update={"blocks": (changed,)}))


def f16(*dims: int | str) -> TensorType:
    return TensorType(dtype="f16", dims=dims)


# 3 heads: 5 channels of a key are made of a latent, 8 wide, and 4 turn; values of 6.
LATENT: dict[str, Any] = {
    "q": f16("B", "T", 3, 9),
    "latents": TokenType(sizes=(12,)),
    "kv_b": f16(33, 8),
    "bias": f16(33),
    "selection": TensorType(dtype="i64", dims=("B", "T", "N")),
}


@pytest.mark.parametrize(
    ("operand", "wrong", "rule"),
    [
        ("q", f16("B", "T", 27), "must be [B,T,heads,width]"),
        ("q", f16("B", "T", 3, 4), "does not make keys and values"),
        ("q", f16("B", "T", 4, 9), "does not make keys and values"),
        ("latents", KvType(kv_heads=1, k_dim=12, v_dim=6), "must be one vector per"),
        ("latents", TokenType(sizes=(1, 12)), "must be one vector per token"),
        ("latents", TokenType(sizes=(7,)), "does not make keys and values"),
        ("kv_b", f16(33), "must have 2 dims"),
        ("kv_b", f16(15, 8), "does not make keys and values"),
        ("bias", f16(32), "does not fit"),
        ("selection", f16("B", "T", "N"), "is not i64[B,T,N]"),
    ],
)
def test_broken_latents_are_refused(operand: str, wrong: Type, rule: str) -> None:
    fields = {name: name for name in LATENT}
    op = LatentAttention.model_validate({**fields, "scale": 1.0, "results": ()})
    assert op.infer(LATENT) == (f16("B", "T", 18),)
    with pytest.raises(OpTypeError) as caught:
        op.infer(LATENT | {operand: wrong})
    assert rule in str(caught.value)


def test_a_latent_that_does_not_fill_its_slot_is_refused() -> None:
    op = LatentWrite(latents="l", latent="c", shared="k", results=())
    kept = LATENT["latents"]
    types = {"latents": kept, "latent": f16("B", "T", 8)}
    assert op.infer(types | {"shared": f16("B", "T", 1, 4)}) == (kept,)
    for shared, rule in (
        (f16("B", "T", 1, 3), "do not fill"),
        (f16("B", "T", 4), "one"),
    ):
        with pytest.raises(OpTypeError, match=rule):
            op.infer(types | {"shared": shared})
