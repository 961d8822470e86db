"""``glmc export``: what a repository holds, what a wheel holds, and what is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from glmc import compile_model
from glmc.command.cli import main
from support import GOLDEN, edits
from support import encoders as enc
from support import tiny as tinies
from support.cli import python
from support.variants import BY_NAME


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A build's folder and its checkpoint, which came with code."""
    folder = tmp_path_factory.mktemp("export")
    tinies.make(BY_NAME["llama-gqa"], folder / "checkpoint")
    (folder / "checkpoint/modeling_llama.py").write_text("raise SystemExit")
    (folder / "checkpoint/LICENSE").write_text("terms")
    tokenizer = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": "x.X"}}
    (folder / "checkpoint/tokenizer_config.json").write_text(json.dumps(tokenizer))
    compile_model(folder / "checkpoint", folder / "my_build")
    return folder / "my_build", folder / "checkpoint"


def export(pair: tuple[Path, Path], out: Path, *more: str) -> int:
    return main(
        ["export", str(pair[0]), "--weights", str(pair[1]), "-o", str(out), *more]
    )


def test_a_repository(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert export(pair, tmp_path / "repo") == 0
    out = tmp_path / "repo"
    config = json.loads((out / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "modeling_build.BuildConfig",
        "AutoModelForCausalLM": "modeling_build.BuildForCausalLM",
    }
    assert config["architectures"] == ["AutoModelForCausalLM"]
    published = edits.read_config(pair[1])
    assert {**config, **published} == {
        **config,
        "architectures": published["architectures"],
    }
    files = {path.name for path in out.iterdir()}
    assert {"LICENSE", "README.md", "model.py", "kernels.py", "compiled.json"} <= files
    assert "modeling_llama.py" not in files  # code that came with the model
    assert "auto_map" not in (out / "tokenizer_config.json").read_text()
    weights = out / "model.safetensors"
    assert weights.samefile(pair[1] / "model.safetensors")
    for name in ("model.py", "hf.py", "weights.py"):
        assert (out / name).read_text() == (pair[0] / name).read_text()
    card = (out / "README.md").read_text()
    assert "30 tensors bound and 0 waived" in card
    assert (
        'AutoModelForCausalLM.from_pretrained("repo", trust_remote_code=True)' in card
    )
    text = (out / "modeling_build.py").read_text()
    assert len(text.splitlines()) < 45
    for module in ("kernels", "reference", "weights", "graphs"):
        assert f"from .{module} import" in text  # or transformers leaves it behind


def test_weights_may_be_copied(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert export(pair, tmp_path / "repo", "--copy", "--json") == 0
    weights = tmp_path / "repo/model.safetensors"
    assert not weights.samefile(pair[1] / "model.safetensors")
    assert weights.read_bytes() == (pair[1] / "model.safetensors").read_bytes()


def test_every_file_that_a_repository_names_is_there(tmp_path: Path) -> None:
    """transformers opens each file that a text imports, also for type checkers."""
    case = enc.BY_NAME["masked-lm"]
    enc.make(case, tmp_path / "bert")
    sources = {
        "bert": (tmp_path / "bert", dict(case.options)),
        "glm": (GOLDEN / "chatglm", {}),
    }
    for name, (checkpoint, options) in sources.items():
        build = compile_model(checkpoint, tmp_path / f"{name}_build", **options)
        assert export((build, checkpoint), tmp_path / f"{name}_out") == 0
        from transformers.dynamic_module_utils import get_relative_import_files

        module = tmp_path / f"{name}_out/modeling_build.py"
        found = {Path(path).name for path in get_relative_import_files(module)}
        assert all((module.parent / file).is_file() for file in found)
        assert {"model.py", "weights.py", "reference.py", "saving.py"} <= found
        for file in module.parent.glob("*.py"):
            compile(file.read_text(), str(file), "exec")


def test_a_wheel(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["export", str(pair[0]), "--wheel", "-o", str(tmp_path / "a")]) == 0
    assert main(["export", str(pair[0]), "--wheel", "-o", str(tmp_path / "b")]) == 0
    (wheel,) = (tmp_path / "a").iterdir()
    assert wheel.name == "my_build-0.1.0-py3-none-any.whl"
    assert wheel.read_bytes() == (tmp_path / "b" / wheel.name).read_bytes()
    run = python(INSTALL, wheel, tmp_path / "site", pair[1], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["128", "RECORD", "complete"]


INSTALL = """
import base64, csv, hashlib, sys, zipfile
from pathlib import Path
wheel, site, checkpoint = sys.argv[1:]
zipfile.ZipFile(wheel).extractall(site)
sys.path.insert(0, site)
import my_build
print(my_build.load(checkpoint).vocab_size)
info = next(Path(site).glob("*.dist-info"))
listed = {row[0]: row[1:] for row in csv.reader((info / "RECORD").open())}
there = {p.relative_to(site).as_posix() for p in Path(site).rglob("*") if p.is_file()}
assert {name for name in there if "__pycache__" not in name} == set(listed)
for name, (digest, size) in listed.items():
    data = (Path(site) / name).read_bytes()
    if digest:
        made = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        assert digest == "sha256=" + made.rstrip("="), name
        assert int(size) == len(data)
print("RECORD complete")
"""


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert main(["export", *map(str, argv)]) == 2
    return capsys.readouterr().err


def test_what_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, checkpoint = pair
    whole = ("--weights", checkpoint, "-o")
    assert "needs --weights" in refused(capsys, build)
    assert "weights are no part" in refused(capsys, build, "--wheel", "--weights", "x")
    (tmp_path / "taken").mkdir()
    assert "exists" in refused(capsys, build, *whole, tmp_path / "taken")
    other = edits.write_config(
        tmp_path / "other", edits.read_config(checkpoint) | {"rms_norm_eps": 0.5}
    )
    shutil.copy(checkpoint / "model.safetensors", other)
    told = refused(capsys, build, "--weights", other, "-o", tmp_path / "out")
    assert "rms_norm_eps is 0.5" in told
    tinies.make(BY_NAME["gpt2-tied"], tmp_path / "gpt2")
    told = refused(
        capsys, build, "--weights", tmp_path / "gpt2", "-o", tmp_path / "out"
    )
    assert "is not a checkpoint of" in told
    shutil.copytree(build, tmp_path / "my-build")
    assert "no name that a package" in refused(capsys, tmp_path / "my-build", "--wheel")
    manifest = json.loads((build / "manifest.json").read_text())
    changed = tmp_path / "changed"
    shutil.copytree(build, changed)
    del manifest["files"]["hf.py"]
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert "has no hf.py" in refused(capsys, changed, *whole, tmp_path / "out")
    manifest["files"] |= {"hf.py": "0" * 64, "own/gate.py": "0" * 64}
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert "kernels of yours" in refused(capsys, changed, *whole, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("changed", "gpt2", "my-build", "other", "taken"),
    ]


def test_a_wheel_is_a_sound_archive(pair: tuple[Path, Path], tmp_path: Path) -> None:
    main(["export", str(pair[0]), "--wheel", "-o", str(tmp_path)])
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        metadata = archive.read("my_build-0.1.0.dist-info/METADATA").decode()
    assert "Requires-Dist: torch>=2.9" in metadata
    assert 'Requires-Dist: transformers>=5.0; extra == "hf"' in metadata
