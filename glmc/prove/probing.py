"""Record every value inside programs, builds and models of transformers.

A *place* is one application of a graph: ``stem``, a layer's number, or ``head``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glmc.backends.runtime.checkpoint import Checkpoint
from glmc.backends.runtime.inputs import positions, read_mask
from glmc.backends.runtime.ranks import current
from glmc.backends.torch.execute import Executor
from glmc.backends.torch.threads import on_ranks
from glmc.ir.graph import Graph, Program
from glmc.ir.leaves import Tensor
from glmc.ir.op import Op
from glmc.ir.placement import PARTIAL, Placement, is_shard
from glmc.ir.recipe import Permute, Recipe, Slice, tensors
from glmc.prove.comparing import Answer, Scenario, added, calls

Place = str | int
Values = Mapping[str, torch.Tensor]
"""A place's values by name, ``[B,P+D,·]``: prompt and decoded tokens."""


class Weights(Mapping[str, torch.Tensor]):
    """A checkpoint's tensors in fp32, by their full names."""

    def __init__(self, folder: Path, prefix: str | None) -> None:
        self._checkpoint, self._prefix = Checkpoint(folder), prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._checkpoint.headers and self._prefix:
            name = name.removeprefix(self._prefix)
        found = self._checkpoint.read(name)
        return found.float() if found.is_floating_point() else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.headers)

    def __len__(self) -> int:
        return len(self._checkpoint.headers)


def place_of(path: str, graph: Graph) -> Place:
    """Return the place of a graph that runs under a path such as ``layers.3.``."""
    return int(path.split(".")[1]) if path else graph.name


class Recording:
    """Recorded pieces of values, call by call."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            # A copy: the model may go on to change it in place.
            kept = value.detach().to("cpu", torch.float32, copy=True)
            self.pieces.setdefault(name, []).append(kept)

    def whole(self) -> dict[str, torch.Tensor]:
        """Join prompt and decoding.

        What was not there once at every call, as nearly all is, is left out, and what
        has no dimension of tokens after that of rows.
        """
        counts = Counter(map(len, self.pieces.values()))
        count = counts.most_common(1)[0][0] if counts else 0
        return {
            name: torch.cat(pieces, 1)
            for name, pieces in self.pieces.items()
            if len(pieces) == count and len({_beside(piece) for piece in pieces}) == 1
        }


def _beside(piece: torch.Tensor) -> tuple[int, ...]:
    """Return the sizes other than the number of tokens."""
    return (piece.shape[0], *piece.shape[2:])


Scheme = Callable[..., torch.Tensor]
"""The rule for positions: (given, cache, ids, max_positions) -> pos."""


class Stage(Executor):
    """A program with its weights, and its rule for positions."""

    def __init__(
        self,
        program: Program,
        checkpoint: Mapping[str, torch.Tensor],
        scheme: Scheme = positions,
    ) -> None:
        super().__init__(program, checkpoint)
        self.scheme = scheme


class RankedStage:
    """A program of several ranks: a stage for each, which run as threads."""

    def __init__(
        self,
        program: Program,
        checkpoint: Mapping[str, torch.Tensor],
        scheme: Scheme = positions,
    ) -> None:
        self.program = program
        self.ranks = on_ranks(
            program.ranks, lambda _: Stage(program, checkpoint, scheme)
        )

    def each(self, run: Callable[[Stage], Values]) -> list[Values]:
        """Return what each rank's stage gives."""
        return on_ranks(len(self.ranks), lambda here: run(self.ranks[here.rank]))


def stage_of(
    program: Program, checkpoint: Mapping[str, torch.Tensor], scheme: Scheme
) -> Stage | RankedStage:
    """Make the stage of a program."""
    kind = Stage if program.ranks == 1 else RankedStage
    return kind(program, checkpoint, scheme)


@torch.no_grad()
def execute(executor: Stage, given: Scenario) -> Iterator[torch.Tensor]:
    """Run a scenario; yield the logits of each call."""
    batch, prompt = given.ids.shape
    cache = executor.cache(batch, prompt + given.more.shape[1])
    for ids, where in calls(given):
        if given.mask is not None and not cache.length:
            read_mask(given.mask, cache, prompt)
        yield executor(ids, executor.scheme(where, cache, ids, None), cache)


def stage_answer(executor: Stage | RankedStage, given: Scenario) -> Answer:
    """Run a program; return its answer: hidden states and logits, which every rank has
    whole."""
    if isinstance(executor, RankedStage):
        return executor.each(lambda one: stage_answer(one, given))[0]
    kept = Recording()

    def watch(path: str, graph: Graph, op: Op, env: Mapping[str, Any]) -> None:
        if op is graph.ops[-1] and path:
            kept.add(f"layer {place_of(path, graph)}", _hidden(executor, graph, env))

    executor.watch = watch
    for logits in execute(executor, given):
        kept.add("logits", logits)
    return kept.whole()


