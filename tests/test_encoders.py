"""Encoders answer what transformers answers, within 5e-5 in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from glmc.ir.errors import GlmcError
from support import builds, edits
from support import tiny as tinies
from support.cli import glmc, refused
from support.configs import BERT
from support.encoders import (
    BY_NAME,
    ENCODERS,
    POSITIONS,
    TOLERANCE,
    TYPES,
    Encoder,
    answers,
    inputs,
    make,
    read,
    reference,
    worst,
    write_reference,
)
from support.measured import Record, record

CALLS = inputs()


@dataclass(frozen=True)
class Case:
    """A checkpoint, transformers' answers on it, and the build for it."""

    checkpoint: Path
    answers: Path
    build: Path

    def model(self) -> Any:
        return builds.load(self.build, self.checkpoint)


MakeCase = Callable[[str], Case]


@pytest.fixture(scope="session")
def case(shared_folder: Path) -> MakeCase:
    """Make (once for all workers) what the tests of one encoder need."""

    def get(name: str) -> Case:
        def fill(folder: Path) -> None:
            encoder = BY_NAME[name]
            make(encoder, folder / "checkpoint")
            write_reference(
                encoder, folder / "checkpoint", folder / "answers.safetensors"
            )
            source = folder / "checkpoint"
            compile_model(source, folder / "build", **encoder.options)

        folder = builds.once(shared_folder / "encoders" / name, fill)
        return Case(
            folder / "checkpoint", folder / "answers.safetensors", folder / "build"
        )

    return get


@pytest.mark.parametrize(
    ("encoder", "call"),
    [
        pytest.param(
            encoder,
            call,
            id=f"{encoder}-{call}",
            marks=[pytest.mark.slow] * ((one + other) % 2),
        )
        for one, encoder in enumerate(ENCODERS)
        for other, call in enumerate(CALLS)
        if encoder.types or call != "types"
    ],
)
def test_answers(
    encoder: Encoder, call: str, case: MakeCase, record_property: Record
) -> None:
    found = case(str(encoder))
    got = answers(found.model(), CALLS[call])
    seen = None if encoder.whole else CALLS[call].get("attention_mask")
    difference = worst(got, reference(found.answers, call), seen)
    record(record_property, found.build, "transformers", call, difference)
    assert difference <= TOLERANCE


def test_outputs_by_name_and_index(case: MakeCase) -> None:
    model = case("gelu").model()
    out = model(**CALLS["plain"])
    assert out["pooler_output"] is out[1] is out.pooler_output
    bare = case("no-pooler").model()(**CALLS["plain"])
    assert bare.pooler_output is None
    (logits,) = case("masked-lm").model()(**CALLS["plain"])
    assert logits.shape == (3, 19, 128)


def test_passes_are_verified(case: MakeCase, tmp_path: Path) -> None:
    plain = ("gelu", "masked-lm", "no-pooler", "roberta", "distilbert-relu")
    # No kernel takes windows, or numbers by distance.
    others = ("mpnet", "modernbert-masked-lm", "eurobert", "nomic_bert")
    for name in (*plain, *others):
        compile_model(
            case(name).checkpoint,
            tmp_path / name,
            verify_passes=True,
            strict=name in plain,
            **BY_NAME[name].options,
        )


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        (
            "modernbert",
            "ops: {attn: {window: 6}}\nignore: {local_attention: planted}",
        ),
        ("modernbert", "ops: {attn: {rope: {params: \"=rope('sliding_attention')\"}}}"),
        ("mpnet", "ops: {attn: {distances: {furthest: 64}}}"),
        ("mpnet", "ops: {attn: {distances: {buckets: 28}}}"),
        (
            "nomic_bert",
            "weights: {gate: {name: mlp.fc11}, up: {name: mlp.fc12}}",
        ),
    ],
)
def test_control_a_wrong_spec_of_its_own_shows(
    name: str, mistake: str, case: MakeCase, tmp_path: Path
) -> None:
    found, spec = case(name), tmp_path / "wrong.yaml"
    spec.write_text(f"extends: {name}\n{mistake}\n")
    build = compile_model(found.checkpoint, tmp_path / "build", spec=spec)
    got = answers(builds.load(build, found.checkpoint), CALLS["plain"])
    assert worst(got, reference(found.answers, "plain")) > 10 * TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(dtype: str, case: MakeCase) -> None:
    found = case("gelu")
    build = builds.import_build(found.build)
    model = build.load(found.checkpoint, dtype=dtype)
    got = answers(model, CALLS["padded on the right"])
    want = reference(found.answers, "padded on the right")
    assert worst({k: v.float() for k, v in got.items()}, want) < 0.1


