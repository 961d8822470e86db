"""`glmc specs new`: a draft from config keys, tensor names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.authoring.drafting import Draft, draft
from glmc.command.cli import main
from glmc.frontends.spec.library import builtin_specs, load_spec
from glmc.ir.errors import GlmcError
from support import builds, edits, reference
from support.parity import SCENARIOS, TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]


def without(*hidden: str) -> Mapping[str, Path]:
    """The built-in specs but for some and what extends them."""
    gone = {f"specs/{name}.yaml" for name in hidden}
    return {
        name: path
        for name, path in builtin_specs().items()
        if gone.isdisjoint(file.name for file in load_spec(path).files)
    }


def worst(text: str, case: Tiny, folder: Path) -> float:
    """The largest logit difference of a build from a spec's text."""
    spec = folder / "draft.yaml"
    spec.write_text(text)
    build = compile_model(case.checkpoint, folder / "build", spec=spec, force=True)
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    return max(SCENARIOS[name](model, expected) for name in ("prompt", "decode"))


# Variant; specs to hide (with all that extend them); keys that a person decides on.
_WINDOWS = {"max_window_layers", "use_sliding_window"}
_DROPOUTS = {"attn_pdrop", "embd_pdrop", "resid_pdrop", "scale_attn_weights"}
_SUMMARY = {"summary_proj_to_labels", "summary_type", "summary_use_proj"}
CASES = {
    "llama-gqa": ("llama", set()),
    "gpt2-tied": ("gpt2", _DROPOUTS | _SUMMARY),
    "qwen3-window": ("qwen3", _WINDOWS),
    "llama-mqa": ("llama", set()),
    "llama-tied": ("llama", set()),
    "llama-wide_heads": ("llama", set()),
    "qwen2-tied": ("qwen2", _WINDOWS),
    "qwen3-full": ("qwen3", _WINDOWS),
}


def decided(made: Draft) -> str:
    """The draft with a reason for each key that it found no place for."""
    lines = "".join(f"  {key}: decided\n" for key in made.trial.unknown)
    before, _, after = made.text.partition("\nignore:\n")
    return f"{before}\nignore:\n{lines}{after}" if lines else made.text


