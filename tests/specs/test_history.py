"""Attention residuals: Llama's layers on mixtures of the stream's snapshots.

No model of transformers has them. The layers of one are called by a loop that mixes
what they read, as the published rule says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from glmc import compile_model
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir.errors import GlmcError
from support import builds, reference, tiny
from support.parity import TOLERANCE
from support.variants import Variant

EVERY, LAYERS, WIDTH, EPS = 2, 5, 64, 1e-2
SPEC = f"""
extends: llama
per_layer:
  kind: "='first' if i % {EVERY} == 0 else 'later'"
history: {{head: model.output_attn_res_}}
block!:
  - {{op: attn, pre: input_layernorm, mix: attn_res_, snapshot: "=kind == 'first'"}}
  - {{op: mlp, pre: post_attention_layernorm, mix: mlp_res_}}
"""


def checkpoint(folder: Path) -> Any:
    """A tiny Llama with the mixtures' weights beside its own; the Llama itself."""
    tiny.make(Variant("llama", "history", {"num_hidden_layers": LAYERS}), folder)
    tensors = tiny.tensors_of(folder)
    torch.manual_seed(5)
    places = [f"layers.{i}.{of}" for i in range(LAYERS) for of in ("attn", "mlp")]
    for place in [*places, "output_attn"]:
        tensors[f"model.{place}_res_norm.weight"] = 1 + torch.randn(WIDTH) / 4
        tensors[f"model.{place}_res_proj.weight"] = torch.randn(1, WIDTH) / 2
    save_file(tensors, folder / "model.safetensors")
    return reference.load(folder), tensors


def by_hand(llama: Any, tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> Any:
    """Logits by the published rule."""
    body = llama.model
    kept: list[torch.Tensor] = []

    def mixed(place: str, x: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([*kept, x])
        norm = tensors[f"model.{place}_res_norm.weight"]
        normed = F.rms_norm(rows, (WIDTH,), norm, EPS)
        scores = normed @ tensors[f"model.{place}_res_proj.weight"][0]
        return (scores.softmax(0)[..., None] * rows).sum(0)

    x = body.embed_tokens(ids)
    where = torch.arange(ids.shape[1])[None]
    turned = body.rotary_emb(x, where)
    mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    for i, layer in enumerate(body.layers):
        h = layer.input_layernorm(mixed(f"layers.{i}.attn", x))
        y = layer.self_attn(h, position_embeddings=turned, attention_mask=mask)[0]
        if i % EVERY == 0:
            kept.append(x)
            x = y
        else:
            x = x + y
        x = x + layer.mlp(layer.post_attention_layernorm(mixed(f"layers.{i}.mlp", x)))
    return llama.lm_head(body.norm(mixed("output_attn", x)))


def test_mixtures_of_snapshots(tmp_path: Path) -> None:
    folder, spec = tmp_path / "checkpoint", tmp_path / "residuals.yaml"
    folder.mkdir()
    llama, tensors = checkpoint(folder)
    spec.write_text(SPEC)
    build = compile_model(folder, tmp_path / "build", spec=spec, verify_passes=True)
    model = builds.load(build, folder)
    ids = torch.randint(3, 128, (1, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = by_hand(llama, tensors, ids)
        whole, cached = model(ids).logits, reference.cached(model, ids)
        wrong = llama(ids).logits
    assert (whole - wanted).abs().max() <= TOLERANCE
    assert (cached - wanted).abs().max() <= TOLERANCE
    assert (wrong - wanted).abs().max() > 10 * TOLERANCE, "a control"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("history: {head: model.output_attn_res_}", "", "has no snapshots"),
        ("history: {head: model.output_attn_res_}", "history: {}", "head"),
        (", mix: mlp_res_}", "}", "mix to every step"),
        ("pre: post_attention_layernorm,", "pre: p, parallel: true,", "parallel"),
    ],
)
def test_refused_by_name(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert old in SPEC
    (tmp_path / "own.yaml").write_text(SPEC.replace(old, new))
    variant = Variant("llama", "history", {"num_hidden_layers": LAYERS})
    (tmp_path / "config.json").write_text(
        json.dumps({**variant.config, "model_type": "llama"})
    )
    with pytest.raises(GlmcError, match=told):
        compile_model(tmp_path, tmp_path / "build", spec=tmp_path / "own.yaml")


@pytest.mark.parametrize("key", ["mix", "hyper"])
def test_mixtures_that_are_null_by_an_expression_are_none(
    key: str, tmp_path: Path
) -> None:
    """As they are where the key is left out."""
    folder = tmp_path / "checkpoint"
    tiny.make(Variant("llama", "history", {"num_hidden_layers": 2}), folder)
    spec = tmp_path / "own.yaml"
    step = f"{{op: mlp, pre: post_attention_layernorm, {key}: '=null'}}"
    block = f"block!: [{{op: attn, pre: input_layernorm}}, {step}]"
    spec.write_text(f"extends: llama\n{block}\n")
    given = load_model(resolve_source(str(folder)), spec_path=spec).model
    assert given.blocks == load_model(resolve_source(str(folder))).model.blocks


def test_a_silu_whose_factors_are_bounded_softly() -> None:
    from glmc.backends.torch import ops

    gate, up = torch.randn(2, 3, 8) * 5, torch.randn(2, 3, 8) * 30
    got = ops.clamped_glu(gate, up, fn="silu", limit=25.0, soft=4.0)
    wanted = 4 * (gate / 4).tanh() * gate.sigmoid() * 25 * (up / 25).tanh()
    torch.testing.assert_close(got, wanted)
    hard = ops.clamped_glu(gate, up, fn="silu", limit=25.0)
    assert not torch.allclose(got, hard)
