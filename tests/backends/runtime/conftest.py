"""A small decoder on the runtime classes, as a build would define it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.modules import Block, parameter
from glmc.backends.runtime.recipes import Bind, cat, permute
from glmc.backends.runtime.state import KeysValues, States
from glmc.backends.torch import ops as reference

HEADS, KV_HEADS, DIM, LAYERS, VOCAB = 4, 2, 8, 3, 50
WIDTH = HEADS * DIM


class Layer(Block):
    states = States(kv=KeysValues(KV_HEADS, DIM, DIM))

    def __init__(self) -> None:
        super().__init__()
        self.norm = parameter(WIDTH)
        self.qkv = parameter((HEADS + 2 * KV_HEADS) * DIM, WIDTH)
        self.o = parameter(WIDTH, WIDTH)

    def forward(self, x: Any, cos: Any, sin: Any, state: Any, ops: Any) -> Any:
        h = ops.rms_norm(x, self.norm, eps=1e-6)
        context = ops.qkv_attention(
            ops.linear(h, self.qkv),
            state.kv,
            cos=cos,
            sin=sin,
            heads=HEADS,
            kv_heads=KV_HEADS,
            head_dim=DIM,
            scale=DIM**-0.5,
        )
        return ops.add(x, ops.linear(context, self.o))


class Model(CausalLM):
    vocab_size = VOCAB
    eos_token_id = (2,)
    default_dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.embed = parameter(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = parameter(VOCAB, WIDTH)

    def run(
        self, ids: torch.Tensor, pos: torch.Tensor, cache: Cache, keep: int, ops: Any
    ) -> Any:
        x = ops.embedding(ids, self.embed)
        cos, sin = ops.rope_table(pos, dim=DIM, theta=10000.0)
        for layer, state in zip(self.layers, cache.layers, strict=True):
            x = layer(x, cos, sin, state, ops)
        return ops.linear(x[:, -keep:], self.head)


WEIGHTS = SimpleNamespace(
    OPTIONAL_PREFIX="base.",
    WAIVED=(("*.inv_freq", "recomputed"),),
    WEIGHTS=(
        Bind("embed", "base.embed.weight", shape=(VOCAB, WIDTH)),
        Bind("layers.{i}.norm", "base.h.{i}.norm", (WIDTH,), layers=range(LAYERS)),
        Bind(
            "layers.{i}.qkv",
            cat("base.h.{i}.q", "base.h.{i}.k", "base.h.{i}.v"),
            ((HEADS + 2 * KV_HEADS) * DIM, WIDTH),
            layers=range(LAYERS),
        ),
        Bind(
            "layers.{i}.o",
            permute("base.h.{i}.o", 1, 0),
            (WIDTH, WIDTH),
            layers=range(LAYERS),
        ),
        Bind("head", "head.weight", shape=(VOCAB, WIDTH)),
    ),
)


def checkpoint_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "base.embed.weight": (VOCAB, WIDTH),
        "head.weight": (VOCAB, WIDTH),
    }
    for i in range(LAYERS):
        shapes |= {
            f"base.h.{i}.norm": (WIDTH,),
            f"base.h.{i}.q": (WIDTH, WIDTH),
            f"base.h.{i}.k": (KV_HEADS * DIM, WIDTH),
            f"base.h.{i}.v": (KV_HEADS * DIM, WIDTH),
            f"base.h.{i}.o": (WIDTH, WIDTH),
        }
    return {
        name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()
    }


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Return what a checkpoint of the model holds."""
    return checkpoint_tensors()


@pytest.fixture
def weights() -> SimpleNamespace:
    """The binding table, as the module `weights` of a build."""
    return WEIGHTS


@pytest.fixture
def model_class() -> type[CausalLM]:
    return Model


@pytest.fixture
def model() -> CausalLM:
    """The model with random weights, in fp32, on the reference operations."""
    made = Model()
    made.ops = reference
    generator = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        weight.normal_(std=0.3, generator=generator)
    return made.eval()
