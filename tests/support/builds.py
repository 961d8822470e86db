"""Compiling in the tests' own process, and importing what came out."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from filelock import FileLock

_PREFIX = "tested_build_"
_numbers = itertools.count()
_compiled: dict[bytes, CodeType] = {}


class _Loader(SourceFileLoader):
    """Compile each text once: of most files of a build there is one in all builds."""

    def get_code(self, fullname: str) -> CodeType:
        text = Path(self.path).read_bytes()
        if text not in _compiled:
            _compiled[text] = compile(text, self.path, "exec", dont_inherit=True)
        return _in_file(_compiled[text], self.path)


def _in_file(code: CodeType, path: str) -> CodeType:
    """The same code as that of another file: Triton reads a kernel's text there."""
    if code.co_filename == path:
        return code
    parts = (
        _in_file(part, path) if isinstance(part, CodeType) else part
        for part in code.co_consts
    )
    return code.replace(co_filename=path, co_consts=tuple(parts))


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the modules of builds that are imported here, and no others."""
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder)


def import_build(folder: Path) -> ModuleType:
    """Import the package in `folder` under a name that no other build has."""
    name = f"{_PREFIX}{next(_numbers)}"
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name,
        init,
        loader=_Loader(name, str(init)),
        submodule_search_locations=[str(folder)],
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Make `folder` once for all workers of a test run; it appears whole or not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            draft = folder.with_name(folder.name + ".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


def load(build: Path, checkpoint: Path, **options: Any) -> Any:
    """The build's model with the weights of `checkpoint`, fp32 on the CPU."""
    options = {"device": "cpu", "dtype": "float32", **options}
    return import_build(build).load(checkpoint, **options)