# Controls: each of these mistakes must show, or the tests above prove little.
MISTAKES = (
    ("layer_norm_eps", 1.9e-2, "plain"),
    ("hidden_act", "gelu_new", "plain"),
    ("num_attention_heads", 2, "plain"),
)


@pytest.mark.parametrize(("key", "wrong", "call"), MISTAKES)
def test_control_a_wrong_config_value_shows(
    key: str, wrong: Any, call: str, case: MakeCase, tmp_path: Path
) -> None:
    found = case("gelu")
    source = edits.with_config(found.checkpoint, tmp_path / "source", {key: wrong})
    build = compile_model(source, tmp_path / "build")
    model = builds.load(build, found.checkpoint, allow_config_drift=True)
    got = answers(model, CALLS[call])
    assert worst(got, reference(found.answers, call)) > 4 * TOLERANCE


WRONG_LINES = (
    ("gelu", "bias=self.qkv_bias", "bias=None", "plain"),
    ("gelu", "kh, vh, mask", "kh, vh, None", "padded on the right"),
    ("gelu", "ops.embedding(types,", "ops.embedding(types * 0,", "types"),
    ("gelu", "ops.embedding(pos,", "ops.embedding(pos.flip(1),", "padded on the left"),
    ("gelu", "_, x1 = ops.add", "x1, _ = ops.add", "plain"),
    ("gelu", 'fn="tanh"', 'fn="gelu"', "one token"),
    ("gelu", "ops.first_token(x)", "x[:, 1]", "holes"),
    ("roberta", "padding = 1", "padding = 0", "plain"),
    ("roberta", "    padding = 1\n", "", "ids of padding on the left"),
    ("masked-lm", "act, self.transform_", "dense, self.transform_", "plain"),
)


@pytest.mark.parametrize(("name", "old", "new", "call"), WRONG_LINES)
def test_control_a_wrong_line_shows(
    name: str, old: str, new: str, call: str, case: MakeCase, tmp_path: Path
) -> None:
    found = case(name)
    wrong = edits.with_source(found.build, tmp_path / "build", "model.py", old, new)
    got = answers(builds.load(wrong, found.checkpoint), CALLS[call])
    assert worst(got, reference(found.answers, call)) > 10 * TOLERANCE


WRONG_SPECS = (
    ("roberta", "embed: {padding: 0}", "plain"),
    ("roberta", "embed: {padding: null}", "ids of padding on the left"),
    (
        "roberta-masked-lm",
        "ops: {mlp: {act: \"='gelu' if c.hidden_act == 'relu' else 'silu'\"}}",
        "plain",
    ),
    ("roberta", "norm: {eps: =0.9 * c.layer_norm_eps}", "plain"),
    ("electra", "ops: {attn: {scale: 1.0}}", "plain"),
    (
        "distilbert",
        "ops: {mlp: {act: \"='relu' if c.activation == 'gelu' else 'gelu'\"}}",
        "plain",
    ),
    (
        "distilbert",
        "embed_norm: {name: distilbert.embeddings.LayerNorm, eps: 1.0e-1}",
        "plain",
    ),
)


