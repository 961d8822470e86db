"""A tiny checkpoint of an architecture that glmc has no spec for.

docs/writing-a-spec.md goes from here to a build with the same logits. The classes below
stand for the code that is published with such a model: glmc never runs them. They write
config.json, model.safetensors and golden.safetensors, their answers to a prompt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, FF, HEADS, KV_HEADS, HEAD = 64, 96, 4, 2, 16
LAYERS, VOCAB, EPS, THETA = 3, 128, 1e-2, 10000.0
CONFIG = {
    "architectures": ["HeronForCausalLM"],
    "model_type": "heron",
    "d_model": WIDTH,
    "d_ff": FF,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_seq_len": 256,
    "act_fn": "silu",
    "rms_eps": EPS,
    "rope_theta": THETA,
    "plume_loss_weight": 1e-4,
    "torch_dtype": "float32",
}


class Attention(nn.Module):
    """Grouped-query attention; rope turns neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.wqkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * HEAD, bias=False)
        self.wo = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [T, E]."""
        sizes = [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD]
        q, k, v = (
            part.unflatten(-1, (-1, HEAD)).transpose(0, 1)
            for part in self.wqkv(x).split(sizes, dim=-1)
        )
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=0) for t in (rotate(k), v))
        out = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        return run(self.wo, out.transpose(0, 1).flatten(1))


def rotate(x: Tensor) -> Tensor:
    """Rope on x [heads, T, D]: channels 2j and 2j + 1 turn together."""
    steps = torch.arange(0, HEAD, 2) / HEAD
    angles = torch.arange(x.shape[1])[:, None] * THETA**-steps
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


class FeedForward(nn.Module):
    """A gated MLP with both matrices in one."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in = nn.Linear(WIDTH, 2 * FF, bias=False)
        self.w_out = nn.Linear(FF, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.w_in(x).chunk(2, dim=-1)
        return run(self.w_out, F.silu(gate) * up)


class Layer(nn.Module):
    """Norms before attention and before the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_a = nn.RMSNorm(WIDTH, eps=EPS)
        self.attn = Attention()
        self.norm_b = nn.RMSNorm(WIDTH, eps=EPS)
        self.ffn = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + run(self.attn, self.norm_a(x))
        return x + run(self.ffn, self.norm_b(x))


class Tower(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm_f = nn.RMSNorm(WIDTH, eps=EPS)

    def forward(self, ids: Tensor) -> Tensor:
        return run(self.norm_f, run(self.blocks, run(self.tok_embeddings, ids)))


class Heron(nn.Module):
    """Token ids [T] to logits [T, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower()
        self.output = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return run(self.output, run(self.tower, ids))


def run(module: nn.Module, x: Tensor) -> Tensor:
    """A module's answer, which is a tensor in all of these."""
    answer: Tensor = module(x)
    return answer


def main() -> None:
    """Write the three files to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Heron()
    for parameter in model.parameters():
        # Norm weights too: a forgotten one must show.
        nn.init.normal_(parameter, float(parameter.dim() == 1), 0.25)
    with torch.no_grad():
        ids = torch.randint(3, VOCAB, (24,))
        logits = model(ids)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    save_file(model.state_dict(), folder / "model.safetensors")
    golden = {
        "single.input_ids": ids[None, :18],
        "single.logits": logits[None, :18],
        "single.decode_ids": ids[None, 18:],
        "single.decode_logits": logits[None, 18:],
    }
    answers = {name: tensor.contiguous() for name, tensor in golden.items()}
    save_file(answers, folder / "golden.safetensors")


if __name__ == "__main__":
    main()
