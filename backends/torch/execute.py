"""Execute the IR with the reference ops, which define what a graph means.

``glmc compile --verify-passes`` runs every stage of a shrunken model on the same
random weights and inputs and compares the logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from glmc.backends.runtime import state as runtime_state
from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import Declared, From, LayerState
from glmc.backends.states import declaration, owner
from glmc.backends.torch import ops
from glmc.backends.torch.threads import on_ranks
from glmc.backends.torch.weights import assemble, random_checkpoint
from glmc.ir.dealing import unplaced
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op

Values = dict[str, Any]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
Watch = Callable[[str, Graph, Op, Values], None]
"""Called after every op: the path of its layer (``layers.3.``, or empty), its graph,
the op, and the values so far."""


TOKENS = 12
"""Of each row of the batch that programs are compared on."""


class Executor:
    """A program with its weights, executed op by op in the program's dtype."""

    def __init__(
        self, program: Program, checkpoint: Mapping[str, torch.Tensor]
    ) -> None:
        self.program = program
        self.watch: Watch | None = None
        self.weights = {
            path: _typed(assemble(param.recipe, checkpoint, layer), param.type.dtype)
            for path, layer, param in program.bindings()
        }

    def cache(self, batch: int, capacity: int) -> Cache:
        """Returns a cache for this program that has seen no token yet."""
        kept = [_declared(block) for block in self.program.schedule()]
        dtype = DTYPES[self.program.dtype]
        encoder = self.program.prefix_encoder
        if encoder is None:
            return Cache(kept, batch, capacity, dtype, "cpu")
        rows = torch.arange(int(encoder.inputs[0].type.dims[1]))[None]
        (states,) = self._run(encoder, {"rows": rows}, "")
        cache = Cache(kept, batch, capacity + rows.shape[1], dtype, "cpu")
        cache.begin_with(states)
        return cache

    def __call__(
        self, ids: torch.Tensor, pos: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Returns logits [B,T,V] of ids [B,T] at positions [B,T] or [B,S,T]; the cache
        advances by T."""
        given = {"ids": ids, "pos": pos, "prefix": cache.prefix}
        (logits,) = self.run(given, cache.layers)
        cache.advance(ids.shape[1])
        assert isinstance(logits, torch.Tensor)
        return logits

    def run(self, given: Values, states: Sequence[LayerState] = ()) -> list[Any]:
        """Returns the head's results for the stem's inputs and each layer's states."""
        program = self.program
        made = self._run(program.stem, dict(given), "")
        env = dict(zip(program.stem.returns, made, strict=True))
        shared = {name: env[name] for name in program.shared}
        parts = {name: env[whole].unbind(2) for name, whole in program.sliced}
        carried = made[: len(program.carried)]
        for layer, block in enumerate(program.schedule()):
            values = dict(zip(program.carried, carried, strict=True)) | shared
            values |= {name: each[layer] for name, each in parts.items()}
            values |= vars(states[layer]) if block.states else {}
            carried = self._run(block, values, f"layers.{layer}.")
        names = [value.name for value in program.head.inputs]
        # The head reads the first of what the last layer hands on.
        return self._run(program.head, dict(zip(names, carried, strict=False)), "")

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
            if self.watch:
                self.watch(path, graph, op, env)
        return [env[name] for name in graph.returns]

    def apply(self, op: Op, args: list[Any], kwargs: Values) -> Any:
        """Runs an op on its operands, which are passed as emitted code passes them."""
        return getattr(ops, op.mnemonic)(*args, **kwargs)


def _declared(block: Graph) -> dict[str, Declared]:
    """Returns the states that a layer of a block declares."""
    found: dict[str, Declared] = {}
    for state in block.states:
        if state.owners:
            found[state.name] = From(owner(block.layers, state.owners))
            continue
        made = declaration(state.type)
        more: dict[str, Any] = {"dtype": DTYPES[made.dtype]} if made.dtype else {}
        more |= {"every": made.every} if made.every > 1 else {}
        found[state.name] = getattr(runtime_state, made.name)(*made.sizes, **more)
    return found


def _typed(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """Casts a float to the dtype that the program has it in; codes stay as they are."""
    return weight.to(DTYPES[dtype]) if dtype in DTYPES else weight


def compare(programs: Sequence[Program]) -> Iterator[float]:
    """Yields the largest difference of each program's answers to those of the first.

    Relative to the largest answer where that is above 1: random weights can make a
    residual stream grow without bound, and rounding grows with it.
    """
    checkpoint = random_checkpoint(programs[0])
    expected, unit = None, 1.0
    for program in programs:
        answers = answered(program, checkpoint)
        if expected is None:
            expected, unit = answers, max(1.0, answers.abs().max().item())
        yield (answers - expected).abs().max().item() / unit


def answered(program: Program, checkpoint: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the answers of a program, of which all its ranks give the same."""
    if program.ranks == 1:
        return run_batch(Executor(program, checkpoint))
    first, *others = on_ranks(
        program.ranks, lambda _: run_batch(Executor(program, checkpoint))
    )
    if not all(torch.equal(first, other) for other in others):
        return first + torch.inf
    return first


def run_batch(model: Executor) -> torch.Tensor:
    """Returns the answers of a model, in one tensor.

    Decoders answer a left-padded batch of two: a prompt of nine, then three tokens one
    by one. Encoders answer a batch with padding on either side.
    """
    return _logits(model) if model.program.decodes else _encoded(model)


def _logits(model: Executor) -> torch.Tensor:
    start = first_slots()
    real = torch.arange(TOKENS) >= start[:, None]
    return read(model, slice(0, len(start)), 0, (9, 1, 1, 1))[real]


def first_slots() -> torch.Tensor:
    """Returns the first token of each row of a batch that is not padding."""
    return torch.tensor([0, 3], dtype=torch.int32)


def seen_both_ways() -> torch.Tensor:
    """Returns the length of each row's bidirectional part, for models that have one."""
    return torch.tensor([4, 5], dtype=torch.int32)


@torch.no_grad()
def read(
    model: Executor, rows: slice, first: int, calls: Sequence[int]
) -> torch.Tensor:
    """Returns logits [B,T,V] of some rows of a batch, from a token on, in several
    calls."""
    pos = (torch.arange(TOKENS) - first_slots()[:, None]).clamp(min=0)[rows, first:]
    start = (first_slots()[rows] - first).clamp(min=0)
    cache = model.cache(len(start), sum(calls))
    cache.start = start + cache.learned if start.any() else None
    cache.prefix = start + cache.learned + seen_both_ways()[rows]
    if len(model.program.stem.inputs[1].type.dims) == 3:
        pos = torch.stack((pos, pos // 2), 1)
    ids, ends = _ids(model)[rows, first:], list(accumulate(calls, initial=0))
    pieces = [slice(*ends[at : at + 2]) for at in range(len(calls))]
    return torch.cat([model(ids[:, s], pos[..., s], cache) for s in pieces], 1)


@torch.no_grad()
def _encoded(model: Executor) -> torch.Tensor:
    """Returns every answer of an encoder in one row of numbers."""
    ids, pos = _ids(model), torch.arange(TOKENS).expand(2, TOKENS)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[0, 8:], mask[1, :3] = False, False
    answers = model.run({"ids": ids, "pos": pos, "types": pos % 2, "mask": mask})
    return torch.cat([answer.flatten() for answer in answers])


def _ids(model: Executor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    program = model.program
    table = program.param(program.stem, program.stem.ops[0].params[0])
    assert table is not None
    rows = unplaced(table.recipe).shape[0]
    return torch.randint(rows, (2, TOKENS), generator=generator)
