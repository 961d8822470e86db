"""``glmc tune``: measure launch parameters on the present GPU, for a build's shapes."""

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from glmc.files.replacing import write_file
from glmc.ir.errors import UnknownDeviceError
from glmc.look.builds import Build
from glmc.use.running import load_model

Tile = dict[str, int]

#: What is tried for a parameter; others stay. A size that a kernel cannot take raises
#: in Triton's compiler, and is passed over.
CANDIDATES: Mapping[str, tuple[int, ...]] = {
    "ROWS": (2, 4, 8, 16, 32, 64, 128),
    "SLOTS": (16, 32, 64, 128),
    "TOKENS": (32, 64, 128),
    "OUTPUTS": (32, 64, 128),
    "COLUMNS": (64, 128, 256, 512, 1024),
    "COLS": (8, 16, 32, 64, 128),
    "DEPTH": (32, 64, 128, 256, 512),
    "num_warps": (2, 4, 8),
    "num_stages": (1, 2, 3, 4),
}
#: Whoever shares columns among programs counts them in memory of a fixed size.
FIXED = {"PARTS": ("ROWS", "PARTS")}
#: By what part of the time a candidate has to be faster: less is noise.
GAIN = 0.02
#: How far results may lie from those of the defaults, relative to the largest.
CLOSE = 2e-2

Measure = Callable[[], float]


class Unfit(Exception):
    """Raised for a candidate that runs but may not be taken."""


