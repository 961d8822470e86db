"""Files and config that disagree about quantisation: told with cause and next step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from glmc import compile_model
from glmc.command.cli import main
from glmc.ir.errors import GlmcError
from glmc.use.quantizing import quantize
from support import GOLDEN, builds, edits

SOURCE = GOLDEN / "chatglm3"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every way of storing it."""
    base = tmp_path_factory.mktemp("stored")
    found = {"float": SOURCE}
    for bits in (4, 8):
        for embeddings in (False, True):
            name = f"int{bits}{'-qe' * embeddings}"
            found[name] = base / name
            quantize(str(SOURCE), found[name], bits, embeddings=embeddings)
    return found


def config(bits: int | None, embeddings: bool = False) -> dict[str, object]:
    keys: dict[str, object] = {} if bits is None else {"quantization_bit": bits}
    return keys | ({"quantization_embeddings": True} if embeddings else {})


# files, what the config says, the cause, the next step
CASES = [
    ("float", config(4), "hold float weights", "quantization_bit=0"),
    (
        "float",
        config(8),
        "hold float weights",
        "glmc quantize CHECKPOINT -o OUT --bits 8",
    ),
    ("int4", config(None), "hold int4 weights", "quantization_bit=4"),
    ("int8", config(0), "hold int8 weights", "quantization_bit=8"),
    ("int4", config(8), "would be read as int8", "quantization_bit=4"),
    ("int8", config(4), "would be read as int4", "quantization_bit=8"),
    ("int8", config(8, True), "holds floats", "quantization_embeddings=false"),
    ("int4-qe", config(4), "is quantised in the files", "quantization_embeddings=true"),
]


@pytest.mark.parametrize(("files", "says", "cause", "step"), CASES)
def test_every_way_to_meet_it(
    files: str,
    says: dict[str, object],
    cause: str,
    step: str,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = folders[files]
    keys = edits.read_config(SOURCE) | says
    alone = edits.write_config(tmp_path / "alone", keys)
    # No weights there: the config rules. They will be pickles.
    (alone / "pytorch_model.bin.index.json").write_text("{}")
    build = compile_model(alone, tmp_path / "build")
    # check tells it from headers,
    assert main(["check", str(build), "--weights", str(checkpoint)]) == 2
    told = capsys.readouterr().err
    assert cause in told
    assert step in told
    # loading tells it,
    with pytest.raises(ValueError, match="does not fit this model") as error:
        builds.load(build, checkpoint)
    assert cause in str(error.value)
    assert step in str(error.value)
    # and compiling, where the weights lie beside the config.
    shutil.copytree(checkpoint, tmp_path / "beside")
    beside = edits.write_config(tmp_path / "beside", keys)
    with pytest.raises(GlmcError) as refusal:
        compile_model(beside, tmp_path / "other")
    assert cause in str(refusal.value)
    assert step in str(refusal.value)


@pytest.mark.parametrize("files", ["int4", "int8", "int4-qe", "int8-qe"])
def test_the_next_step_works(
    files: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    bits = int(files[3])
    sets = [f"quantization_bit={bits}"]
    sets += ["quantization_embeddings=true"] if files.endswith("-qe") else []
    config_file = (
        edits.write_config(tmp_path, edits.read_config(SOURCE)) / "config.json"
    )
    build = compile_model(config_file, tmp_path / "build", sets=tuple(sets))
    builds.load(build, folders[files])


@pytest.mark.parametrize(("files", "says"), [("int4", None), ("float", 4)])
def test_a_bare_index_tells_too(
    files: str, says: int | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Names alone: a quantised weight has a scale beside it."""
    keys = edits.read_config(SOURCE) | config(says)
    folder = edits.write_config(tmp_path / "bare", keys)
    (index,) = folders[files].glob("*.index.json")
    (folder / index.name).write_bytes(index.read_bytes())
    with pytest.raises(GlmcError, match="quantization_bit"):
        compile_model(folder, tmp_path / "build")


def test_check_says_it_to_machines(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = compile_model(folders["int4"], tmp_path / "build")
    for files, ok in (("int4", True), ("int8", False)):
        code = main(["check", str(build), "--weights", str(folders[files]), "--json"])
        facts = json.loads(capsys.readouterr().out)
        assert (facts["ok"], code) == (ok, 0 if ok else 2)
        assert (facts["fault"] is None) == ok


@pytest.mark.parametrize("bits", [3, 16, True, "4", -4])
def test_other_bits_are_refused(bits: object, tmp_path: Path) -> None:
    folder = edits.write_config(
        tmp_path, edits.read_config(SOURCE) | {"quantization_bit": bits}
    )
    with pytest.raises(GlmcError, match="must be 0, 4 or 8"):
        compile_model(folder, tmp_path / "build")