@pytest.mark.parametrize(("name", "mistake", "call"), WRONG_SPECS)
def test_control_a_wrong_spec_shows(
    name: str, mistake: str, call: str, case: MakeCase, tmp_path: Path
) -> None:
    found = case(name)
    spec = tmp_path / "wrong.yaml"
    base = name.partition("-")[0]
    spec.write_text(f"extends: {base}\n{mistake}\n")
    build = compile_model(found.checkpoint, tmp_path / "build", spec=spec)
    got = answers(builds.load(build, found.checkpoint), CALLS[call])
    assert worst(got, reference(found.answers, call)) > 4 * TOLERANCE


def published(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the first BERT checkpoints are: a prefix, old names, a buffer of numbers."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    found = {}
    for name, tensor in tensors.items():
        for today, then in old.items():
            name = name.replace(today, then)
        full = name if name.startswith("cls.") else f"bert.{name.removeprefix('bert.')}"
        found[full] = tensor
    found["bert.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    return found


@pytest.mark.parametrize("name", ["gelu", "masked-lm", "pretraining"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_names_of_the_first_checkpoints(
    name: str, form: str, case: MakeCase, tmp_path: Path
) -> None:
    found = case(name)
    edits.write_config(tmp_path, edits.read_config(found.checkpoint))
    tensors = published(tinies.tensors_of(found.checkpoint))
    if form == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    build = compile_model(tmp_path, tmp_path / "build")
    run = glmc("check", build, "--weights", tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    call = CALLS["types"]
    got = answers(builds.load(build, tmp_path), call)
    assert worst(got, answers(read(BY_NAME[name], tmp_path), call)) <= TOLERANCE
    assert worst(got, reference(found.answers, "types")) <= TOLERANCE


def test_positions_that_begin_after_padding_end_earlier(case: MakeCase) -> None:
    model = case("roberta").model()
    with pytest.raises(ValueError, match="has learned 24 positions"):
        model(torch.full((1, POSITIONS + 1), 5))


def test_a_projected_embedding_is_refused(case: MakeCase, tmp_path: Path) -> None:
    source = edits.with_config(
        case("electra").checkpoint, tmp_path / "source", {"embedding_size": 32}
    )
    told = refused(glmc("compile", source, "-o", tmp_path / "build"))
    assert "embedding_size must be hidden_size" in told


def test_a_checkpoint_without_its_pooler_is_told(case: MakeCase) -> None:
    """The variant follows from the config, which does not say what was saved."""
    with_pooler, without = case("gelu"), case("no-pooler")
    run = glmc("check", with_pooler.build, "--weights", without.checkpoint)
    assert "variant 'encoder'; --variant chooses another" in refused(run)
    assert "missing  bert.pooler.dense.weight" in run.stdout
    with pytest.raises(ValueError, match=r"missing: bert\.pooler"):
        builds.load(with_pooler.build, without.checkpoint)
    run = glmc("check", without.build, "--weights", with_pooler.checkpoint)
    assert run.returncode == 0
    assert "compiled without its pooler" in run.stdout


def test_a_wrong_tensor_is_told(case: MakeCase, tmp_path: Path) -> None:
    found = case("gelu")
    tensors = tinies.tensors_of(found.checkpoint)
    name = "encoder.layer.1.attention.output.LayerNorm.weight"
    tensors[name] = tensors[name][:-1].clone()
    tensors["encoder.layer.1.extra"] = torch.zeros(3)
    edits.write_config(tmp_path, edits.read_config(found.checkpoint))
    save_file(tensors, tmp_path / "model.safetensors")
    run = glmc("check", found.build, "--weights", tmp_path)
    refused(run)
    assert f"wrong    {name}" in run.stdout
    assert "unused   encoder.layer.1.extra" in run.stdout


def test_commands_that_generate_refuse(case: MakeCase) -> None:
    found = case("gelu")
    arguments = ("--weights", found.checkpoint, "--prompt-ids", "5,6")
    assert "is an encoder" in refused(glmc("run", found.build, *arguments))


def test_inspect(case: MakeCase) -> None:
    run = glmc("inspect", case("gelu").build)
    assert run.returncode == 0, run.stderr
    assert "full_attention" in run.stdout
    assert "\n  cache " not in run.stdout


def test_a_build_holds_only_what_it_needs(case: MakeCase) -> None:
    files = {path.name for path in case("gelu").build.glob("*.py")}
    assert "encoder.py" in files
    assert not files & {"causal_lm.py", "cache.py", "generation.py", "sampling.py"}


REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a decoder": ({"is_decoder": True}, "is_decoder"),
    "relative positions": (
        {"position_embedding_type": "relative_key"},
        "position_embedding_type",
    ),
    "heads": ({"num_attention_heads": 5}, "num_attention_heads"),
    "an activation": ({"hidden_act": "mish"}, "hidden_act"),
    "a classifier of tokens": (
        {"architectures": ["BertForTokenClassification"]},
        "BertForTokenClassification",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_CONFIGS)
def test_configs_that_are_refused(kind: str, case: MakeCase, tmp_path: Path) -> None:
    values, word = REFUSED_CONFIGS[kind]
    source = tmp_path / "source"
    edits.write_config(source, edits.read_config(case("gelu").checkpoint) | values)
    assert word in refused(glmc("compile", source, "-o", tmp_path / "build"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_type_ids": torch.full((3, 19), TYPES)}, "token_type_ids"),
        ({"token_type_ids": torch.zeros(3, 18, dtype=torch.int64)}, "token_type_ids"),
        ({"position_ids": torch.full((3, 19), POSITIONS)}, "position_ids"),
        ({"attention_mask": torch.ones(3, 18, dtype=torch.bool)}, "attention_mask"),
        ({"attention_mask": torch.zeros(3, 19, dtype=torch.bool)}, "row 0"),
        ({"input_ids": torch.full((1, POSITIONS + 1), 5)}, "24 positions"),
        ({"input_ids": torch.full((1, 3), 128)}, "vocabulary"),
    ],
)
def test_calls_that_are_refused(
    change: dict[str, torch.Tensor], words: str, case: MakeCase
) -> None:
    model = case("gelu").model()
    with pytest.raises(ValueError, match=words):
        model(**{**CALLS["plain"], **change})


# Controls: a wrong head of a classifier must show.
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("bert-classes", "act: relu"),
        ("electra-classes", "act: tanh"),
        ("modernbert-classes", "norm: null"),
    ],
)
def test_control_a_wrong_classifier_shows(
    name: str, mistake: str, case: MakeCase, tmp_path: Path
) -> None:
    found = case(name)
    spec = tmp_path / "wrong.yaml"
    parent = name.removesuffix("-classes")
    change = f"{{classifier: {{spec: {{head: {{{mistake}}}}}}}}}"
    spec.write_text(f"extends: {parent}\nvariants: {change}\n")
    build = compile_model(found.checkpoint, tmp_path / "build", spec=spec)
    model = builds.load(build, found.checkpoint, strict=False)
    got = answers(model, CALLS["plain"])
    assert worst(got, reference(found.answers, "plain")) > 10 * TOLERANCE


def test_classes_are_counted(tmp_path: Path) -> None:
    """By num_labels, or by their names; two where the config says nothing."""
    config = {**BERT, "architectures": ["BertForSequenceClassification"]}
    names = {str(i): f"LABEL_{i}" for i in range(4)}
    for more, count in (({}, 2), ({"num_labels": 3}, 3), ({"id2label": names}, 4)):
        source = edits.write_config(tmp_path / str(count), {**config, **more})
        build = compile_model(source, tmp_path / f"build{count}")
        assert f"logits of classes [B, {count}]" in (build / "model.py").read_text()


def test_a_mean_of_all_tokens_is_refused(case: MakeCase, tmp_path: Path) -> None:
    config = edits.read_config(case("modernbert-classes").checkpoint)
    source = edits.write_config(tmp_path, config | {"classifier_pooling": "mean"})
    with pytest.raises(GlmcError, match="a mean of all tokens is another classifier"):
        compile_model(source, tmp_path / "build")
