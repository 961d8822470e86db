"""ChatGLM-6B: told apart from its namesakes, its ids found, contradictions refused."""

from __future__ import annotations

import math

import pytest

from glmc.ir import model as m
from glmc.ir.lower import lower
from support.configs import CHATGLM, CHATGLM1, Config
from support.loading import Load, Refusal

EARLY = CHATGLM1 | {"vocab_size": 150528, "bos_token_id": 150004}


def without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize(
    "key", ["inner_hidden_size", "position_encoding_2d", "max_sequence_length"]
)
def test_one_of_its_keys_is_enough(load: Load, key: str) -> None:
    others = {"inner_hidden_size", "position_encoding_2d", "max_sequence_length"}
    loaded = load(without(CHATGLM1, *(others - {key})))
    assert loaded.spec == "chatglm_v1"


def test_the_later_ones_are_not_it(load: Load) -> None:
    assert load(CHATGLM).spec == "chatglm"


@pytest.mark.parametrize(
    ("config", "ids", "tokens"),
    [
        (CHATGLM1, (130001, 130000, 130004), (130004, (130005,), 3)),
        (EARLY, (150001, 150000, 150004), (150004, (150005,), 20003)),
        (
            without(CHATGLM1, "bos_token_id"),
            (130001, 130000, 130004),
            (130004, (130005,), 3),
        ),
        (
            CHATGLM1 | {"vocab_size": 160, "bos_token_id": 9, "eos_token_id": 8}
            | {"gmask_token_id": 7, "mask_token_id": 6, "pad_token_id": 0},
            (7, 6, 9),
            (9, (8,), 0),
        ),
    ],
)  # fmt: skip
def test_ids(
    load: Load,
    config: Config,
    ids: tuple[int, int, int],
    tokens: tuple[int, tuple[int, ...], int],
) -> None:
    model = load(config).model
    gmask, mask, sop = ids
    assert model.positions == m.GlmPositions(gmask=gmask, mask=mask, sop=sop)
    found = model.tokens
    assert (found.bos, found.eos, found.pad) == tokens


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gmask_token_id": 150001}, "not those of this vocabulary"),
        ({"mask_token_id": 150000}, "not those of this vocabulary"),
        ({"vocab_size": 150528}, "not those of this vocabulary"),
        ({"vocab_size": 160}, "must be given where vocab_size is neither"),
        ({"vocab_size": None}, "vocab_size must be given"),
        (
            {"vocab_size": 160, "gmask_token_id": 1, "mask_token_id": 2},
            "must be below the vocabulary's size, 160",
        ),
        ({"padded_vocab_size": 65024}, "different models"),
        ({"position_encoding_2d": False}, "position_encoding_2d is false"),
        ({"num_attention_heads": 3}, "must be a multiple of num_attention_heads"),
    ],
)
def test_refused(refusal: Refusal, change: Config, expected: str) -> None:
    message = refusal(CHATGLM1 | change)
    assert "config.json" in message
    assert expected in message


def test_the_block(load: Load) -> None:
    model = load(CHATGLM1 | {"num_layers": 1}).model
    ((attention, mlp),) = (block.steps for block in model.blocks)
    for step in (attention, mlp):
        assert step.residual == "normed"
        # Of 28 layers whatever num_layers says, as in the published code.
        assert step.residual_scale == pytest.approx(math.sqrt(56), abs=0)
        assert step.pre is not None
        assert step.pre.kind == "layer"
    op = attention.op
    assert isinstance(op, m.Attention)
    assert op.mask == "prefix"
    assert op.rope is not None
    assert (op.rope.dim, op.rope.sections, op.rope.frequencies) == (16, 2, "f16")
    assert op.q.weight.layout == "(H [q:D|k:D|v:D]) E"
    assert model.head.weight == model.embed.weight
    assert any(waiver.pattern == "lm_head.weight" for waiver in model.waivers)


@pytest.mark.parametrize(
    ("config", "projection", "shapes"),
    [
        (CHATGLM, False, [(8, 96)]),
        (CHATGLM, True, [(8, 96), (64, 96), (64,), (96, 64), (96,)]),
        (CHATGLM1, False, [(8, 384)]),
        (CHATGLM1, True, [(8, 64), (64, 64), (64,), (384, 64), (384,)]),
    ],
)
def test_prefix_encoder(
    load: Load, config: Config, projection: bool, shapes: list[tuple[int, ...]]
) -> None:
    more = {"pre_seq_len": 8, "prefix_projection": projection}
    sizes = {"kv_channels": 16, "multi_query_group_num": 1} if config is CHATGLM else {}
    program = lower(load(config | more | sizes).model)
    assert program.prefix_encoder
    used = {name for op in program.prefix_encoder.ops for name in op.params}
    mine = [param for param in program.params if param.name in used]
    assert [param.type.dims for param in mine] == shapes
    assert all(
        block.producers["ctx"].attributes()["learned"] == 8 for block in program.blocks
    )


def test_an_encoder_without_a_length_is_waived(load: Load) -> None:
    for config in (CHATGLM, CHATGLM1):
        patterns = [waiver.pattern for waiver in load(config).model.waivers]
        assert "transformer.prefix_encoder.*" in patterns
        asked = load(config | {"pre_seq_len": 8}).model.waivers
        assert "transformer.prefix_encoder.*" not in [w.pattern for w in asked]
