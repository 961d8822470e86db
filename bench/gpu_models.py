"""The models that decode beside a build: transformers eager and compiled, and a plain
one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_timing import Clock
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Generate = Callable[[int], object]


def token_rate(generate: Generate, clock: Clock, tokens: int) -> float:
    """Tokens a second while decoding: the prompt's part is taken off by generating
    one token as well."""
    whole = clock.once(lambda: generate(1 + tokens))
    prompt = clock.once(lambda: generate(1))
    return tokens / (whole - prompt) if whole > prompt else math.nan


def ours(model: Any, ids: torch.Tensor) -> Generate:
    """A build's `generate`, greedy."""
    return lambda new: model.generate(ids, max_new_tokens=new, eos_token_id=())


def theirs(model: Any, ids: torch.Tensor, *, static: bool = False) -> Generate:
    """transformers' `generate`, greedy. With a static cache it compiles the forward
    pass itself, by default with `mode="reduce-overhead"`."""
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None}
    options |= {"pad_token_id": 0}
    if static:
        options["cache_implementation"] = "static"
    mask = torch.ones_like(ids)
    model.generation_config.eos_token_id = None
    return lambda new: model.generate(
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **options
    )


def transformers_model(config: Path, device: str, dtype: torch.dtype) -> Any:
    """A model of transformers with random weights, made on the device.

    Raises ImportError without transformers, ValueError for a config it cannot read.
    """
    import transformers

    values = json.loads(config.read_text())
    family = values.pop("model_type")
    made = transformers.AutoConfig.for_model(family, **values)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=dtype)
    return model.eval()


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Llama."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def of(cls, config: Path) -> Sizes:
        """Of a config in transformers' or ChatGLM's words."""
        c = json.loads(config.read_text())
        heads = c["num_attention_heads"]
        return cls(
            hidden=c["hidden_size"],
            ffn=c.get("intermediate_size") or c["ffn_hidden_size"],
            layers=c.get("num_hidden_layers") or c["num_layers"],
            heads=heads,
            kv_heads=c.get("num_key_value_heads") or c["multi_query_group_num"],
            head_dim=c.get("head_dim")
            or c.get("kv_channels")
            or c["hidden_size"] // heads,
            vocab=c.get("vocab_size") or c["padded_vocab_size"],
        )


class PlainLayer(nn.Module):
    """Attention over a static cache and a gated MLP, with merged matrices."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, s: Sizes, slots: int) -> None:
        super().__init__()
        self.s = s
        packed = (s.heads + 2 * s.kv_heads) * s.head_dim
        self.qkv = nn.Linear(s.hidden, packed, bias=False)
        self.out = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.gate_up = nn.Linear(s.hidden, 2 * s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)
        self.before, self.after = nn.RMSNorm(s.hidden), nn.RMSNorm(s.hidden)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, s.kv_heads, slots, s.head_dim))

    def forward(
        self, x: torch.Tensor, at: torch.Tensor, turn: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One step for `x` [1, T, hidden] at the slots `at` [T]."""
        s = self.s
        packed = self.qkv(self.before(x)).view(1, x.shape[1], -1, s.head_dim)
        q, k, v = packed.transpose(1, 2).split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        q, k = (part * turn.cos() + _half_turned(part) * turn.sin() for part in (q, k))
        keys = self.keys.index_copy_(2, at, k.to(v.dtype))
        values = self.values.index_copy_(2, at, v)
        ctx = F.scaled_dot_product_attention(
            q.to(v.dtype), keys, values, attn_mask=mask, enable_gqa=True
        )
        x = x + self.out(ctx.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.after(x)).chunk(2, dim=-1)
        out: torch.Tensor = x + self.down(F.silu(gate) * up)
        return out


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


class Plain(nn.Module):
    """A Llama in a page of torch, to be compiled whole as gpt-fast does: static cache,
    positions on the device, the argmax within."""

    turns: torch.Tensor
    mask: torch.Tensor

    def __init__(self, s: Sizes, slots: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(PlainLayer(s, slots) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden)
        self.head = nn.Linear(s.hidden, s.vocab, bias=False)
        steps = torch.arange(0, s.head_dim, 2) / s.head_dim
        angles = torch.outer(torch.arange(slots), 10000.0**-steps)
        self.register_buffer("turns", angles.repeat(1, 2))
        self.register_buffer("mask", torch.ones(slots, slots).tril().bool())

    def forward(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The next id [1, 1] after `ids` [1, T] at the slots `at` [T]."""
        x, turn = self.embed(ids), self.turns[at]
        for layer in self.layers:
            x = layer(x, at, turn, self.mask[at])
        logits: torch.Tensor = self.head(self.norm(x[:, -1:]))
        return logits.argmax(-1)


def plain(
    sizes: Sizes, ids: torch.Tensor, new: int, dtype: torch.dtype, backend: str
) -> Generate:
    """The compiled plain model's greedy generation of up to `new` tokens."""
    with torch.device(ids.device):
        model = Plain(sizes, ids.shape[1] + new).to(dtype).eval()
    mode = "reduce-overhead" if backend == "inductor" else None
    step: Any = torch.compile(model, fullgraph=True, backend=backend, mode=mode)
    at = torch.arange(ids.shape[1], device=ids.device)

    @torch.no_grad()
    def generate(count: int) -> torch.Tensor:
        token: torch.Tensor = model(ids, at)
        place = at[-1:] + 1
        for _ in range(count - 1):
            # As gpt-fast does: Inductor makes better code of this form for one query.
            with sdpa_kernel(SDPBackend.MATH):
                token = step(token, place).clone()
            place = place + 1
        return token

    return generate
