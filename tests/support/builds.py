"""Compiling in the tests' own process, and importing what came out."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

_numbers = itertools.count()


def import_build(folder: Path) -> ModuleType:
    """Import the package in `folder` under a name that no other build has."""
    name = f"tested_build_{next(_numbers)}"
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, init, submodule_search_locations=[str(folder)]
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
