"""P-tuning v2: learned keys and values before every sequence.

The oracle for ChatGLM2 and later is transformers' `glm`, the same network, called with
`past_key_values`; for ChatGLM-6B it is attention written out over the whole sequence.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from glmc import compile_model
from support import GOLDEN, builds, cli, edits
from support.kernels import interpreter, kernels_of
from support.ranges import first

LENGTH, TOLERANCE = 5, 5e-5
Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Tensors:
    """All tensors of the `.bin` shards in a folder."""
    found: Tensors = {}
    for shard in sorted(folder.glob("*.bin")):
        found |= torch.load(shard, weights_only=True)
    return found


class Tuned:
    """A golden checkpoint with a random prefix encoder, saved on its own."""

    def __init__(self, name: str, folder: Path, projection: bool) -> None:
        self.base, self.folder = GOLDEN / name, folder
        config = edits.read_config(self.base)
        self.config = config | {"pre_seq_len": LENGTH, "prefix_projection": projection}
        edits.write_config(folder, self.config)
        v1 = "inner_hidden_size" in config
        self.layers, hidden = int(config["num_layers"]), int(config["hidden_size"])
        self.heads = config["num_attention_heads" if v1 else "multi_query_group_num"]
        self.width = hidden // config["num_attention_heads"]
        wide = 2 * self.layers * self.heads * self.width
        row = hidden if v1 and projection else wide
        torch.manual_seed(3)
        self.table = nn.Embedding(LENGTH, row)
        parts: dict[str, nn.Module] = {"embedding": self.table}
        self.project: nn.Module = nn.Identity()
        if projection:
            self.project = parts["trans"] = nn.Sequential(
                nn.Linear(row, hidden), nn.Tanh(), nn.Linear(hidden, wide)
            )
        state = nn.ModuleDict(parts).state_dict()
        named = {f"transformer.prefix_encoder.{k}": v for k, v in state.items()}
        torch.save(named, folder / "pytorch_model.bin")

    def states(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(keys, values) [LENGTH, heads, width] of each layer."""
        with torch.no_grad():
            flat = self.project(self.table.weight)
        shape = (LENGTH, 2 * self.layers, self.heads, self.width)
        one = flat.view(shape).unbind(1)
        return list(zip(one[0::2], one[1::2], strict=True))

    def load(self, build: Path) -> Any:
        """The tuned model, from the base checkpoint and the encoder's own."""
        package = builds.import_build(compile_model(self.folder, build))
        return package.load(self.base, dtype="float32", tuned=self.folder)


