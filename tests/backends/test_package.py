"""The files of the runtime that a build takes along."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.backends import runtime
from glmc.backends.package import siblings
from glmc.backends.runtime.tokenizer.loading import VOCABULARIES
from glmc.compile.driver import TOKENIZERS, Options, compile_files, compile_model
from glmc.compile.dumps import rebuild
from support.builds import import_build
from support.configs import CHATGLM, GLM4, GLM4_MOE, LLAMA

#: Shows that a folder is a checkpoint, and not a config that was copied alone.
WEIGHTS = "model.safetensors.index.json"
FILES = sorted(Path(next(iter(runtime.__path__))).glob("*.py"))


def imported(node: ast.AST) -> Iterator[str]:
    """The siblings that run-time imports of a parsed file name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.level == 1:
            yield from [child.module] if child.module else (a.name for a in child.names)
        yield from imported(child)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_siblings_are_what_a_parser_finds(path: Path) -> None:
    text = path.read_text("utf-8")
    assert siblings(text) == list(imported(ast.parse(text)))


def test_imports_for_types_and_within_functions_are_told_apart() -> None:
    text = """\
if TYPE_CHECKING:
    from .types import A

    from .more import B
from .first import C


def late():
    from .second import D
"""
    assert siblings(text) == ["first", "second"]


def test_a_module_imported_whole_is_a_sibling_of_its_own_kind() -> None:
    text = "from . import weights, loading\nfrom .model import Model\n"
    assert siblings(text) == ["weights", "loading", "model"]
    assert siblings(text, whole=False) == ["model"]


def packaged(config: dict[str, Any], folder: Path, *beside: str) -> dict[str, str]:
    """The Python files of a build; ``beside`` are files that lie there, too."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    for name in beside:
        (folder / name).touch()
    files = compile_files(path, Options()).files
    return {n: str(text) for n, text in files.items() if n.endswith(".py")}


def test_a_build_of_floats_has_nothing_for_codes(tmp_path: Path) -> None:
    files = packaged(LLAMA, tmp_path)
    assert not {"codes.py", "quantization.py"} & files.keys()
    assert "dequant" not in files["reference.py"]
    assert "quantized" not in files["reference.py"]


def test_a_build_of_codes_has_what_reads_them(tmp_path: Path) -> None:
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
    files = packaged(LLAMA | {"quantization_config": quantised}, tmp_path)
    assert {"codes.py", "quantization.py"} <= files.keys()
    assert "dequantize" in files["reference.py"]


def test_no_file_of_a_build_imports_what_it_lacks(tmp_path: Path) -> None:
    for config in (LLAMA, GLM4_MOE):
        files = packaged(config, tmp_path, "tokenizer.json")
        for name, text in files.items():
            if "/" not in name:
                lacking = {f"{one}.py" for one in siblings(text)} - files.keys()
                assert {one for one in lacking if one != "tokenizer.py"} == set(), name


GLM_FILES = {"glm", "identity", "chat", "ranks", "sentencepiece", "pieces"}


def tokenizers(files: dict[str, str]) -> set[str]:
    """The modules of a build's tokenizer."""
    start = "tokenizer/"
    return {n.removeprefix(start)[:-3] for n in files if n.startswith(start)}


def test_only_builds_of_glm_have_its_tokenizers(tmp_path: Path) -> None:
    files = packaged(LLAMA, tmp_path, "tokenizer.json")
    assert "tokenizer_json" in tokenizers(files)
    assert not GLM_FILES & tokenizers(files)
    assert "chatglm" not in files["__init__.py"]
    for config in (CHATGLM, GLM4):
        files = packaged(config, tmp_path)
        assert tokenizers(files) >= GLM_FILES
        assert '"chatglm3"' in files["__init__.py"]


def test_a_build_refuses_vocabularies_that_it_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    build = compile_model(tmp_path, tmp_path / "build")
    module = import_build(build)
    with pytest.raises(ValueError, match="but there is only tokenizer"):
        module.load_tokenizer(tmp_path)


def lines(files: dict[str, str]) -> int:
    return sum(text.count("\n") for text in files.values())


def test_a_build_takes_what_the_files_beside_its_config_call_for(
    tmp_path: Path,
) -> None:
    alone = packaged(LLAMA, tmp_path, WEIGHTS)
    assert not tokenizers(alone)
    assert "pickle_machine.py" not in alone
    everything = packaged(LLAMA, tmp_path, "tokenizer.json", "pytorch_model.bin")
    assert lines(everything) - lines(alone) > 3000
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "pytorch_model.bin").unlink()
    for name in TOKENIZERS:
        beside = packaged(LLAMA, tmp_path, name)
        (tmp_path / name).unlink()
        assert tokenizers(beside), name
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        beside = packaged(LLAMA, tmp_path, name)
        (tmp_path / name).unlink()
        assert "pickle_machine.py" in beside, name
    assert {*VOCABULARIES} <= {*TOKENIZERS}


def test_what_is_not_here_may_be_anything(tmp_path: Path) -> None:
    both = {"pickle_machine.py", "tokenizer/tokenizer.py"}
    assert both <= compile_files("llama-3.1-8b", Options()).files.keys()
    assert both <= packaged(LLAMA, tmp_path).keys()


def test_a_build_says_what_it_did_not_take(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / WEIGHTS).touch()
    build = import_build(compile_model(tmp_path, tmp_path / "build"))
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="it has none; compile the model again"):
        build.load_tokenizer(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="so it cannot read any"):
        build.load(tmp_path)


def test_a_build_from_a_dump_takes_what_the_build_before_had(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / WEIGHTS).touch()
    without = compile_model(tmp_path, tmp_path / "without")
    (tmp_path / "tokenizer.json").touch()
    within = compile_model(tmp_path, tmp_path / "within")
    assert not tokenizers(rebuild(without / "ir/0-model.glmc"))
    assert tokenizers(rebuild(within / "ir/0-model.glmc"))