@pytest.mark.parametrize("name", first(3, [*CASES]))
def test_a_draft_from_nothing_has_parity(
    name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    hidden, keys = CASES[name]
    case = tiny(BY_NAME[name])
    made = draft(str(case.checkpoint), without(hidden))
    assert made.extends is None
    assert made.trial.tensors_fit
    assert set(made.trial.unknown) <= keys
    assert worst(decided(made), case, tmp_path) <= TOLERANCE


def test_a_draft_marks_what_headers_cannot_tell(tiny: MakeTiny, tmp_path: Path) -> None:
    """GLM turns pairs of neighbours; the draft asks, and the wrong answer shows."""
    case = tiny(BY_NAME["glm-partial"])
    made = draft(str(case.checkpoint), without("glm"))
    assert made.trial.tensors_fit
    lines = made.text.splitlines()
    at = next(i for i, line in enumerate(lines) if "style: half" in line)
    assert "# ? half" in lines[at - 1]
    assert worst(made.text, case, tmp_path) > 10 * TOLERANCE
    right = made.text.replace("style: half", "style: interleaved")
    assert worst(right, case, tmp_path) <= TOLERANCE


def test_a_known_format_is_extended(tiny: MakeTiny, tmp_path: Path) -> None:
    """A new model type in Llama's format is a spec of five lines."""
    case = tiny(BY_NAME["llama-biases"])
    changed = {"model_type": "newcomer", "architectures": ["NewcomerForCausalLM"]}
    folder = edits.with_config(case.checkpoint, tmp_path / "new", changed)
    made = draft(str(folder))
    assert (made.extends, made.doubts, made.trial.unknown) == ("llama", 1, ())
    assert "# ? 'newcomer' has the tensors of 'llama', and another name" in made.text
    spec = tmp_path / "my.yaml"
    spec.write_text(made.text)
    build = compile_model(folder, tmp_path / "build", spec=spec)
    model = builds.load(build, folder)
    assert SCENARIOS["decode"](model, reference.read(case.reference)) <= TOLERANCE


def test_what_a_parent_assumes_is_asked(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    config = edits.read_config(case.checkpoint)
    del config["rms_norm_eps"]
    folder = copied(case.checkpoint, tmp_path / "sparse")
    edits.write_config(folder, config)
    text = draft(str(folder)).text
    assert "the config is silent, llama takes this" in text
    assert "  rms_norm_eps: 1.0e-06" in text


def test_a_key_nobody_knows_is_asked(tiny: MakeTiny, tmp_path: Path) -> None:
    """Granite's tensors have Llama's names; its multipliers must not get lost."""
    case = tiny(BY_NAME["llama-gqa"])
    more = {"embedding_multiplier": 12.0, "use_new_thing": False, "summary_type": "x"}
    folder = copied(case.checkpoint, tmp_path / "scaled")
    edits.write_config(folder, edits.read_config(folder) | more)
    made = draft(str(folder))
    assert made.extends == "llama"
    assert made.trial.unknown == ("embedding_multiplier",)
    assert "# ? embedding_multiplier: 12.0" in made.text
    assert "use_new_thing: [null, false]" in made.text
    assert re.search(r"^  summary_type: '\w+: task heads'$", made.text, re.M)
    spec = tmp_path / "my.yaml"
    spec.write_text(made.text)
    with pytest.raises(GlmcError, match="embedding_multiplier"):
        compile_model(folder, tmp_path / "build", spec=spec)


def copied(source: Path, folder: Path) -> Path:
    """A copy whose tensors may be changed."""
    edits.write_config(folder, edits.read_config(source))
    save_file(load_file(source / "model.safetensors"), folder / "model.safetensors")
    return folder


def changed(
    source: Path, folder: Path, change: Callable[[str, torch.Tensor], str | None]
) -> Path:
    """A copy with tensors renamed, or left out where the new name is None."""
    tensors = load_file(source / "model.safetensors")
    renamed = {change(name, tensor): tensor for name, tensor in tensors.items()}
    renamed.pop(None, None)
    edits.write_config(folder, edits.read_config(source))
    save_file(renamed, folder / "model.safetensors")  # type: ignore[arg-type]
    return folder


def test_names_that_no_spec_has(tiny: MakeTiny, tmp_path: Path) -> None:
    """By name and shape a person's guess, and each guess is marked."""
    case = tiny(BY_NAME["llama-gqa"])
    names = {
        "model.layers": "tower.blocks",
        "model.embed_tokens": "tower.tok_embeddings",
        "model.norm": "tower.last_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def rename(name: str, _: torch.Tensor) -> str:
        for old, new in names.items():
            name = name.replace(old, new)
        return name

    folder = changed(case.checkpoint, tmp_path / "renamed", rename)
    made = draft(str(folder))
    assert made.trial.tensors_fit, made.text
    for line in ("q: attention.wq", "gate: feed_forward.w1"):
        assert line in made.text, made.text
    assert "# ? q by its name and shape, is it?" in made.text
    assert worst(made.text, Tiny(case.variant, folder, case.reference), tmp_path) <= (
        TOLERANCE
    )


def test_tensors_without_a_slot_are_named(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    folder = copied(case.checkpoint, tmp_path / "more")
    tensors = load_file(folder / "model.safetensors")
    for i in range(3):
        start = f"model.layers.{i}."
        tensors[f"{start}self_attn.sinks"] = torch.zeros(4)
        for j in range(4):
            tensors[f"{start}mlp.experts.{j}.up_proj.weight"] = torch.zeros(96, 64)
    tensors["model.layers.1.extra.weight"] = torch.zeros(64)
    save_file(tensors, folder / "model.safetensors")
    made = draft(str(folder))
    assert made.extends is None
    assert not made.trial.tensors_fit
    for words in (
        "tensors without a slot: mlp.experts.{j}.up_proj [96, 64]",
        "tensors without a slot: model.layers.{i}.self_attn.sinks",
        "layers differ: extra is only in layer 1",
    ):
        assert words in " ".join(made.text.replace("#   ", "").split()), words
    assert made.text.count("experts") < 8


def test_a_matrix_that_is_missing_is_told(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["llama-gqa"])

    def drop(name: str, _: torch.Tensor) -> str | None:
        return None if "down_proj" in name else name

    made = draft(str(changed(case.checkpoint, tmp_path / "less", drop)))
    assert "weights has no entry for 'down'" in made.trial.complaints()[0]


@pytest.mark.parametrize(
    "odd", first(2, ["a\nextends: gpt2", "x\u2028y: 1", "a b", "if", "é"])
)
def test_hostile_names_stay_data(odd: str, tiny: MakeTiny, tmp_path: Path) -> None:
    """Nothing that a config or a header says can add a line to the draft."""
    case = tiny(BY_NAME["llama-gqa"])
    folder = copied(case.checkpoint, tmp_path / "odd")
    config = edits.read_config(folder)
    edits.write_config(folder, config | {odd: config["vocab_size"], "model_type": odd})
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{odd}.weight"] = torch.zeros(64)
    tensors[f"model.layers.0.{odd}.weight"] = torch.zeros(64, 64)
    save_file(tensors, folder / "model.safetensors")
    for known in (builtin_specs(), without("llama")):
        spec = tmp_path / "my.yaml"
        spec.write_text(draft(str(folder), known).text)
        tree = load_spec(spec).tree
        assert tree["match"]["model_type"] == [odd]  # type: ignore[index]
        assert "V" in tree["dims"]  # type: ignore[operator]


def test_the_command(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(tiny(BY_NAME["qwen3-full"]).checkpoint), tmp_path / "my.yaml"
    assert main(["specs", "new", checkpoint]) == 0
    text = capsys.readouterr().out
    assert "extends: qwen3" in text
    assert main(["specs", "new", checkpoint, "-o", str(out)]) == 0
    assert out.read_text() == text
    told = capsys.readouterr().out
    assert "extends qwen3, 0 marks" in told
    assert "every tensor of the checkpoint is accounted for" in told
    assert main(["specs", "new", checkpoint, "-o", str(out)]) == 2
    assert "--force writes over it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no config.json"),
        ({"model_type": "x", "hidden_size": 64}, "number of attention heads"),
    ],
)
def test_refusals(
    config: dict[str, object] | None, message: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    folder = copied(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path / "bad")
    if config is None:
        (folder / "config.json").unlink()
    else:
        edits.write_config(folder, config)
    with pytest.raises(GlmcError, match=message):
        draft(str(folder))


def test_a_checkpoint_without_layers(tmp_path: Path) -> None:
    edits.write_config(tmp_path, {"model_type": "x"})
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(GlmcError, match="no tensor has a number in its name"):
        draft(str(tmp_path))


def test_the_text_part_of_a_composite(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["glm4v-text"])
    made = draft(str(case.checkpoint), without("glm4v", "glm4v_moe"))
    assert "text_in: text_config" in made.text
    assert "layer_prefix: model.language_model.layers.{i}." in made.text
    assert "K: =c.num_key_value_heads" in made.text
    assert "post: post_self_attn_layernorm" in made.text
    left = {line.split(".")[1] for line in made.trial.unused if "." in line}
    assert left <= {"visual"}
