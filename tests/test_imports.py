"""The imports that each room may make, and the files of an installed glmc."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

from support import EXAMPLES, GOLDEN, ROOT
from support.cli import python

# The rooms, and what of glmc each may import beside itself.
ROOMS: dict[str, set[str]] = {
    "ir": set(),
    "frontends": {"ir"},
    "specs": set(),
    "backends": {"ir", "codegen_templates"},
    "codegen_templates": set(),
}
#: Files of builds that a room uses as well: nothing of torch or of ours is in them.
SHARED = {"frontends": {"glmc.backends.runtime.patience"}}
#: Rooms with rooms of their own, and what they install as.
PACKAGES = [("glmc", "glmc"), ("frontends", "glmc.frontends")]
# Copied into every build, so they stand without glmc.
TRAVELLERS = {
    "backends/runtime": {"torch", "triton", "safetensors", "huggingface_hub", "tqdm"},
    "backends/torch/ops": {"torch"},
}
#: Files of a build that are imported as its `hf`, and nowhere else.
OF_HF = {
    *("pretrained", "pretrained_decoder", "pretrained_encoder", "accepted"),
    "pretrained_scorer",
}
#: Files of a build that import vLLM, which only the other files for it import.
OF_VLLM = {"vllm_interface", "vllm_registration"}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, at any depth."""
    package = _package(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(node, package)


def _from(node: ast.ImportFrom, package: list[str]) -> Iterator[str]:
    base = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    if module == "glmc":  # `from glmc import ir` imports a room
        yield from (f"glmc.{alias.name}" for alias in node.names)
    else:
        yield module


def _package(file: Path) -> list[str]:
    parts = file.relative_to(ROOT).parent.parts
    return list(parts) if parts[0] == "glmc" else ["glmc", *parts]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only(room: str) -> None:
    allowed, shared = {room, *ROOMS[room]}, SHARED.get(room, set())
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files(room)
        for name in imports(file)
        if name.partition(".")[0] == "glmc"
        and not _in_rooms(name, allowed)
        and name not in shared
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted({*chain(*SHARED.values())}))
def test_shared_files_stand_alone(name: str) -> None:
    file = ROOT / Path(*name.split(".")[1:]).with_suffix(".py")
    outer = {one.partition(".")[0] for one in imports(file)}
    assert outer <= {"huggingface_hub", *sys.stdlib_module_names}


def _in_rooms(name: str, allowed: set[str]) -> bool:
    _, *rest = name.split(".")
    return bool(rest) and rest[0] in allowed


@pytest.mark.parametrize("folder", TRAVELLERS)
def test_travelling_files_import_nothing_of_ours(folder: str) -> None:
    allowed = TRAVELLERS[folder] | set(sys.stdlib_module_names)
    # The files of a build lie beside each other; ops may use those of the runtime.
    home = ("glmc." + folder.replace("/", "."), "glmc.backends.runtime")
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files(folder)
        for name in imports(file)
        if name.partition(".")[0] not in allowed | _others(file)
        and not name.startswith(home)
    ]
    assert wrong == []


def _others(file: Path) -> set[str]:
    if file.stem in OF_VLLM:
        return {"transformers", "vllm"}
    return {"transformers", "accelerate"} if file.stem in OF_HF else set()


def test_nothing_but_its_own_files_imports_what_is_for_vllm() -> None:
    """A build runs without vLLM, and its files for vLLM take it from two places."""
    home = "glmc.backends.runtime."
    for file in files("backends/runtime"):
        if not file.stem.startswith("vllm_"):
            reached = {name.removeprefix(home) for name in imports(file)}
            assert not [name for name in reached if name.startswith("vllm")], file


def test_nothing_but_hf_imports_what_hf_is_made_of() -> None:
    """The rest of a build is free of transformers."""
    home = "glmc.backends.runtime."
    for file in files("backends/runtime"):
        if file.stem not in OF_HF:
            reached = {name.removeprefix(home) for name in imports(file)}
            # Only tapping, which is of hf too, asks it for the reference.
            assert not reached & OF_HF or file.stem == "tapping", file


@pytest.mark.parametrize(("room", "package"), PACKAGES)
def test_the_rooms_within_have_no_circle(room: str, package: str) -> None:
    arrows = _arrows(room, package)
    assert len(arrows) > 5
    TopologicalSorter(arrows).prepare()  # raises CycleError


def test_control_a_circle_is_seen() -> None:
    arrows = _arrows("glmc", "glmc")
    arrows["files"] = arrows["files"] | {"command"}
    with pytest.raises(CycleError, match="files"):
        TopologicalSorter(arrows).prepare()


