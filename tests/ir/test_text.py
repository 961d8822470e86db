"""Printing and parsing: the text form is the IR, and its errors point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmc.ir import model as m
from glmc.ir.errors import IRSyntaxError
from glmc.ir.lower import lower
from glmc.ir.state import KvType, RowType, StateType, TokenType
from glmc.ir.text import (
    parse_model,
    parse_program,
    print_model,
    print_program,
)
from glmc.ir.text.lexer import Cursor
from glmc.ir.text.syntax import type_
from support.handed import handing_models, sharing, with_parts
from support.mixtures import mixed_models
from support.models import chatglm, encoders, glm, models
from support.ranges import examples
from support.stages import run


@given(st.one_of(models(), encoders(), mixed_models(), handing_models()))
@examples(60)
def test_every_stage_parses_back_to_itself(model: m.Model) -> None:
    assert parse_model(print_model(model)) == model
    for stage in run(lower(model)):
        text = print_program(stage.program)
        assert parse_program(text) == stage.program, stage.name
        assert print_program(parse_program(text)) == text


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_encoder_parses_back(projection: bool) -> None:
    model = glm(projection=projection)
    assert parse_model(print_model(model)) == model
    for stage in run(lower(model)):
        assert parse_program(print_program(stage.program)) == stage.program


def test_what_layers_keep_and_read_of_others_is_declared() -> None:
    text = print_program(lower(with_parts(sharing((0, 1)))))
    assert 'block @reader[2:4] "encoder.layers.{i}." (' in text
    assert "%layer_input: f16[B,T,6] of %layer_inputs)" in text
    assert "\n  state %kv: kv[2,16,16] per token\n" in text
    assert "\n  state %kv: kv[2,16,16] per token from [0:2]\n" in text
    assert "per token from [1]\n" in print_program(lower(sharing((1, 1, 1))))
    broken = text.replace("from [0:2]", "from [0:2,1]")
    with pytest.raises(IRSyntaxError, match="from must have 1 or 2 numbers"):
        parse_program(broken)


@pytest.mark.parametrize(
    "kept",
    [
        KvType(kv_heads=2, k_dim=128, v_dim=64),
        TokenType(sizes=(576,)),
        TokenType(sizes=(4, 8), dtype="f32"),
        TokenType(sizes=(512,), every=4),
        RowType(sizes=(4096, 3)),
        RowType(sizes=(64, 64, 128), dtype="f32"),
    ],
)
def test_every_kind_of_state_parses_back(kept: StateType) -> None:
    assert type_(Cursor(str(kept))) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kv[2,8,8] per row", "kv takes three sizes per token"),
        ("kv[2,8] per token", "kv takes three sizes per token"),
        ("kv[2,8,8]", "says if it is per token or per row"),
        ("[576]", "says if it is per token or per row"),
        ("[576] per layer", "not per layer"),
        ("[512] per 1 tokens", "not per tokens"),
        ("[512] per 0 tokens", "not per 0 tokens"),
        ("[512] per 4 token", "not per 4 token"),
        ("kv[2,8,8] per 4 tokens", "kv takes three sizes per token"),
        ("[B,576] per row", "has sizes only"),
        ("[0] per row", "none of them 0"),
        ("[] per row", "has sizes, and of dtypes f32, f16, bf16"),
        ("i8[4] per row", "of dtypes f32, f16, bf16"),
    ],
)
def test_a_state_that_cannot_be_is_refused(text: str, expected: str) -> None:
    with pytest.raises(IRSyntaxError, match=expected):
        type_(Cursor(text))


def test_comments_and_blanks_are_free() -> None:
    program = lower(chatglm())
    text = print_program(program)
    spread = text.replace("(", "(\n   ", 3).replace(" = ", "   =  # why not\n ")
    assert parse_program(spread) == program


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        (
            "= rms_norm(%x,",
            "= rms_nrom(%x,",
            "%h1",
            "no op rms_nrom; did you mean rms_norm?",
        ),
        ("rms_norm(%x,", "rms_norm(@x,", "%h1", "x must be a %name"),
        (
            "eps=1e-05",
            "epps=1e-05",
            "%h1",
            "no argument epps=; did you mean eps?",
        ),
        ("eps=1e-05", "eps=fast", "%h1", "eps: Input should be a valid number"),
        ("%h1: f16[B,T,32]", "%h1: f16(B,T,32]", "%h1", "expected [, found '('"),
        ("%h1: f16[B,T,32]  ", "%h1 ", "%h1", "%h1 has no type"),
        ("n=4)", "n=4", "%qh", "expected ), found '%kh'"),
        ("heads(%q, n=4)", "heads(n=4)", "%qh", "heads takes x by position"),
        (
            ".slice(0, 0, 64)",
            ".sliced(0, 0, 64)",
            "@q:",
            "did you mean slice?",
        ),
        ("style=interleaved", "style=wavy", "%qr", "style: Input should be"),
        ("return %out", "retrun %out", "retrun", "expected a %name, found 'retrun'"),
        ('"dense.weight"', '"dense.weight', "dense.weight", "unexpected character"),
    ],
)
def test_a_wrong_edit_is_told_with_line_and_expectation(
    old: str, new: str, line: str, expected: str
) -> None:
    text = print_program(lower(chatglm()))
    assert old in text
    edited = text.replace(old, new, 1)
    with pytest.raises(IRSyntaxError) as caught:
        parse_program(edited)
    assert expected in str(caught.value)
    shown = edited.splitlines()[caught.value.line - 1 :][:1]
    before = edited.splitlines()[caught.value.line - 2]
    assert line in shown[0] + before
    assert f"line {caught.value.line}, column {caught.value.column}" in str(
        caught.value
    )


def test_a_model_dump_with_an_unknown_record_is_refused() -> None:
    text = print_model(chatglm()).replace("rope(", "rpoe(")
    with pytest.raises(IRSyntaxError, match="rpoe"):
        parse_model(text)
