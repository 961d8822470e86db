"""Compare the last stage with the emitted code: weights, then op by op."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.look.views import statement
from glmc.prove.comparing import Answer, Scenario, answer, carried, difference
from glmc.prove.culprits import TOLERANCE, Culprit, first_row, places
from glmc.prove.probing import (
    Called,
    Place,
    Stage,
    Values,
    execute,
    following,
    place_of,
)

Right = Sequence[tuple[Scenario, Answer]]


def blame_build(
    last: Stage, load: Callable[[], Any], modules: Sequence[str], right: Right
) -> Culprit | None:
    """Find the part of a build that departs from the last stage, or None.

    Args:
        last: the last stage.
        load: gives the emitted model with its weights in fp32.
        modules: modules of the build whose ops are tried, in this order.
        right: what the last stage answers.
    """
    try:
        model = load()
        package = type(model).__module__.rpartition(".")[0]
        found = [importlib.import_module(f".{name}", package) for name in modules]
    except Exception as error:  # whatever an edited file may raise
        why = f"the emitted model does not load: {type(error).__name__}: {error}"
        return Culprit("build", None, "", why)
    wrong = blame_weights(last, model)
    tries = (_blame_ops(last, model, ops, right) for ops in found)
    return wrong or next(filter(None, tries), None)


def blame_weights(last: Stage, model: Any) -> Culprit | None:
    """Find the first parameter that the build assembles in another way than its
    recipe."""
    have = dict(model.named_parameters())
    for path, _, param in last.program.bindings():
        want, got = last.weights[path], have.get(path)
        if got is not None and torch.equal(got.detach().float().cpu(), want.float()):
            continue
        layer = _layer(path)
        graph = _reader(last.program, layer, param.name)
        readers = [op for op in graph.ops if param.name in op.params]
        op = statement(readers[0]) if readers else ""
        place: Place = graph.name if layer is None else layer
        why = f"the build assembles {path} in another way than its recipe says"
        return Culprit("weights.py", place, op, why)
    return None


def _layer(path: str) -> int | None:
    """Return the layer of a parameter such as ``layers.3.q_proj``."""
    first, _, rest = path.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" and rest else None


def _reader(program: Program, layer: int | None, name: str) -> Graph:
    if layer is not None:
        return program.schedule()[layer]
    graphs = (program.stem, program.head)
    return next(g for g in graphs if any(name in op.params for op in g.ops))


def _blame_ops(
    last: Stage,
    model: Any,
    ops: ModuleType,
    right: Right,
) -> Culprit | None:
    """Compare the emitted model with the last stage; then follow it op by op."""
    model.ops = ops
    read = partial(carried, summands=last.program.summands)
    file = ops.__name__.rpartition(".")[2] + ".py"
    for given, want in right:
        try:
            mine = answer(model, enumerate(model.layers), read, given)
            row = first_row([(given, want)], [(given, mine)])
            if row is None:
                continue
            name = row[1]
        except Exception:  # whatever an edited line may raise
            name = "layer 0"
        return _follow(last, model, ops, file, given, name)
    return None


@dataclass
class _Found(Called):
    culprit: Culprit


def _follow(
    last: Stage, model: Any, ops: ModuleType, file: str, given: Scenario, row: str
) -> Culprit:
    program = last.program
    expected = {
        place: _calls_at(last, given, place) for place, _ in places(row, program)
    }

    read = partial(carried, summands=program.summands)

    def look(
        place: Place,
        graph: Graph,
        op: Op,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        if place not in expected:
            return
        env = expected[place].pop(0)
        wrong = _wrong_call(op, name, args, kwargs, env, graph, last, place)
        if wrong is None and _wrong_result(op, result, env):
            raised = f" ({result})" if isinstance(result, Exception) else ""
            kept = " or state.py" if op.state_fields() else ""
            told = f"{op.mnemonic} gives another result{raised}; see {file}{kept}"
            wrong = file, told
        if wrong:
            raise _Found(Culprit(wrong[0], place, statement(op), wrong[1]))

    try:
        with following(model, ops, program, look):
            answer(model, enumerate(model.layers), read, given)
    except _Found as found:
        return found.culprit
    except Called as called:
        return Culprit("model.py", None, "", str(called))
    except Exception as error:  # as above
        return Culprit("model.py", None, "", f"the emitted model cannot run: {error}")
    why = "all ops agree one by one, but not what a layer hands on"
    return Culprit("model.py", None, "", why)


def _calls_at(last: Stage, given: Scenario, place: Place) -> list[Values]:
    """List the values after each op at a place, op after op, call after call."""
    found: list[Values] = []

    def watch(path: str, graph: Graph, op: Op, env: Mapping[str, Any]) -> None:
        if place_of(path, graph) == place:
            tensors = {k: v for k, v in env.items() if isinstance(v, torch.Tensor)}
            found.append(tensors)

    last.watch = watch
    for _ in execute(last, given):
        pass
    return found


def _wrong_call(
    op: Op,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    env: Values,
    graph: Graph,
    last: Stage,
    place: Place,
) -> tuple[str, str] | None:
    """Return (file, why) where a call of the emitted model is not the op of the
    program."""
    if name != op.mnemonic:
        return "model.py", f"it calls ops.{name} where the program has {op.mnemonic}"
    defaults = {n: getattr(op, n) for n in op.attribute_fields()}
    for key, want in defaults.items():
        got = kwargs.get(key, type(op).model_fields[key].default)
        if _plain(got) != _plain(want):
            return "model.py", f"it says {key}={got!r}, the program {key}={want!r}"
    required = [f for f, (_, must) in op.operand_fields().items() if must]
    actual = dict(zip(required, args, strict=False)) | kwargs
    for key, sigil, operand in op.operands():
        want = env.get(operand) if sigil == "%" else _weight(last, place, operand)
        got = actual.get(key)
        if want is None:
            continue
        if not isinstance(got, torch.Tensor) or not _same(got, want):
            if sigil == "%" and graph.name == "stem" and operand not in graph.producers:
                return "inputs.py", f"%{operand} is another than the program is given"
            return (
                "model.py",
                f"{op.mnemonic} is given another {key} than {sigil}{operand}",
            )
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _weight(last: Stage, place: Place, name: str) -> torch.Tensor | None:
    own = last.weights.get(f"layers.{place}.{name}")
    return last.weights.get(name) if own is None else own


def _same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return got.shape == want.shape and difference(_flat(got), _flat(want)) <= TOLERANCE


def _flat(value: torch.Tensor) -> torch.Tensor:
    """Return a value in fp32 on the CPU, nan as 0: padding may be nan on both sides."""
    return value.detach().float().cpu().nan_to_num()


def _wrong_result(op: Op, result: Any, env: Values) -> bool:
    if isinstance(result, Exception):
        return True
    outs = result if isinstance(result, tuple) else (result,)
    if len(outs) != len(op.outs):
        return True
    pairs = zip(outs, op.outs, strict=True)
    return any(name in env and not _same(out, env[name]) for out, name in pairs)