def tune_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc tune``."""
    build = Build(arguments.build)
    build.require_generation()
    if build.target.operations.get("cuda") != "kernels":
        raise UnknownDeviceError(
            f"{build.path} was compiled for the target {build.target.name}, which has"
            " no kernels to tune. Compile it with --target any, cuda or hip."
        )
    if not torch.cuda.is_available():
        raise UnknownDeviceError(
            "glmc tune measures on the GPU that is present, and there is none here. "
            "Run it on the machine that the build is for; until then the defaults in "
            "kernels.py hold."
        )
    arguments.device = "cuda"
    model = load_model(arguments)
    package = type(model).__module__.rpartition(".")[0]
    kernels = importlib.import_module(f"{package}.kernels")
    tables = importlib.import_module(f"{package}.tuning")
    calls = model_calls(model, kernels)
    found = search(
        tables.tiles(kernels),
        lambda: _run(calls),
        Timer(calls, kernels),
        lambda line: print(line, file=sys.stderr),
    )
    target = tables.present_target()
    file = write(arguments.build, kernels, tables, found, target)
    said = f"{file}: {len(found)} tiles are faster than the defaults for {target}"
    facts = {"file": str(file), "target": target, "tiles": found}
    print(json.dumps(facts, indent=2) if arguments.json else said)
    return 0


def write(
    build: Path,
    kernels: ModuleType,
    tables: ModuleType,
    found: Mapping[str, Tile],
    target: str,
) -> Path:
    """Write the tiles for a target into the build's tuning.json, beside those of other
    targets; measurements of other kernels are dropped."""
    file: Path = build / tables.FILE
    source = tables.digest(kernels)
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict) or known.get("kernels") != source:
        known = {"kernels": source}
    known[target] = {path: dict(tile) for path, tile in found.items()}
    write_file(file, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return file


def search(
    tiles: Mapping[str, Tile],
    run: Callable[[], object],
    measure: Measure,
    tell: Callable[[str], None],
) -> dict[str, Tile]:
    """Find the tiles that are faster than the defaults in `tiles`, which it leaves
    changed.

    One parameter after the other, each with the best of those before it. `run` launches
    everything once, `measure` gives seconds; a candidate for which that raises is
    passed over.
    """
    best = measure()
    found: dict[str, Tile] = {}
    for path, tile in tiles.items():
        if not _is_used(tile, run):
            continue
        default, before = dict(tile), best
        for candidate in _candidates(tile):
            kept = dict(tile)
            tile.update(candidate)
            seconds = _seconds(measure)
            if seconds < best * (1 - GAIN):
                best = seconds
            else:
                tile.update(kept)
        if tile != default:
            found[path] = dict(tile)
            tell(f"{path}: {tile}, {(before - best) * 1e6:.1f} us less")
    return found


def _candidates(tile: Tile) -> Iterator[Tile]:
    """Yield changes of one parameter, those that are not tried left out."""
    fixed = {name for mark in FIXED if mark in tile for name in FIXED[mark]}
    for name in [*tile]:
        for value in CANDIDATES.get(name, ()):
            if name not in fixed and value != tile[name]:
                yield {name: value}


def _is_used(tile: Tile, run: Callable[[], object]) -> bool:
    """Tell whether a launch takes this tile: without its parameters it then fails."""
    kept = dict(tile)
    tile.clear()
    try:
        run()
    except (KeyError, TypeError):
        return True
    finally:
        tile.update(kept)
    return False


def _seconds(measure: Measure) -> float:
    try:
        return measure()
    except Exception:  # whatever compiler and driver raise for what they cannot take
        return float("inf")


Call = Callable[[], Any]


def model_calls(model: Any, kernels: ModuleType) -> list[Call]:
    """Return every call of an op: of a prompt of 512 tokens, and of a token of one row
    and of four after 1024."""
    calls: list[Call] = []
    model.ops = _Noting(kernels, calls)
    with torch.no_grad():
        model(torch.ones(1, 512, dtype=torch.int64, device=model.device))
        for rows in (1, 4):
            cache = model.new_cache(rows, 1032)
            for state in cache.own:
                for kept in state.tensors().values():
                    kept.normal_()
            cache.length = 1024
            ids = torch.ones(rows, 1, dtype=torch.int64, device=model.device)
            model(ids, past_key_values=cache)
            cache.length = 1024
    model.ops = kernels
    return calls


class _Noting:
    """A module of ops that records the calls of those that it has kernels for."""

    def __init__(self, kernels: ModuleType, calls: list[Call]) -> None:
        self._kernels, self._calls = kernels, calls

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._kernels, name)
        if getattr(op, "__module__", None) != self._kernels.__name__:
            return op

        def noted(*args: Any, **kwargs: Any) -> Any:
            self._calls.append(lambda: op(*args, **kwargs))
            return op(*args, **kwargs)

        return noted


@torch.no_grad()
def _run(calls: list[Call]) -> list[Any]:
    return [call() for call in calls]


class Timer:
    """A timer of all calls on a GPU that checks their results against the defaults'."""

    def __init__(self, calls: list[Call], kernels: ModuleType) -> None:
        self.calls, self.kernels = calls, kernels
        self.right = [_tensors(result) for result in _run(calls)]

    def __call__(self) -> float:
        """Return the median of replays, in seconds. Raises Unfit for a candidate that
        spills, or whose results differ; raises what the compiler does where it cannot
        be compiled."""
        for result, right in zip(_run(self.calls), self.right, strict=True):
            if not all(map(_close, _tensors(result), right)):
                raise Unfit("other results than with the defaults")
        if spilled := spills(self.kernels):
            raise Unfit(f"{spilled} spills")
        return _replayed(lambda: _run(self.calls))


def spills(kernels: ModuleType) -> str | None:
    """Name a kernel whose newest specialisation spills registers, or None."""
    for name, kernel in vars(kernels).items():
        for cached in getattr(kernel, "device_caches", {}).values():
            compiled: list[Any] = list(cached[0].values())
            if compiled and compiled[-1].n_spills:
                return name
    return None


def _replayed(run: Callable[[], object]) -> float:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times: list[float] = []
    for _ in range(11):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _close(got: torch.Tensor, want: torch.Tensor) -> bool:
    largest = max(1.0, float(want.float().abs().max()))
    return float((got.float() - want.float()).abs().max()) <= CLOSE * largest
