"""Builds for several ranks, run by threads of the test's own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.backends.runtime.ranks import Ranks
from glmc.backends.torch.threads import on_ranks
from glmc.ir.graph import Graph, Program
from glmc.ir.ops import AllReduce
from support import builds

Result = TypeVar("Result")

LOGITS = 2e-5
"""Largest difference to the build for one rank, relative to logits of size 1."""
NEW = 8


def compiled(source: Path, folder: Path, ranks: int, **options: Any) -> ModuleType:
    """Compile for so many ranks, and import the build."""
    build = compile_model(source, folder, tensor_parallel=ranks, **options)
    return builds.import_build(build)


def on_threads(
    module: ModuleType, count: int, run: Callable[[Ranks], Result], stages: int = 1
) -> list[Result]:
    """Run something as every rank of a build; its ``ranks`` knows which."""
    ranks = sys.modules[f"{module.__name__}.ranks"]

    def one(here: Ranks) -> Result:
        with ranks.use(here):
            return run(here)

    return on_ranks(count, one, stages)


def prompt() -> torch.Tensor:
    """Two rows of twelve tokens that every tiny vocabulary has."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 60, (2, 12), generator=generator)


def answers(model: Any) -> dict[str, Any]:
    """Return logits, greedy and drawn tokens, and the bytes of the weights."""
    ids = prompt()
    with torch.no_grad():
        logits = model(ids).logits
    return {
        "logits": logits,
        "greedy": model.generate(ids, max_new_tokens=NEW).tolist(),
        "drawn": model.generate(ids, max_new_tokens=4, temperature=1, seed=3).tolist(),
        "bytes": sum(p.nbytes for p in model.parameters()),
    }


def same(got: dict[str, Any], want: dict[str, Any]) -> None:
    """Check what a rank answers against the build for one rank."""
    unit = max(1.0, want["logits"].abs().max().item())
    apart = (got["logits"] - want["logits"]).abs().max().item()
    assert apart <= LOGITS * unit
    assert got["greedy"] == want["greedy"]
    assert got["drawn"] == want["drawn"]


def odd(checkpoint: Path, folder: Path) -> Path:
    """The same checkpoint with a vocabulary of 61."""
    folder.mkdir()
    config = json.loads((checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 61}))
    tensors = load_file(checkpoint / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:61].clone()
    save_file(tensors, folder / "model.safetensors")
    return folder


def without_a_reduce(program: Program) -> Program:
    """Plant a mistake: what reads a sum of all ranks reads this rank's summand."""

    def change(graph: Graph) -> Graph:
        reduced = [op for op in graph.ops if isinstance(op, AllReduce)]
        if not reduced or not graph.layers:
            return graph
        gone = reduced[0]
        ops = (_reading(op, gone.outs[0], gone.x) for op in graph.ops if op is not gone)
        return graph.replace(ops=tuple(ops))

    return program.map_graphs(change)


def _reading(op: Any, old: str, new: str) -> Any:
    read = {f: new for f, sigil, n in op.operands() if sigil == "%" and n == old}
    return op.model_copy(update=read) if read else op
