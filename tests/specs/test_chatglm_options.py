"""Options that ChatGLM2's config class has and no published file sets.

Nothing runs the published code; its formula is written down here token by token.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from glmc import compile_model
from support import builds, reference
from support.configs import CHATGLM
from support.parity import TOLERANCE
from support.ranges import first

E, H, K, D, FF, LAYERS, VOCAB, EPS = 64, 4, 2, 16, 48, 3, 96, 1e-2
FLAGS = (
    "add_bias_linear",
    "apply_residual_connection_post_layernorm",
    "multi_query_attention",
    "add_qkv_bias",
)
CASES = [dict(zip(FLAGS, on, strict=True)) for on in itertools.product(*[(0, 1)] * 4)]
# The first four have each flag on and off.
ORDERED = [*CASES[::5], *(case for at, case in enumerate(CASES) if at % 5)]
Tensors = dict[str, torch.Tensor]


def checkpoint(folder: Path, flags: dict[str, int]) -> Tensors:
    sizes = {
        "hidden_size": E,
        "num_attention_heads": H,
        "multi_query_group_num": K,
        "kv_channels": D,
        "ffn_hidden_size": FF,
        "num_layers": LAYERS,
        "padded_vocab_size": VOCAB,
        "layernorm_epsilon": EPS,
        "torch_dtype": "float32",
        "seq_length": 64,
    }
    folder.mkdir()
    given = {name: bool(on) for name, on in flags.items()}
    (folder / "config.json").write_text(json.dumps({**CHATGLM, **sizes, **given}))
    rows = (H + 2 * (K if flags["multi_query_attention"] else H)) * D
    linear, qkv = flags["add_bias_linear"], flags["add_qkv_bias"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (VOCAB, E),
        "transformer.output_layer.weight": (VOCAB, E),
        "transformer.encoder.final_layernorm.weight": (E,),
    }
    for i in range(LAYERS):
        at = f"transformer.encoder.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{norm}.weight"] = (E,)
        for name, out, width, bias in (
            ("self_attention.query_key_value", rows, E, linear or qkv),
            ("self_attention.dense", E, H * D, linear),
            ("mlp.dense_h_to_4h", 2 * FF, E, linear),
            ("mlp.dense_4h_to_h", E, FF, linear),
        ):
            shapes[f"{at}{name}.weight"] = (out, width)
            if bias:
                shapes[f"{at}{name}.bias"] = (out,)
    torch.manual_seed(3)
    made = {
        name: torch.randn(shape) / 4 + ("norm" in name)
        if len(shape) == 1
        else torch.randn(shape) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    return made


def by_hand(w: Tensors, flags: dict[str, int], ids: torch.Tensor) -> torch.Tensor:
    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (E,), w[f"{name}.weight"], EPS)

    def turned(x: torch.Tensor) -> torch.Tensor:
        half = D // 2
        angle = torch.arange(len(x))[:, None] * 1e4 ** (
            -torch.arange(0, half, 2) / half
        )
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = x[..., 0:half:2], x[..., 1:half:2]
        pairs = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        return torch.cat((pairs, x[..., half:]), -1)

    x = w["transformer.embedding.word_embeddings.weight"][ids]
    for i in range(LAYERS):
        at = f"transformer.encoder.layers.{i}."
        h = norm(x, f"{at}input_layernorm")
        packed = linear(h, f"{at}self_attention.query_key_value")
        if flags["multi_query_attention"]:
            q, k, v = packed.split((H * D, K * D, K * D), -1)
        else:
            q, k, v = (p.flatten(1) for p in packed.view(len(ids), H, -1).chunk(3, -1))
        q, k = (turned(t.view(len(ids), -1, D)) for t in (q, k))
        v = v.reshape(len(ids), -1, D)
        k, v = (t.repeat_interleave(H // t.shape[1], 1) for t in (k, v))
        context = F.scaled_dot_product_attention(
            q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True
        )
        y = linear(context.transpose(0, 1).flatten(1), f"{at}self_attention.dense")
        normed = flags["apply_residual_connection_post_layernorm"]
        x = (h if normed else x) + y
        h = norm(x, f"{at}post_attention_layernorm")
        gate, up = linear(h, f"{at}mlp.dense_h_to_4h").chunk(2, -1)
        x = (h if normed else x) + linear(F.silu(gate) * up, f"{at}mlp.dense_4h_to_h")
    x = norm(x, "transformer.encoder.final_layernorm")
    return x @ w["transformer.output_layer.weight"].T


@pytest.mark.parametrize(
    "flags", first(4, ORDERED), ids=lambda f: "".join(map(str, f.values()))
)
def test_every_combination(flags: dict[str, int], tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "checkpoint", flags)
    build = compile_model(tmp_path / "checkpoint", tmp_path / "build")
    model: Any = builds.load(build, tmp_path / "checkpoint")
    ids = torch.randint(0, VOCAB, (1, 24), generator=torch.Generator().manual_seed(1))
    wanted = by_hand(weights, flags, ids[0])
    with torch.no_grad():
        assert (model(ids).logits[0] - wanted).abs().max() <= TOLERANCE
        assert (reference.cached(model, ids)[0] - wanted).abs().max() <= TOLERANCE
    other = {**flags, FLAGS[1]: 1 - flags[FLAGS[1]]}
    wrong = by_hand(weights, other, ids[0])
    assert (wrong - wanted).abs().max() > 10 * TOLERANCE, "a control"
