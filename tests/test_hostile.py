"""Nothing from a model folder runs, and no string of a config becomes code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.ir.errors import GlmcError
from support import GOLDEN, builds, edits
from support.cli import glmc, refused
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

INJECTED = "injected_by_config"
RENDERED = "rendered_by_jinja"
STRINGS = {
    "quote": f"x'; {INJECTED}()  # '",
    "double quote": f'x"; {INJECTED}()  # "',
    "triple quotes": f'"""\n{INJECTED}()\n"""',
    "single triples": f"'''\n{INJECTED}()\n'''",
    "newline": f"x\n{INJECTED}()\n",
    "carriage return": f"x\r{INJECTED}()\r",
    "unicode newline": f"x\u2028{INJECTED}()\x0c{INJECTED}()\x85{INJECTED}()",
    "jinja": "{{ 'rendered_' ~ 'by_jinja' }}{% set x = 1 %}{# #}",
    "jinja line": "\n#% set x = 'rendered_' ~ 'by_jinja'\n{{ x }}",
    "unicode name": r"\N{DIGIT ONE}\x41\u0041",
    "bad escape": "\\N{no such name} \\x \\",
    "null": f"x\0{INJECTED}()",
    "surrogate": "\ud800",
    "f-string": f"{{{INJECTED}()}}",
    "class body": f"Model(object): pass\n{INJECTED}()\nclass X",
}
FIELDS = (
    "_name_or_path",
    "model_type",
    "architectures",
    "torch_dtype",
    "auto_map",
    "transformers_version",
    "hidden_act",
)


@pytest.mark.parametrize("family", first(1, ["chatglm3", "llama-gqa"]))
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", STRINGS)
def test_strings_never_become_code(
    kind: str,
    field: str,
    family: str,
    tiny: Callable[[Variant], Tiny],
    tmp_path: Path,
) -> None:
    known = family in BY_NAME
    source = tiny(BY_NAME[family]).checkpoint if known else GOLDEN / family
    config = edits.read_config(source)
    config[field] = _as_field(field, STRINGS[kind])
    edits.write_config(tmp_path / "model", config)
    build, refusal = compiled_or_refused(tmp_path / "model", tmp_path / "build")
    assert "\n\n" not in refusal, "one paragraph"
    assert build.exists() != bool(refusal)
    check_emitted(build)


def compiled_or_refused(source: Path, build: Path) -> tuple[Path, str]:
    """Compile `source`; also gives the message when glmc refuses to."""
    try:
        return compile_model(source, build), ""
    except GlmcError as refusal:
        return build, str(refusal)


def _as_field(field: str, text: str) -> Any:
    if field == "architectures":
        return [text]
    if field == "auto_map":
        return {"AutoModelForCausalLM": text, text: "modeling_chatglm.Model"}
    return text


@pytest.mark.parametrize("kind", STRINGS)
def test_keys_never_become_code(kind: str, tmp_path: Path) -> None:
    config = {**edits.read_config(GOLDEN / "chatglm3"), STRINGS[kind]: 1}
    edits.write_config(tmp_path / "model", config)
    with pytest.raises(GlmcError) as refusal:  # an unknown key is refused by name
        compile_model(tmp_path / "model", tmp_path / "build")
    assert "\n\n" not in str(refusal.value)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("kind", STRINGS)
def test_folder_names_never_become_code(kind: str, tmp_path: Path) -> None:
    name = STRINGS[kind].replace("\0", "").replace("\ud800", "").replace("/", "")
    source = edits.write_config(
        tmp_path / (name[:80] or "x"), edits.read_config(GOLDEN / "chatglm3")
    )
    check_emitted(compile_model(source, tmp_path / "build"))


def check_emitted(build: Path) -> None:
    """Every emitted module parses, and mentions a payload in strings at most."""
    for file in build.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert RENDERED not in text, file.name
        names = set(_names(ast.parse(text)))
        assert INJECTED not in names, file.name
    for file in build.rglob("*.json"):
        assert RENDERED not in file.read_text(encoding="utf-8"), file.name
        json.loads(file.read_text(encoding="utf-8"))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def test_control_the_check_finds_an_injection(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(f'NAME = "{STRINGS["double quote"]}"\n')
    with pytest.raises(AssertionError):
        check_emitted(tmp_path)


@pytest.mark.parametrize(
    "form", ["modeling_chatglm.{}", "owner/repo--modeling_chatglm.{}"]
)
def test_published_code_is_never_imported(form: str, tmp_path: Path) -> None:
    """A modeling file that would leave a trace lies beside the config."""
    model, trace = tmp_path / "model", tmp_path / "trace"
    cls = "ChatGLMForConditionalGeneration"
    code = f"open({str(trace)!r}, 'w').close()\nclass {cls}: pass\n"
    edits.write_config(model, edits.read_config(GOLDEN / "chatglm3"))
    for shard in GOLDEN.joinpath("chatglm3").glob("pytorch_model*"):
        (model / shard.name).write_bytes(shard.read_bytes())
    config = edits.read_config(model)
    config["auto_map"] = {
        "AutoConfig": form.format("ChatGLMConfig"),
        "AutoModelForCausalLM": form.format(cls),
    }
    edits.write_config(model, config)
    for name in ("modeling_chatglm", "configuration_chatglm", "quantization", "setup"):
        (model / f"{name}.py").write_text(code)
    (model / "__init__.py").write_text(code)
    build = tmp_path / "build"
    commands: list[list[str | Path]] = [
        ["compile", model, "-o", build],
        ["inspect", build],
        ["check", build, "--weights", model],
    ]
    for command in commands:
        run = glmc(*command, cwd=model)  # even from within the folder
        assert run.returncode == 0, run.stderr
    builds.load(build, model)
    assert not trace.exists()


OUTSIDE = (
    "../outside.bin",
    "sub/../../outside.bin",
    "{absolute}",
    "~/outside.bin",
    "..\\outside.bin",
    "file:///etc/passwd",
    "",
    ".",
    "\0",
    "x\n.bin",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_weight_map_stays_in_its_folder(
    path: str, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    """A file beside the folder holds valid weights; still it must not be read."""
    model = tmp_path / "model"
    edits.write_config(model, edits.read_config(GOLDEN / "chatglm3"))
    outside = tmp_path / "outside.bin"
    index = json.loads((GOLDEN / "chatglm3/pytorch_model.bin.index.json").read_text())
    for file in set(index["weight_map"].values()):
        (model / file).write_bytes((GOLDEN / "chatglm3" / file).read_bytes())
    name, file = next(iter(index["weight_map"].items()))
    outside.write_bytes((model / file).read_bytes())
    index["weight_map"][name] = path.format(absolute=outside)
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    build = compiled(GOLDEN / "chatglm3")
    refused(glmc("check", build, "--weights", model))
    with pytest.raises(ValueError, match=r"\w+"):
        builds.load(build, model)


def test_pickles_are_not_executed(
    compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    """A .bin that would run code on unpickling is refused, and does not run."""
    model, trace = tmp_path / "model", tmp_path / "trace"
    edits.write_config(model, edits.read_config(GOLDEN / "chatglm3"))
    command = f"cposix\nsystem\n(S'touch {trace}'\ntR."
    (model / "pytorch_model.bin").write_bytes(command.encode())
    build = compiled(GOLDEN / "chatglm3")
    refused(glmc("check", build, "--weights", model))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        builds.load(build, model)
    assert not trace.exists()