def _hidden(executor: Stage, graph: Graph, env: Mapping[str, Any]) -> torch.Tensor:
    """Return the hidden state that a layer hands on, whole on every rank."""
    program = executor.program
    given = [env[name] for name in graph.returns]
    for at in program.partial:
        given[at] = current().sum(given[at])
    return added([given[at] for at in program.summands])


def stage_values(
    executor: Stage | RankedStage, given: Scenario, place: Place
) -> Values:
    """Return every value of a program at a place, its inputs too; of several ranks the
    parts joined and the summands summed, as their types say."""
    if isinstance(executor, RankedStage):
        graph = graph_at(executor.program, place)
        every = executor.each(lambda one: stage_values(one, given, place))
        return {
            name: _joined(graph.types[name].placement, [one[name] for one in every])
            for name in every[0]
        }
    kept = Recording()

    def watch(path: str, graph: Graph, op: Op, env: Mapping[str, Any]) -> None:
        if place_of(path, graph) != place:
            return
        if op is graph.ops[0]:
            for value in graph.inputs:
                kept.add(value.name, env.get(value.name))
        for name in op.outs:
            kept.add(name, env[name])

    executor.watch = watch
    for _ in execute(executor, given):
        pass
    return kept.whole()


def graph_at(program: Program, place: Place) -> Graph:
    """Return the graph that runs at a place."""
    if isinstance(place, int):
        return program.schedule()[place]
    return program.stem if place == "stem" else program.head


