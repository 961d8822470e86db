"""`glmc specs`: the list, one spec with all it inherits, the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from glmc.authoring.listing import entries
from glmc.command.cli import main
from glmc.frontends.spec.library import builtin_folder, builtin_specs, load_spec
from support import ROOT, told
from support.configs import FAMILIES
from support.ranges import first
from support.variants import VARIANTS

FILES = sorted(builtin_folder().glob("*.yaml"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "specs")
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert list(rows) == list(builtin_specs())
    assert "transformers" in rows["qwen3"]
    assert "golden" in rows["chatglm"]
    assert max(map(len, text.splitlines())) < 160


def test_the_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(run(capsys, "specs", "--json"))}
    assert rows["qwen3"]["model_types"] == ["qwen3"]
    assert rows["qwen3"]["verified"] == "transformers"
    assert all(row["about"] for row in rows.values())


def test_what_says_to_be_verified_is_tested() -> None:
    """`transformers` is what a built-in spec says unless it says otherwise."""
    # Beside the variants: tests/test_encoders.py, test_stacked_*.py, test_renamed.py.
    tested = {v.family for v in VARIANTS} | {"bert", "qwen3_vl_moe", "qwen3_5_moe"}
    tested |= {"roberta", "xlm-roberta", "camembert", "distilbert", "electra"}
    tested |= {"mpnet", "modernbert", "eurobert", "nomic_bert"}
    tested |= {"mimo", "orion", "qianfan_ocr", "xverse"}
    read = {told.config_of(name)["model_type"] for name in told.NAMES}
    for entry in entries():
        if entry.verified == "text":
            assert read & set(entry.model_types), entry.name
        if entry.verified == "transformers":
            assert tested & set(entry.model_types), entry.name


# Every fourth in every run.
SHOWN = [*builtin_specs()][::4]
REST = [name for name in builtin_specs() if name not in SHOWN]


@pytest.mark.parametrize("name", [*SHOWN, *first(0, REST)])
def test_a_spec_shown_whole_is_the_same_spec(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "specs", "show", name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    shown, own = load_spec(path), load_spec(builtin_specs()[name])
    assert "extends:" not in text
    assert len(shown.files) == 1
    assert plain(shown.tree) == plain(own.tree)


def plain(value: Any) -> Any:
    """A tree without positions; expressions as their text."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value if isinstance(value, int | float | None) else str(value)


def test_sections_name_the_files_they_came_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = run(capsys, "specs", "show", "qwen3").splitlines()
    above = {line: lines[at - 1] for at, line in enumerate(lines)}
    assert above["per_layer:"] == "# from specs/qwen2.yaml"
    assert above["layers: =c.num_hidden_layers"] == "# from specs/llama.yaml"
    assert "specs/qwen3.yaml" in above["ops:"]
    assert "specs/llama.yaml" in above["ops:"]


def test_a_spec_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "specs", "show", "glm4", "--raw")
    assert text == builtin_specs()["glm4"].read_text()


def test_a_spec_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(FAMILIES["qwen3"]))
    text = run(capsys, "specs", "show", "qwen3", "--config", config)
    assert text.startswith("model(")
    assert "head_dim=128" in text
    run(capsys, "specs", "show", "gpt2", "--config", config, code=2)


def test_a_spec_of_ones_own_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("extends: llama\nops: {mlp: {act: gelu}}\n")
    text = run(capsys, "specs", "show", path)
    assert "mlp: {kind: mlp, act: gelu, ff: =F}" in text
    assert "verified: false" in text


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean qwen3?" in run(capsys, "specs", "show", "qwn3", code=2)


def test_the_limits_of_a_verified_spec_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = told.FOLDER / "qwen" / "config.json"
    assert main(["compile", str(source), "-o", str(tmp_path / "build")]) == 0
    assert "beyond seq_length tokens" in capsys.readouterr().err


def test_a_spec_of_ones_own_is_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, config = tmp_path / "my.yaml", tmp_path / "config.json"
    spec.write_text("extends: llama\n")
    config.write_text(json.dumps(FAMILIES["llama"]))
    command = ["compile", config, "-o", tmp_path / "build", "--json", "--spec", spec]
    assert json.loads(run(capsys, *command))["spec_verified"] is None
    assert main([str(word) for word in command]) == 0
    assert "The spec 'my' is unverified" in capsys.readouterr().err
    assert main([str(word) for word in command[:-2]]) == 0
    assert "unverified" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    from glmc.frontends.spec.schema import spec_schema

    schema = spec_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_spec_fits_the_schema(
    path: Path, validator: Draft202012Validator
) -> None:
    errors = validator.iter_errors(yaml.safe_load(path.read_text()))
    assert [f"{e.json_path}: {e.message}" for e in errors] == []


@pytest.mark.parametrize(
    "mistake",
    [
        "laeyrs: 3",
        "layers: many",
        "layers: true",
        "layers: 1.5",
        "dims: {V: [1]}",
        "norm: {kind: rsm}",
        "norm: {epsilon: 1.0e-5}",
        "ops: {attn: {kind: attention, hedas: 3}}",
        "ops: {attn: {kind: attention, mask: both}}",
        "block: [{opp: attn}]",
        "weights: {q: {nmae: q_proj}}",
        "weights: {q: 3}",
        "checks: {c: {that: H % K}}",
        "let: {x: 3}",
        "extends: [llama]",
        "variants: {v: {about: x, spec: {laeyrs: 3}}}",
    ],
)
def test_control_a_mistake_does_not_fit(
    mistake: str, validator: Draft202012Validator
) -> None:
    assert not validator.is_valid(yaml.safe_load(mistake))


@pytest.mark.parametrize(
    "overlay",
    [
        "ops: {attn: {rope: {style: interleaved}}}",
        "ops: {attn: {window: null}, mlp: null}",
        "weights: {q!: self_attn.q_proj, gate: null, k: {bias: =c.b}}",
        "dims!: {V: =c.v}",
        "expect: {a: [null, false], b: {values: [1]}}",
        "per_layer: {kind: '=c.kinds[i]'}",
        "verified: false",
        "layers: =c.n",
    ],
)
def test_overlays_fit(overlay: str, validator: Draft202012Validator) -> None:
    errors = validator.iter_errors(yaml.safe_load(overlay))
    assert [e.message for e in errors] == []


def test_the_schema_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from glmc.frontends.spec.schema import spec_schema

    assert json.loads(run(capsys, "specs", "schema")) == spec_schema()


def test_the_schema_tells_what_keys_mean() -> None:
    from glmc.frontends.spec.schema import spec_schema

    router = spec_schema()["$defs"]["MoeSpec"]["properties"]
    assert router["least_sum"]["description"] == "The least value of that sum."
    assert "description" not in router["experts"]


def test_the_docs_say_how_editors_find_the_schema() -> None:
    assert "yaml-language-server: $schema=" in (ROOT / "docs/specs.md").read_text()
