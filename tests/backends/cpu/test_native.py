"""Libraries of C++: found, compiled, or a sentence why there is none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.backends.runtime import native
from glmc.compile.driver import Options, compile_files
from glmc.ir.errors import AheadOfTimeError, KernelDtypeError
from support import GOLDEN, builds

CHATGLM3 = GOLDEN / "chatglm3"
IDS = torch.tensor([[5, 6, 7, 8]])


def compiler(folder: Path, body: str) -> str:
    """A compiler that notes each call, and then does what `body` says to "$out"."""
    path = folder / "compiler"
    path.write_text(
        '#!/bin/sh\necho called >> "$(dirname "$0")/calls"\n'
        'for word; do [ "$last" = "-o" ] && out=$word; last=$word; done\n' + body
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def build(shared_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A build whose libraries, if any, come to a folder of this test."""

    def make(folder: Path) -> None:
        compile_model(CHATGLM3, folder / "build", target="cpu")

    folder = builds.once(shared_folder / "cpu" / "golden", make) / "build"
    module = builds.import_build(folder)
    own = __import__(f"{module.__name__}.native", fromlist=["native"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(own, "writable", lambda place: place != own.SOURCES)
    monkeypatch.setattr(own, "file_name", lambda *_: f"{tmp_path.name}.so")
    (tmp_path / "glmc" / "cpu").mkdir(parents=True)
    return module


def refused(build: Any, sentence: str) -> None:
    """The reference computes, and a warning says why."""
    with pytest.warns(UserWarning, match=sentence):
        model = build.load(CHATGLM3)
    assert model.engine is None
    assert torch.isfinite(model(IDS).logits).all()


def test_no_compiler(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    refused(build, r"no C\+\+ compiler .* --target cpu --aot cpu:")


def test_a_compiler_that_fails(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = 'echo "model.cpp:3: error: no such thing" >&2; echo more >&2; exit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, body))
    refused(build, "failed: model.cpp:3: error: no such thing")
    (log,) = (tmp_path / "glmc" / "cpu").glob("*.log")
    assert log.read_text().endswith("no such thing\nmore\n")
    assert not list((tmp_path / "glmc" / "cpu").glob("*.so"))


def test_a_library_that_is_none(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo no library > "$out"'))
    refused(build, "cannot be loaded")


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("avx9", "is none of avx512bf16, avx512, avx2, neon, generic"),
        ("neon" if native.levels()[0] != "neon" else "avx2", "this processor has no "),
    ],
)
def test_instructions_that_there_are_not(
    build: Any, monkeypatch: pytest.MonkeyPatch, wanted: str, sentence: str
) -> None:
    monkeypatch.setenv("GLMC_CPU", wanted)
    refused(build, sentence)


def test_nowhere_to_put_a_library(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = __import__(f"{build.__name__}.native", fromlist=["native"])
    monkeypatch.setattr(own, "writable", lambda _: False)
    refused(build, "can be written to")


def test_of_two_that_want_a_library_one_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = 'sleep 0.3; echo half > "$out"; sleep 0.3; echo whole >> "$out"'
    monkeypatch.setenv("CXX", compiler(tmp_path, body))
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    path = tmp_path / "x.so"
    found: list[str] = []

    def want() -> None:
        found.append(native.compile_to(path, []).read_text())

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["half\nwhole\n"] * 3
    assert (tmp_path / "calls").read_text() == "called\n"
    assert {p.name for p in tmp_path.iterdir()} == {"x.so", "compiler", "calls"}


def test_a_library_that_came_with_the_build_needs_no_compiler(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    level = native.levels()[-1]

    def make(folder: Path) -> None:
        chips = (f"cpu:{level}",)
        compile_model(CHATGLM3, folder / "build", target="cpu", aot=chips)

    folder = builds.once(shared_folder / "cpu" / "ahead", make) / "build"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = builds.import_build(folder).load(CHATGLM3)
    assert model.engine is not None  # the best there is, though not of this machine
    found = model(IDS).logits
    model.engine = None
    assert torch.allclose(model(IDS).logits, found, atol=1e-4)
    with pytest.warns(
        UserWarning, match=rf"that came with it are for {level}\) and no"
    ):
        other = builds.import_build(folder).load(CHATGLM3, dtype="bfloat16")
    assert other.engine is None


def ahead(chip: str, **given: Any) -> Any:
    return compile_files(CHATGLM3, Options(target="cpu", aot=(chip,), **given))


def test_what_cannot_be_compiled_ahead_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    other = "cpu:avx2" if native.levels()[0] == "neon" else "cpu:neon"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(AheadOfTimeError, match=rf"{other} needs a C\+\+ compiler for"):
        ahead(other)
    monkeypatch.undo()
    broken = compiler(
        tmp_path,
        'if [ "$1" = -dumpmachine ]; then echo x86_64-linux; exit; fi\n'
        'echo "model.cpp:3: error: no such thing" >&2; exit 1',
    )
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(AheadOfTimeError, match=r"for cpu:generic: model\.cpp:3: error"):
        ahead("cpu:generic")
    with pytest.raises(KernelDtypeError, match="no kernels for dtype 'f64'"):
        ahead("cpu:generic", aot_dtypes=("f64",))


def test_a_dtype_without_kernels_runs_by_the_reference(build: Any) -> None:
    with pytest.warns(UserWarning, match="no kernels for torch.float64"):
        model = build.load(CHATGLM3, dtype="float64")
    assert model(IDS).logits.dtype == torch.float64


@pytest.mark.parametrize("lesser", [True, False])
def test_without_a_compiler_a_lesser_library_that_came_with_it_serves(
    lesser: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Path:
        raise native.NoLibrary("no compiler")

    monkeypatch.setattr(native, "SOURCES", tmp_path)
    monkeypatch.setattr(native, "levels", lambda: ["best", "worse", "least"])
    monkeypatch.setattr(native, "sources", dict)
    monkeypatch.setattr(native, "file_name", lambda level, *_: f"{level}.so")
    monkeypatch.setattr(native, "made", none)
    monkeypatch.setattr(native, "opened", lambda path: path.name)
    if lesser:
        (tmp_path / "least.so").touch()
        assert native.library.__wrapped__(torch.float32) == "least.so"
    else:
        with pytest.raises(native.NoLibrary, match="no compiler"):
            native.library.__wrapped__(torch.float32)