def _joined(placement: Placement, parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the whole of what ranks have."""
    if is_shard(placement):
        return torch.cat(parts, placement.axis)
    return torch.stack(parts).sum(0) if placement == PARTIAL else parts[0]


# --- an emitted model, op by op -----------------------------------------------------


class Called(Exception):
    """Raised to stop a run of an emitted model: a call is not what the program says."""


Inspect = Callable[[Place, Graph, Op, str, tuple[Any, ...], dict[str, Any], Any], None]


class _Calls:
    """A stand-in for a module of ops: every function of it is ``called(name, …)``."""

    def __init__(self, called: Callable[..., Any]) -> None:
        self._called = called

    def __getattr__(self, name: str) -> Any:
        return partial(self._called, name)


@contextmanager
def following(model: Any, ops: Any, program: Program, look: Inspect) -> Iterator[None]:
    """Let an emitted model run with every op call shown to ``look``.

    Calls are matched with the ops of the program by their order. ``look`` gets the
    place, graph and op, then the name, arguments and result of the call (an Exception
    where it raised one).
    """
    run, left = model.run, list[tuple[Place, Graph, Op]]()

    def called(name: str, *args: Any, **kwargs: Any) -> Any:
        place, graph, op = left.pop(0) if left else ("head", program.head, None)
        if op is None:
            raise Called(f"model.py calls ops.{name} after the program's last op")
        try:
            result = getattr(ops, name)(*args, **kwargs)
        except Exception as error:  # whatever an edited line may do
            look(place, graph, op, name, args, kwargs, error)
            raise
        look(place, graph, op, name, args, kwargs, result)
        return result

    def restarted(*args: Any, **kwargs: Any) -> Any:
        left[:] = _sequence(program)
        return run(*args, **kwargs)

    known, model.run, model.ops = model.ops, restarted, _Calls(called)
    try:
        yield
    finally:
        model.ops = known
        del model.run


def _sequence(program: Program) -> list[tuple[Place, Graph, Op]]:
    graphs: list[tuple[Place, Graph]] = [
        ("stem", program.stem),
        *enumerate(program.schedule()),
        ("head", program.head),
    ]
    return [(place, graph, op) for place, graph in graphs for op in graph.ops]


# --- a model of transformers, module by module --------------------------------------


@contextmanager
def watched_modules(model: Any, kept: Recording) -> Iterator[None]:
    """Record the inputs and outputs of every module, and the inputs of attention."""

    def hook(name: str, _module: Any, given: Any, named: Any, out: Any) -> None:
        first = given[0] if given else next(iter(named.values()), None)
        kept.add(f"{name} in", first)
        outs = out if isinstance(out, tuple) else (out,)
        for at, one in enumerate(outs[:2]):
            kept.add(f"{name} out{at or ''}", one)

    handles = [
        module.register_forward_hook(partial(hook, name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    undo = _watch_attention(model, kept)
    try:
        yield
    finally:
        undo()
        for handle in handles:
            handle.remove()


def _watch_attention(model: Any, kept: Recording) -> Callable[[], None]:
    """Record queries, new keys and values, ``[B,T,heads,width]``, of attention."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    names = {module: name for name, module in model.named_modules()}

    def probe(module: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = q.shape[2]
        for label, states in (("q", q), ("k", k), ("v", v)):
            new = states[:, :, -tokens:].transpose(1, 2)
            kept.add(f"{names.get(module, '')} attention {label}", new)
        return sdpa_attention_forward(module, q, k, v, *args, **kwargs)

    # Under its name, for models with an indexer ask for it: another would see all.
    AttentionInterface.register("sdpa", probe)
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")

    def undo() -> None:
        model.set_attn_implementation(before)
        AttentionInterface.register("sdpa", sdpa_attention_forward)

    return undo


def rows_of(recipe: Recipe) -> slice | None:
    """Return the output channels that a recipe takes of a matrix; None where it does
    more.

    A transposed matrix has its output channels in columns.
    """
    turned = isinstance(recipe, Permute) and recipe.dims == (1, 0)
    inner = recipe.of if isinstance(recipe, Permute) and turned else recipe
    if isinstance(inner, Slice) and inner.dim == int(turned):
        whole = isinstance(inner.of, Tensor)
        return slice(inner.start, inner.stop) if whole else None
    return slice(None) if isinstance(inner, Tensor) else None


Told = dict[str, list[torch.Tensor]]
"""The expected values, one for every module that makes or takes it."""


@dataclass
class Teller:
    """The values that the modules of a model give for those of a lowered graph."""

    program: Program
    graph: Graph
    place: Place
    kept: Values
    """The values that :func:`watched_modules` recorded."""
    prefixes: Sequence[str]
    """The prefixes of module names that tensor names do not, or vice versa."""
    told: Told = field(default_factory=dict)

    def tell(self, name: str, value: torch.Tensor | None) -> None:
        """Record the expected value, where it has the value's shape."""
        types = self.graph.types
        dims = types[name].dims[2:] if name in types else None
        if value is not None and dims == tuple(value.shape[2:]):
            self.told.setdefault(name, []).append(value)

    def all(self) -> Told:
        """Return every expected value."""
        for op in self.graph.ops:
            self._weighted(op)
        for key, value in self.kept.items():
            name, _, kind = key.rpartition(" ")
            for op in self.graph.ops:
                self._rotary(op, name, kind, value)
                if self._inside(name):
                    self._attention(op, key, kind, value)
                    self._activation(op, name, kind, value)
        for op in reversed(self.graph.ops):
            if op.mnemonic == "heads":  # a view: what is told of it holds of its source
                for value in self.told.get(op.outs[0], ()):
                    self.tell(op.values[0], value.flatten(2))
        return self.told

    def _here(self, name: str) -> str:
        """Return the name with the layer's number in it."""
        place = self.place
        number = self.graph.number_of(place) if isinstance(place, int) else place
        return name.replace("{i}", str(number))

    def _inside(self, name: str) -> bool:
        prefix = self._here(self.graph.prefix)
        starts = ("", *self.prefixes)
        return bool(prefix) and any(name.startswith(one + prefix) for one in starts)

    def _of(self, module: str, kind: str) -> torch.Tensor | None:
        at = self._here(module)
        bare = [at.removeprefix(prefix) for prefix in self.prefixes]
        names = [at, *(prefix + at for prefix in self.prefixes), *bare]
        found = (self.kept.get(f"{name} {kind}") for name in names)
        return next((value for value in found if value is not None), None)

    def _weighted(self, op: Op) -> None:
        """Record an op with a weight, by the module that holds the weight.

        What a module of embeddings gives may be scaled already, or not yet.
        """
        users = self.graph.users(op.outs[0])
        if op.mnemonic == "embedding" and any(u.mnemonic == "scale" for u in users):
            return
        param = self.program.param(self.graph, getattr(op, "weight", None) or "")
        if param is None:
            return
        module = next(tensors(param.recipe)).name.rpartition(".")[0]
        rows, out = rows_of(param.recipe), self._of(module, "out")
        if rows and out is not None and out.ndim > 2:
            self.tell(op.outs[0], out[..., rows])
        if op.mnemonic != "embedding":
            self.tell(op.values[0], self._of(module, "in"))

    def _rotary(self, op: Op, name: str, kind: str, value: torch.Tensor) -> None:
        tables = op.mnemonic.startswith("rope_table") and name.endswith("rotary_emb")
        if tables and kind in ("out", "out1"):
            self.tell(op.outs[kind == "out1"], value[..., : value.shape[-1] // 2])

    def _attention(self, op: Op, key: str, kind: str, value: torch.Tensor) -> None:
        if not key.endswith(("attention q", "attention k", "attention v")):
            return
        plain = op.mnemonic == "latent_attention" and not self._paired()
        if kind == "q" and (op.mnemonic == "attention" or plain):
            self.tell(op.values[0], value)
        elif op.mnemonic == "kv_write" and kind in "kv":
            self.tell(op.values["kv".index(kind) + 1], value)

    def _paired(self) -> bool:
        """Tell whether rotary channels are interleaved pairs, which transformers then
        takes apart."""
        ropes = [op for op in self.graph.ops if op.mnemonic == "rope"]
        return any(op.attributes().get("style") == "interleaved" for op in ropes)

    def _activation(self, op: Op, name: str, kind: str, value: torch.Tensor) -> None:
        if op.mnemonic == "activation" and _is_activation(name):
            self.tell(op.outs[0] if kind == "out" else op.values[0], value)


def _is_activation(name: str) -> bool:
    return name.rpartition(".")[2] in ("act", "act_fn", "activation", "activation_fn")
