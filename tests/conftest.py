"""Fixtures of all tests: checkpoints made once for all workers, and their builds."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from support import builds, ranges
from support.variants import CACHE_MATTERS, Tiny, Variant

# One clock for all workers, also for one that takes the place of a worker that ended.
BEGAN = float(os.environ.setdefault("GLMC_TESTS_BEGAN", str(time.monotonic())))
# Property tests draw constants of what is imported. Builds and emitted kernels must
# not be among it: thousands would be read, and what is drawn would depend on which
# tests ran before. Hypothesis leaves out what lies below a folder of this name.
TEMPORARY = Path(tempfile.gettempdir(), f"glmc-{os.getuid()}", "tests")
TEMPORARY.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(TEMPORARY))
settings.register_profile(ranges.WHOLE, settings.get_profile("default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes",
        type=float,
        help="skip what has not begun after so many minutes, instead of running it",
    )
    parser.addoption(
        "--turn",
        type=int,
        default=0,
        help="begin with another file, by a number that differs from run to run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the turn's order: xdist would begin with the files of most tests."""
    if config.getoption("--turn"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Begin with the file whose turn it is, so that in some turns all of them are run
    where time is short. Files of which no test is wanted have been left out by now."""
    turn: int = config.getoption("--turn")
    place = ranges.turned((item.path for item in items), turn)
    items.sort(key=lambda item: place[item.path] if turn else 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"no time left of {minutes:g} minutes")


def pytest_collection_finish() -> None:
    """Look for cycles seldom, and not among what imports and collecting made: a search
    through torch, transformers and some thousand tests frees nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all xdist workers of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny(shared_folder: Path) -> Callable[[Variant], Tiny]:
    """Make (once) the checkpoint of a variant and transformers' logits on it."""

    def get(variant: Variant) -> Tiny:
        def make(folder: Path) -> None:
            # Imported late: transformers costs seconds that most tests need not pay.
            from support import reference, tiny

            tiny.make(variant, folder / "checkpoint")
            file = folder / "reference.safetensors"
            reference.write(
                folder / "checkpoint",
                file,
                far=variant.far,
                counted=variant.counted,
                attention=variant.attention,
                steps=variant.name in CACHE_MATTERS,
            )

        folder = builds.once(shared_folder / "tiny" / str(variant), make)
        return Tiny(variant, folder / "checkpoint", folder / "reference.safetensors")

    return get


@pytest.fixture(scope="session")
def compiled(shared_folder: Path) -> Callable[[Path], Path]:
    """Compile (once) a model folder of this run and give the build's folder."""

    def get(source: Path) -> Path:
        def make(folder: Path) -> None:
            from glmc import compile_model

            compile_model(source, folder / "build")

        name = "-".join(source.parts[-2:])
        return builds.once(shared_folder / "builds" / name, make) / "build"

    return get
