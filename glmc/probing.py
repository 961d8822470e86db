"""Every value on the way: programs, builds and models of transformers, recorded.

A *place* is one application of a graph: ``stem``, a layer's number, or ``head``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from glmc.backends.runtime.checkpoint import Checkpoint
from glmc.backends.runtime.inputs import positions, read_mask
from glmc.backends.torch.execute import Executor
from glmc.comparing import Answer, Scenario, added, calls
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.recipe import Permute, Recipe, Slice, Tensor

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
    """The place of a graph that runs under a path such as ``layers.3.``."""
    return int(path.split(".")[1]) if path else graph.name


class _Kept:
    """Pieces of values, call by call."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            self.pieces.setdefault(name, []).append(value.detach().float().cpu())

    def whole(self) -> dict[str, torch.Tensor]:
        """Prompt and decoding as one; what was not there at every call is left out."""
        count = max(map(len, self.pieces.values()), default=0)
        return {
            name: torch.cat(pieces, 1)
            for name, pieces in self.pieces.items()
            if len(pieces) == count and len({p.shape[2:] for p in pieces}) == 1
        }


@torch.no_grad()
def execute(executor: Executor, given: Scenario) -> Iterator[torch.Tensor]:
    """Run a scenario; yields the logits of each call."""
    batch, prompt = given.ids.shape
    cache = executor.cache(batch, prompt + given.more.shape[1])
    for ids, where in calls(given):
        if given.mask is not None and not cache.length:
            read_mask(given.mask, cache, prompt)
        yield executor(ids, positions(where, cache, ids, None), cache)


def stage_answer(executor: Executor, given: Scenario) -> Answer:
    """What a program answers: hidden states and logits."""
    kept = _Kept()

    def watch(path: str, graph: Graph, op: Op, env: Mapping[str, Any]) -> None:
        if op is graph.ops[-1] and path:
            hidden = added([env[name] for name in graph.returns])
            kept.add(f"layer {place_of(path, graph)}", hidden)

    executor.watch = watch
    for logits in execute(executor, given):
        kept.add("logits", logits)
    return kept.whole()


def stage_values(executor: Executor, given: Scenario, place: Place) -> Values:
    """Every value of a program at a place, its inputs too."""
    kept = _Kept()

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


# --- an emitted model, op by op -----------------------------------------------------


class Called(Exception):
    """Stops a run of an emitted model: what it did is not what the program says."""


Inspect = Callable[[Place, Graph, Op, str, tuple[Any, ...], dict[str, Any], Any], None]


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
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            look(place, graph, op, name, args, kwargs, error)
            raise
        look(place, graph, op, name, args, kwargs, result)
        return result

    def restarted(*args: Any, **kwargs: Any) -> Any:
        left[:] = _sequence(program)
        return run(*args, **kwargs)

    names = {op.mnemonic for graph in program.graphs for op in graph.ops}
    names |= {name for name in dir(ops) if not name.startswith("_")}
    known, model.run = model.ops, restarted
    model.ops = SimpleNamespace(**{name: partial(called, name) for name in names})
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
def watched_modules(model: Any, kept: _Kept) -> Iterator[None]:
    """Keep what goes into and comes out of every module, and what attention is given."""

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


def _watch_attention(model: Any, kept: _Kept) -> Callable[[], None]:
    """Have attention show its queries and new keys and values, ``[B,T,heads,width]``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    names = {module: name for name, module in model.named_modules()}

    def probe(module: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = q.shape[2]
        for label, states in (("q", q), ("k", k), ("v", v)):
            new = states[:, :, -tokens:].transpose(1, 2)
            kept.add(f"{names.get(module, '')} attention {label}", new)
        return sdpa_attention_forward(module, q, k, v, *args, **kwargs)

    AttentionInterface.register("glmc_probe", probe)
    AttentionMaskInterface.register("glmc_probe", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("glmc_probe")
    return lambda: model.set_attn_implementation(before)


def rows_of(recipe: Recipe) -> tuple[str, slice] | None:
    """(tensor, output channels) where a recipe is a matrix or some of its rows.

    A transposed matrix has its output channels in columns. None where the recipe does
    more than that.
    """
    out = 0
    if isinstance(recipe, Permute) and recipe.dims == (1, 0):
        recipe, out = recipe.of, 1
    taken = slice(None)
    if isinstance(recipe, Slice) and recipe.dim == out:
        recipe, taken = recipe.of, slice(recipe.start, recipe.stop)
    return (recipe.name, taken) if isinstance(recipe, Tensor) else None


def their_values(
    program: Program, graph: Graph, place: Place, kept: Values, prefixes: Sequence[str]
) -> dict[str, torch.Tensor]:
    """What the values of a lowered graph should be, where a module tells.

    Args:
        program: the lowered program.
        graph: its graph at ``place``.
        place: where.
        kept: what :func:`watched_modules` kept.
        prefixes: what module names may begin with that tensor names do not, or vice
            versa.
    """
    found: dict[str, torch.Tensor] = {}

    def of(name: str, kind: str) -> torch.Tensor | None:
        at = name.replace("{i}", str(place))
        tries = [
            at,
            *(p + at for p in prefixes),
            *(at.removeprefix(p) for p in prefixes),
        ]
        return next((kept[f"{t} {kind}"] for t in tries if f"{t} {kind}" in kept), None)

    def tell(name: str, value: torch.Tensor | None) -> None:
        dims = graph.types[name].dims[2:] if name in graph.types else None
        if value is not None and dims == tuple(value.shape[2:]):
            found.setdefault(name, value)

    for op in graph.ops:
        _tell_of_module(program, graph, op, of, tell)
    attention = f"{graph.prefix.replace('{i}', str(place))}"
    for op in graph.ops:
        _tell_of_attention(op, attention, kept, prefixes, tell)
    return found


Of = Callable[[str, str], torch.Tensor | None]
Tell = Callable[[str, torch.Tensor | None], None]


def _tell_of_module(program: Program, graph: Graph, op: Op, of: Of, tell: Tell) -> None:
    """An op with a weight is the module of that weight."""
    param = program.param(graph, getattr(op, "weight", None) or "")
    place = rows_of(param.recipe) if param else None
    if place is None:
        return
    module = place[0].rpartition(".")[0]
    out = of(module, "out")
    if out is not None and out.ndim > 2:
        tell(op.outs[0], out[..., place[1]])
    if op.mnemonic == "linear":
        tell(op.values[0], of(module, "in"))


def _tell_of_attention(
    op: Op, prefix: str, kept: Values, prefixes: Sequence[str], tell: Tell
) -> None:
    """Rotary tables, what attention is given, activations, by what modules are called."""
    for key, value in kept.items():
        name, _, kind = key.rpartition(" ")
        inside = any(name.startswith(one + prefix) for one in ("", *prefixes))
        if op.mnemonic.startswith("rope_table") and name.endswith("rotary_emb"):
            tell(op.outs[kind == "out1"], value[..., : value.shape[-1] // 2]
                 if kind.startswith("out") else None)  # fmt: skip
        elif not inside or not prefix:
            continue
        elif op.mnemonic == "attention" and key.endswith("attention q"):
            tell(op.values[0], value)
        elif op.mnemonic == "kv_write" and key.endswith(("attention k", "attention v")):
            tell(op.values[1 if kind == "k" else 2], value)
        elif op.mnemonic == "activation" and kind == "out" and _is_activation(name):
            tell(op.outs[0], value)


def _is_activation(name: str) -> bool:
    return name.rpartition(".")[2] in ("act", "act_fn", "activation", "activation_fn")