def _arrows(room: str, package: str) -> dict[str, set[str]]:
    """The folders and modules of a room, and those that each of them imports."""
    found: dict[str, set[str]] = {}
    for file in files(room):
        inner = file.relative_to(ROOT / room).parts[0].removesuffix(".py")
        names = [n.removeprefix(f"{package}.") for n in imports(file)
                 if n.startswith(f"{package}.")]  # fmt: skip
        there = {name.partition(".")[0] for name in names} - {inner, *ROOMS}
        found.setdefault(inner, set()).update(there)
    return {name: there & set(found) for name, there in found.items()}


def test_no_room_is_imported_bare() -> None:
    folders = [*ROOMS, "glmc", "tests", "bench", "examples"]
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for folder in folders
        for file in files(folder)
        if "typeroot" not in file.parts
        for name in imports(file)
        if name.partition(".")[0] in ROOMS
    ]
    assert wrong == []


def test_control_the_walker_sees_every_form(tmp_path: Path) -> None:
    code = "import glmc.a\nfrom glmc import b\nfrom glmc.c import d\n"
    nested = "def f():\n    from ..e import g\n    from . import h\n"
    node = ast.parse(code + nested)
    froms = [n for n in ast.walk(node) if isinstance(n, ast.ImportFrom)]
    names = {name for n in froms for name in _from(n, ["glmc", "room", "sub"])}
    assert names == {"glmc.b", "glmc.c", "glmc.room.e", "glmc.room.sub"}


def test_packages_are_the_folders_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setuptools = listed["tool"]["setuptools"]
    rooms = {
        ".".join(("glmc", *init.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    face = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in (ROOT / "glmc").rglob("__init__.py")
    }
    found = rooms | face
    assert set(setuptools["packages"]) == found
    assert set(setuptools["package-dir"]) == {"glmc"} | {f"glmc.{r}" for r in ROOMS}


def test_every_folder_with_python_is_a_package() -> None:
    wrong = {
        str(file.parent.relative_to(ROOT))
        for room in (*ROOMS, "glmc")
        for file in files(room)
        if not (file.parent / "__init__.py").exists()
    }
    assert wrong == set()


def test_mypy_sees_every_module() -> None:
    """tests/typeroot/glmc links to each room and to what the face consists of."""
    links = ROOT / "tests" / "typeroot" / "glmc"
    face = {file.name for file in (ROOT / "glmc").glob("*.py")}
    face |= {init.parent.name for init in (ROOT / "glmc").glob("*/__init__.py")}
    assert {link.name for link in links.iterdir()} == face | set(ROOMS)
    assert all(link.exists() for link in links.iterdir())


LIGHT = """
import json, sys
from glmc.command.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as stop:
    code = stop.code
heavy = [name for name in sys.argv[1].split(",") if name in sys.modules]
print("\\n" + json.dumps([code or 0, heavy]))
"""

HEAVY = ["torch", "transformers", "triton", "numpy"]
# What a command has no use for, and is quicker without.
UNUSED = {
    "compile": ["glmc.backends.triton.aot", "networkx"],
    "inspect": [
        "glmc.ir.passes",
        "glmc.frontends.spec",
        "glmc.compile.driver",
        "jinja2",
    ],
}


def test_compile_inspect_and_check_are_light(tmp_path: Path) -> None:
    """None of them imports torch or transformers: that alone would cost seconds."""
    build = tmp_path / "build"
    commands: list[list[str | Path]] = [
        ["compile", GOLDEN / "chatglm3", "-o", build],
        ["compile", EXAMPLES / "configs/llama-3.1-70b.json", "-o", tmp_path / "llama"],
        ["inspect", build],
        ["inspect", build, "--diff", "lowered", "act-mul"],
        ["inspect", build, "--trace", "seq_length"],
        ["explain", "act-mul"],
        [
            "ir",
            build / "ir" / "1-lowered.glmc",
            "--pipeline",
            "-o",
            tmp_path / "x.glmc",
        ],
        [
            "compile",
            "--from-ir",
            build / "ir" / "0-model.glmc",
            "-o",
            tmp_path / "again",
        ],
        ["check", build, "--weights", GOLDEN / "chatglm3"],
    ]
    for command in commands:
        names = ",".join([*HEAVY, *UNUSED.get(str(command[0]), [])])
        run = python(LIGHT, names, *command, cwd=tmp_path)
        assert run.stdout, run.stderr
        code, heavy = json.loads(run.stdout.splitlines()[-1])
        assert (code, heavy) == (0, []), (command, run.stderr)