def glm(checkpoint: Path) -> Any:
    """transformers' `glm` with the weights of a ChatGLM3 checkpoint."""
    c, stored = edits.read_config(checkpoint), tensors_of(checkpoint)
    heads, groups = c["num_attention_heads"], c["multi_query_group_num"]
    config = transformers.GlmConfig(
        vocab_size=c["padded_vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["ffn_hidden_size"],
        num_hidden_layers=c["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=c["kv_channels"],
        rms_norm_eps=c["layernorm_epsilon"],
        attention_bias=True,
        pad_token_id=0,
        eos_token_id=2,
    )
    names = {
        "embedding.word_embeddings": "embed_tokens",
        "encoder.final_layernorm": "norm",
        "encoder.layers": "layers",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }
    sizes = [n * c["kv_channels"] for n in (heads, groups, groups)]
    state: Tensors = {}
    for name, tensor in stored.items():
        for old, new in names.items():
            name = name.replace(old, new)
        name = name.replace("transformer.output_layer", "lm_head")
        name = name.replace("transformer.", "model.")
        if "query_key_value" in name:
            for slot, part in zip("qkv", torch.split(tensor, sizes), strict=True):
                own = name.replace("self_attention.query_key_value", "self_attn.X_proj")
                state[own.replace("X", slot)] = part
        elif "inv_freq" not in name:
            state[name] = tensor
    model = transformers.GlmForCausalLM._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    model.load_state_dict(state)
    return model.eval()


def ids_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two, the first with two pads on its left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 130, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return ids, mask


def by_transformers(tuned: Tuned) -> torch.Tensor:
    """Logits [2, 9, V] with the learned states as `past_key_values`."""
    ids, mask = ids_and_mask()
    cache = transformers.DynamicCache()
    for layer, (keys, values) in enumerate(tuned.states()):
        pair = (t.transpose(0, 1).expand(2, -1, -1, -1) for t in (keys, values))
        cache.update(*pair, layer)
    with torch.no_grad():
        out = glm(tuned.base)(
            ids,
            attention_mask=torch.cat((torch.ones(2, LENGTH), mask), 1),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
        )
    logits: torch.Tensor = out.logits
    return logits


def answers(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A prompt, and three tokens more one at a time."""
    cut = ids.shape[1] - 3
    with torch.no_grad():
        out = model(ids[:, :cut], attention_mask=mask[:, :cut])
        found = [out.logits]
        for at in range(cut, ids.shape[1]):
            cache = out.past_key_values
            out = model(ids[:, at : at + 1], past_key_values=cache)
            found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("projection", [False, True])
def test_chatglm3_equals_transformers_with_a_past(
    tmp_path: Path, projection: bool
) -> None:
    tuned = Tuned("chatglm3", tmp_path / "tuned", projection)
    model = tuned.load(tmp_path / "build")
    want, (ids, mask) = by_transformers(tuned), ids_and_mask()
    real = mask.bool()
    got = answers(model, ids, mask)
    torch.testing.assert_close(got[real], want[real], atol=TOLERANCE, rtol=0)
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
    model._learned = None
    assert not model.learned_states().requires_grad, "it is kept for later calls"


def written_out(
    states: Sequence[tuple[torch.Tensor, torch.Tensor]], sop: int
) -> Callable[..., torch.Tensor]:
    """qkv_attention of one whole row: every key in view, no cache."""

    def qkv_attention(qkv: torch.Tensor, kv: Any, **given: Any) -> torch.Tensor:
        q, k, v = qkv.view(*qkv.shape[:2], 3, given["heads"], -1)[0].unbind(1)
        q, k = (turned(x, given["cos"][0], given["sin"][0]) for x in (q, k))
        own = states[kv.cache.own.index(kv)]
        k, v = torch.cat((own[0], k)), torch.cat((own[1], v))
        rows = torch.arange(len(q))[:, None]
        columns = torch.arange(len(k))[None] - len(own[0])
        seen = (columns < 0) | (columns <= rows) | (columns < sop)
        scores = torch.einsum("rhd,chd->hrc", q, k) * given["scale"]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("hrc,chd->rhd", weights, v).flatten(1)[None]

    return qkv_attention


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Channel i of each half of a head with i + a quarter, as complex numbers."""
    pairs = x.reshape(*x.shape[:-1], 2, 2, -1).transpose(-1, -2).contiguous()
    angle = torch.complex(cos, sin)
    angle = angle.reshape(*angle.shape[:-1], 2, -1)[:, None]
    out = torch.view_as_real(torch.view_as_complex(pairs) * angle)
    return out.transpose(-1, -2).reshape(x.shape)


def v1_by_hand(tuned: Tuned, plain: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the model without an encoder, its attention written out."""
    build = builds.import_build(plain)
    model = build.load(tuned.base, dtype="float32")
    reference = importlib.import_module(f"{build.__name__}.reference")
    ops = types.SimpleNamespace(**vars(reference))
    sop = int((ids[0] == tuned.config["bos_token_id"]).int().argmax())
    ops.qkv_attention = written_out(tuned.states(), sop)
    model.ops = ops
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


@pytest.mark.parametrize(
    ("ops", "projection"),
    [
        ("reference", False),
        ("reference", True),
        *first(0, [("kernels", True), ("kernels", False)]),
    ],
)
def test_chatglm_v1_equals_attention_written_out(
    compiled: Callable[[Path], Path], tmp_path: Path, projection: bool, ops: str
) -> None:
    tuned = Tuned("chatglm", tmp_path / "tuned", projection)
    model = tuned.load(tmp_path / "build")
    row = torch.tensor([[7, 9, 11, 13, 25, 137, 140, 31, 44, 8]])
    want = v1_by_hand(tuned, compiled(tuned.base), row)
    other = torch.tensor([[3, 3, 50, 9, 137, 51, 140, 52, 5, 6]])
    mask = torch.tensor([[1] * 10, [0, 0, *[1] * 8]])
    with interpreter() if ops == "kernels" else nullcontext():
        if ops == "kernels":
            model.ops = kernels_of(type(model).__module__.rpartition(".")[0])
        got = answers(model, torch.cat((row, other)), mask)
    torch.testing.assert_close(got[:1], want, atol=TOLERANCE, rtol=0)
    alone = v1_by_hand(tuned, compiled(tuned.base), other[:, 2:])
    torch.testing.assert_close(got[1:, 2:], alone, atol=TOLERANCE, rtol=0)


# Controls: each of these mistakes must show, or the tests above prove little.
@pytest.mark.parametrize(
    ("old", "new"), [("learned=5", "learned=0"), ('fn="tanh"', 'fn="silu"')]
)
def test_control_a_wrong_line_shows(old: str, new: str, tmp_path: Path) -> None:
    tuned = Tuned("chatglm3", tmp_path / "tuned", projection=True)
    right = compile_model(tuned.folder, tmp_path / "right")
    wrong = edits.with_source(right, tmp_path / "wrong", "model.py", old, new)
    model = builds.import_build(wrong).load(
        tuned.base, dtype="float32", tuned=tuned.folder
    )
    ids, mask = ids_and_mask()
    got, want = answers(model, ids, mask), by_transformers(tuned)
    assert (got - want)[mask.bool()].abs().max() > 10 * TOLERANCE


def test_a_merged_checkpoint_loads_too(tmp_path: Path) -> None:
    tuned = Tuned("chatglm3", tmp_path / "tuned", projection=False)
    apart = tuned.load(tmp_path / "build")
    merged = tensors_of(tuned.base) | tensors_of(tuned.folder)
    edits.write_config(tmp_path / "merged", tuned.config)
    torch.save(merged, tmp_path / "merged" / "pytorch_model.bin")
    whole = builds.load(tmp_path / "build", tmp_path / "merged")
    ids, mask = ids_and_mask()
    assert torch.equal(answers(whole, ids, mask), answers(apart, ids, mask))


def test_check_and_run_take_both_checkpoints(tmp_path: Path) -> None:
    tuned = Tuned("chatglm3", tmp_path / "tuned", projection=True)
    compile_model(tuned.folder, tmp_path / "build")
    base = (tmp_path / "build", "--weights", tuned.base)
    assert "is not a checkpoint of" in cli.refused(cli.glmc("check", *base))
    both = (*base, "--tuned", tuned.folder)
    checked = cli.glmc("check", *both)
    assert checked.returncode == 0, checked.stderr
    assert "0 missing" in checked.stdout
    ran = cli.glmc("run", *both, "--prompt-ids", "5,6,7", "--max-new-tokens", "2")
    assert ran.returncode == 0, ran.stderr


def test_a_base_checkpoint_alone_is_refused(tmp_path: Path) -> None:
    tuned = Tuned("chatglm3", tmp_path / "tuned", projection=False)
    build = builds.import_build(compile_model(tuned.folder, tmp_path / "build"))
    with pytest.raises(ValueError, match=r"prefix_encoder\.embedding\.weight"):
        build.load(tuned.base)
