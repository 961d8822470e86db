"""Executing the IR with the reference ops: what a graph means.

``glmc compile --verify-passes`` runs every stage of a shrunken model on the same
random weights and inputs and compares the logits.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.torch import ops
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.recipe import Cat, Permute, Recipe, Slice, Tensor, View, tensors
from glmc.ir.types import CacheType

Values = dict[str, Any]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def random_checkpoint(program: Program) -> dict[str, torch.Tensor]:
    """A random fp32 tensor for every name a program reads; a name fixes its values."""
    found: dict[str, torch.Tensor] = {}
    for _, layer, param in program.bindings():
        for tensor in tensors(param.recipe):
            name = _name(tensor, layer)
            found.setdefault(name, _random(name, tensor.stored))
    return found


def _random(name: str, shape: Sequence[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(*shape, generator=generator)
    return 1 + 0.2 * noise if len(shape) == 1 else noise / math.sqrt(shape[-1])


def _name(tensor: Tensor, layer: int | None) -> str:
    return tensor.name if layer is None else tensor.name.replace("{i}", str(layer))


def assemble(
    recipe: Recipe, checkpoint: Mapping[str, torch.Tensor], layer: int | None
) -> torch.Tensor:
    """Evaluate a recipe."""
    match recipe:
        case Tensor():
            return checkpoint[_name(recipe, layer)]
        case Cat(parts=parts, dim=dim):
            return torch.cat([assemble(p, checkpoint, layer) for p in parts], dim)
        case Slice(of=of, dim=dim, start=start, stop=stop):
            return assemble(of, checkpoint, layer).narrow(dim, start, stop - start)
        case View(of=of, to=to):
            return assemble(of, checkpoint, layer).reshape(to)
        case Permute(of=of, dims=dims):
            return assemble(of, checkpoint, layer).permute(dims)


class Executor:
    """A program with its weights, executed op by op in the program's dtype."""

    def __init__(
        self, program: Program, checkpoint: Mapping[str, torch.Tensor]
    ) -> None:
        self.program = program
        self.weights = {
            path: assemble(param.recipe, checkpoint, layer).to(DTYPES[program.dtype])
            for path, layer, param in program.bindings()
        }

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for this program."""
        kinds = [block.inputs[-1].type for block in self.program.schedule()]
        shapes = [
            (kv.kv_heads, kv.k_dim, kv.v_dim)
            for kv in kinds
            if isinstance(kv, CacheType)
        ]
        dtype = DTYPES[self.program.dtype]
        return Cache(shapes, batch, capacity, dtype, torch.device("cpu"))

    def __call__(
        self, ids: torch.Tensor, pos: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Logits [B,T,V] of ids [B,T] at positions [B,T]; the cache advances by T."""
        program = self.program
        stem = program.stem
        given = self._run(stem, {"ids": ids, "pos": pos}, "")
        shared = dict(zip(stem.returns, given, strict=True))
        carried = given[: len(program.carried)]
        for layer, block in enumerate(program.schedule()):
            names = [value.name for value in block.inputs]
            rest = [shared[name] for name in names[len(carried) : -1]]
            values = [*carried, *rest, cache.layers[layer]]
            env = dict(zip(names, values, strict=True))
            carried = self._run(block, env, f"layers.{layer}.")
        names = [value.name for value in program.head.inputs]
        (logits,) = self._run(program.head, dict(zip(names, carried, strict=True)), "")
        cache.advance(ids.shape[1])
        assert isinstance(logits, torch.Tensor)
        return logits

    def _run(self, graph: Graph, env: Values, path: str) -> list[Any]:
        for op in graph.ops:
            required = op.operand_fields()
            args, kwargs = [], op.attributes()
            for field, sigil, name in op.operands():
                own = self.weights.get(path + name) if sigil == "@" else None
                actual = env[name] if sigil == "%" else own
                actual = self.weights[name] if actual is None else actual
                if required[field][1]:
                    args.append(actual)
                else:
                    kwargs[field] = actual
            made = self.apply(op, args, kwargs)
            made = made if isinstance(made, tuple) else (made,)
            env |= dict(zip(op.outs, made, strict=True))
        return [env[name] for name in graph.returns]

    def apply(self, op: Op, args: list[Any], kwargs: Values) -> Any:
        """What an op makes of its operands, these as emitted code passes them."""
        return getattr(ops, op.mnemonic)(*args, **kwargs)


def compare(programs: Sequence[Program]) -> Iterator[float]:
    """Largest absolute logit difference of each program to the first."""
    checkpoint = random_checkpoint(programs[0])
    expected = None
    for program in programs:
        logits = run_batch(Executor(program, checkpoint))
        expected = logits if expected is None else expected
        yield (logits - expected).abs().max().item()


@torch.no_grad()
def run_batch(model: Executor) -> torch.Tensor:
    """Logits of a left-padded batch of two: nine tokens at once, then three singly."""
    generator = torch.Generator().manual_seed(0)
    table = model.weights[model.program.stem.ops[0].params[0]]
    ids = torch.randint(len(table), (2, 12), generator=generator)
    start = torch.tensor([0, 3], dtype=torch.int32)
    pos = (torch.arange(12) - start[:, None]).clamp(min=0)
    cache = model.cache(2, 12)
    cache.start = start
    pieces = [slice(0, 9), slice(9, 10), slice(10, 11), slice(11, 12)]
    logits = torch.cat([model(ids[:, s], pos[:, s], cache) for s in pieces], 1)
    return logits[pos.gt(0) | start[:, None].eq(0).expand_as(pos)]
