"""``glmc bisect``: where a build first departs from what it should compute.

What a build does is a chain: the reference, the lowered program, the program after every
pass, the emitted module with the reference ops, the same with the kernels. Each link runs
on the same tokens; the first that departs from the one before it is to blame. Within it
the first layer is found from the hidden states, and the first op by comparing values.
"""

import argparse
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from glmc import references
from glmc.backends.torch.execute import Executor
from glmc.builds import Build
from glmc.comparing import (
    TOLERANCES,
    Answer,
    Scenario,
    answer,
    carried,
    difference,
    scenarios,
)
from glmc.ir.errors import GlmcError
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.text import parse_program
from glmc.probing import (
    Called,
    Place,
    Values,
    Weights,
    _Kept,
    following,
    stage_answer,
    stage_values,
    their_values,
    watched_modules,
)
from glmc.views import statement

TOLERANCE = TOLERANCES["float32"]
READING = "reading"
"""The culprit's name where the lowered program is already wrong."""


@dataclass(frozen=True)
class Culprit:
    """What is to blame."""

    stage: str
    """``reading``, a pass, or a file of the build."""
    place: Place | None
    """``stem``, a layer's number, ``head``, or None where it cannot be told."""
    op: str
    """The op's line in the dump; empty where it cannot be told."""
    why: str
    suspects: list[str] = field(default_factory=list)
    """Other ops that no value of the reference tells apart from it."""
    hints: list[str] = field(default_factory=list)
    """Lines of the spec, or files, to look at."""


class Reference(Protocol):
    """What is right: answers, and values where it has them."""

    answers: Sequence[tuple[Scenario, Answer]]

    def values(self, at: int, program: Program, graph: Graph, place: Place) -> Values:
        """What a lowered graph's values should be in scenario ``at``."""


@dataclass
class Numbers:
    """A reference of numbers alone."""

    answers: Sequence[tuple[Scenario, Answer]]

    def values(self, at: int, program: Program, graph: Graph, place: Place) -> Values:
        """Nothing is known of the values within."""
        return {}


@dataclass
class Transformers:
    """A model of transformers as the reference."""

    model: Any
    layers: int
    given: Sequence[Scenario]
    prefixes: Sequence[str]

    @cached_property
    def answers(self) -> Sequence[tuple[Scenario, Answer]]:
        """What it answers."""
        return list(references.answers(self.model, self.layers, self.given))

    @cached_property
    def _kept(self) -> dict[int, Values]:
        return {}

    def values(self, at: int, program: Program, graph: Graph, place: Place) -> Values:
        """What its modules tell of a graph's values."""
        if at not in self._kept:
            kept = _Kept()
            with watched_modules(self.model, kept):
                list(references.answers(self.model, self.layers, [self.given[at]]))
            self._kept[at] = kept.whole()
        kept_values = self._kept[at]
        found = their_values(program, graph, place, kept_values, self.prefixes)
        name = f"layer {place}"
        _, rows = self.answers[at]
        if name in rows:
            found.setdefault(graph.returns[0], rows[name])
        if place == "head":
            found[graph.returns[0]] = rows["logits"]
        return found


@dataclass
class Chain:
    """The links that are compared: programs by stage, weights, and the emitted model."""

    programs: Mapping[str, Program]
    weights: Mapping[str, torch.Tensor]
    load: Callable[[], Any] | None = None
    """The emitted model with its weights, fp32."""
    ops: Sequence[str] = ("reference",)
    """The modules of the build whose ops are tried, in this order."""

    def culprit(self, reference: Reference) -> Culprit | None:
        """The first link that departs from the one before; None where none does."""
        right = reference.answers
        before: Executor | None = None
        for name, program in self.programs.items():
            try:
                now = Executor(program, self.weights)
                mine = [(given, stage_answer(now, given)) for given, _ in right]
            except (KeyError, RuntimeError, ValueError) as error:
                return _broken(name, program, error)
            row = first_row(right, mine)
            if row and before is None:
                return blame_reading(now, reference, *row)
            if row and before:
                return blame_pass(name, before, now, right[row[0]][0], row[1])
            before, right = now, mine
        assert before is not None
        return self._emitted(before, right) if self.load else None

    def _emitted(
        self, last: Executor, right: Sequence[tuple[Scenario, Answer]]
    ) -> Culprit | None:
        assert self.load is not None
        try:
            model = self.load()
        except (ValueError, RuntimeError, AttributeError, SyntaxError) as error:
            why = f"the emitted model does not load: {error}"
            return Culprit("weights.py", None, "", why)
        wrong = blame_weights(last, model)
        if wrong:
            return wrong
        package = type(model).__module__.rpartition(".")[0]
        for name in self.ops:
            ops = importlib.import_module(f".{name}", package)
            found = _blame_ops(last, model, ops, f"{name}.py", right)
            if found:
                return found
        return None


def first_row(
    right: Sequence[tuple[Scenario, Answer]], mine: Sequence[tuple[Scenario, Answer]]
) -> tuple[int, str] | None:
    """(scenario, row) of the first row that departs, layers before logits."""
    found = []
    for at, ((given, want), (_, got)) in enumerate(zip(right, mine, strict=True)):
        rows = [name for name in got if name in want]
        for n, name in enumerate(rows):
            if _departs(got[name], want[name], given):
                found.append((math.inf if name == "logits" else n, at, name))
                break
    return min(found)[1:] if found else None


def _departs(got: torch.Tensor, want: torch.Tensor, given: Scenario) -> bool:
    real = given.real
    if got.shape[:2] != want.shape[:2] or got.shape[:2] != real.shape:
        return got.shape != want.shape or difference(got, want) > TOLERANCE
    return difference(got[real], want[real]) > TOLERANCE


def _broken(name: str, program: Program, error: Exception) -> Culprit:
    stage = name if name != next(iter([name, "lowered"])) else name
    return Culprit(stage, None, "", f"{program.name} cannot run: {error}")


def _places(row: str, program: Program) -> Iterator[tuple[Place, Graph]]:
    """Where a row that departs may have gone wrong, in the order of execution."""
    yield "stem", program.stem
    if row.startswith("layer "):
        layer = int(row.split()[1])
        yield layer, program.schedule()[layer]
    else:
        yield "head", program.head


# --- the reference against the lowered program ---------------------------------------


def blame_reading(now: Executor, reference: Reference, at: int, row: str) -> Culprit:
    """The lowered program is wrong: the config, the spec or the lowering."""
    program, (given, _) = now.program, reference.answers[at]
    for place, graph in _places(row, program):
        want = reference.values(at, program, graph, place)
        have = stage_values(now, given, place)
        found = _first_wrong(graph, have, want, given)
        if found:
            op, others = found
            why = "the program departs from the reference before any pass has run"
            return Culprit(
                READING, place, statement(op), why, [statement(one) for one in others]
            )
    why = (
        "the program departs from the reference before any pass has run; the reference "
        "has no values that tell which op it is"
    )
    return Culprit(READING, place if row.startswith("layer") else None, "", why)


def _first_wrong(
    graph: Graph, have: Values, want: Values, given: Scenario
) -> tuple[Op, list[Op]] | None:
    """The first op with a wrong result, and the ops before it that may be the cause."""
    right = {
        name
        for name, value in want.items()
        if name in have and not _departs(have[name], value, given)
    }
    for op in graph.ops:
        told = [name for name in op.outs if name in want and name in have]
        if any(name not in right for name in told):
            causes = _unsettled(graph, op, right)
            return op, causes
    return None


def _unsettled(graph: Graph, op: Op, right: set[str]) -> list[Op]:
    """The ops that lead to ``op`` and whose results the reference does not know."""
    found: list[Op] = []
    waiting = list(op.values)
    while waiting:
        name = waiting.pop()
        maker = graph.producers.get(name)
        if maker is None or name in right or maker in found:
            continue
        found.append(maker)
        waiting += maker.values
    return [one for one in graph.ops if one in found]


# --- one stage against the next -------------------------------------------------------


def blame_pass(
    name: str, before: Executor, now: Executor, given: Scenario, row: str
) -> Culprit:
    """A pass changed what the program computes."""
    why = f"the pass {name} changed the result"
    for place, graph in _places(row, now.program):
        old = _graph_at(before.program, place)
        want, have = (stage_values(one, given, place) for one in (before, now))
        made = {n for op in graph.ops for n in op.outs}
        made &= {n for op in old.ops for n in op.outs}
        common = {n: v for n, v in want.items() if n in made}
        found = _first_wrong(graph, have, common, given)
        if found:
            op, others = found
            fresh = [one for one in (*others, op) if one not in old.ops]
            first = fresh[0] if fresh else op
            rest = [statement(one) for one in fresh[1:]]
            return Culprit(name, place, statement(first), why, rest)
    returned = ", ".join(f"%{one}" for one in graph.returns)
    return Culprit(name, place, f"return {returned}", f"{why} in what is handed on")


def _graph_at(program: Program, place: Place) -> Graph:
    if isinstance(place, int):
        return program.schedule()[place]
    return program.stem if place == "stem" else program.head


# --- the last stage against what was emitted ------------------------------------------


def blame_weights(last: Executor, model: Any) -> Culprit | None:
    """The first parameter that the build assembles in another way than its recipe."""
    have = dict(model.named_parameters())
    for path, layer, param in last.program.bindings():
        want, got = last.weights[path], have.get(path)
        if got is not None and torch.equal(got.detach().float().cpu(), want.float()):
            continue
        graph = _reader(last.program, layer, param.name)
        readers = [op for op in graph.ops if param.name in op.params]
        op = statement(readers[0]) if readers else ""
        place: Place = graph.name if layer is None else layer
        why = f"the build assembles {path} in another way than its recipe says"
        return Culprit("weights.py", place, op, why)
    return None


def _reader(program: Program, layer: int | None, name: str) -> Graph:
    if layer is not None:
        return program.schedule()[layer]
    graphs = (program.stem, program.head)
    return next(g for g in graphs if any(name in op.params for op in g.ops))


def _blame_ops(
    last: Executor,
    model: Any,
    ops: ModuleType,
    file: str,
    right: Sequence[tuple[Scenario, Answer]],
) -> Culprit | None:
    """Compare the emitted model with the last stage; then follow it op by op."""
    model.ops = ops
    for given, want in right:
        try:
            mine = answer(model, model.layers, carried, given)
            row = first_row([(given, want)], [(given, mine)])
            if row is None:
                continue
            name = row[1]
        except (RuntimeError, ValueError, TypeError, AttributeError):
            name = "layer 0"
        return _follow(last, model, ops, file, given, name)
    return None


@dataclass
class _Found(Called):
    culprit: Culprit


def _follow(
    last: Executor, model: Any, ops: ModuleType, file: str, given: Scenario, row: str
) -> Culprit:
    program = last.program
    expected = {
        place: _calls_at(last, given, place) for place, _ in _places(row, program)
    }

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
        env = expected[place][0].pop(0)
        wrong = _wrong_call(op, name, args, kwargs, env, graph, last, place)
        if wrong is None and _wrong_result(op, result, env):
            raised = f" ({result})" if isinstance(result, Exception) else ""
            kv = " or cache.py" if "kv" in op.operand_fields() else ""
            wrong = file, f"{op.mnemonic} gives another result{raised}; see {file}{kv}"
        if wrong:
            raise _Found(Culprit(wrong[0], place, statement(op), wrong[1]))

    try:
        with following(model, ops, program, look):
            answer(model, model.layers, carried, given)
    except _Found as found:
        return found.culprit
    except Called as called:
        return Culprit("model.py", None, "", str(called))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        return Culprit("model.py", None, "", f"the emitted model cannot run: {error}")
    why = "all ops agree one by one, but not what a layer hands on"
    return Culprit("model.py", None, "", why)


def _calls_at(
    last: Executor, given: Scenario, place: Place
) -> tuple[list[Values], int]:
    """The values after each op at a place, op after op, call after call."""
    found: list[Values] = []
    from glmc.probing import execute, place_of

    def watch(path: str, graph: Graph, op: Op, env: Mapping[str, Any]) -> None:
        if place_of(path, graph) == place:
            tensors = {k: v for k, v in env.items() if isinstance(v, torch.Tensor)}
            found.append(tensors)

    last.watch = watch
    for _ in execute(last, given):
        pass
    return found, len(found)


def _wrong_call(
    op: Op,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    env: Values,
    graph: Graph,
    last: Executor,
    place: Place,
) -> tuple[str, str] | None:
    """(file, why) where a call of the emitted model is not the op of the program."""
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


def _weight(last: Executor, place: Place, name: str) -> torch.Tensor | None:
    own = last.weights.get(f"layers.{place}.{name}")
    return last.weights.get(name) if own is None else own


def _same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return got.shape == want.shape and difference(_flat(got), _flat(want)) <= TOLERANCE


def _flat(value: torch.Tensor) -> torch.Tensor:
    """Comparable values; what padding holds may be nan on both sides."""
    return value.detach().float().cpu().nan_to_num()


def _wrong_result(op: Op, result: Any, env: Values) -> bool:
    if isinstance(result, Exception):
        return True
    outs = result if isinstance(result, tuple) else (result,)
    if len(outs) != len(op.outs):
        return True
    pairs = zip(outs, op.outs, strict=True)
    return any(name in env and not _same(out, env[name]) for out, name in pairs)


# --- the command ----------------------------------------------------------------------


def bisect_command(arguments: argparse.Namespace) -> int:
    """``glmc bisect``; 0 when the build is right, 1 with the culprit named."""
    build = Build(arguments.build)
    chain = chain_of(build, arguments)
    found = chain.culprit(_reference(build, arguments))
    if found:
        found = _with_hints(build, found)
    if arguments.json:
        print(json.dumps({"culprit": asdict(found) if found else None}, indent=2))
    else:
        print(text(found) if found else "no difference: every stage computes the same")
    return 1 if found else 0


def chain_of(build: Build, arguments: argparse.Namespace) -> Chain:
    """The links of a build on disk."""
    names = list(build.stages)[1:]
    programs = {name: parse_program(build.dump(name)) for name in names}
    folder = Path(arguments.weights)
    weights = Weights(folder, build.model.optional_prefix)
    ops = ["reference", "kernels"] if torch.cuda.is_available() else ["reference"]

    def load() -> Any:
        from glmc.running import import_build

        return import_build(build.path).load(folder, device="cpu", dtype="float32")

    return Chain(programs, weights, load, ops[:1])


def _reference(build: Build, arguments: argparse.Namespace) -> Reference:
    if arguments.against != "transformers":
        return Numbers(references.read_golden(Path(arguments.against)))
    model = references.load_transformers(arguments.weights, "float32", "cpu")
    program = build.program
    given = scenarios(build.model.vocab, 9, 3)
    return Transformers(
        model, program.layers, given, prefixes(build.model.optional_prefix)
    )


def prefixes(optional: str | None) -> tuple[str, ...]:
    """What module names of transformers may have before a tensor's name."""
    return tuple(dict.fromkeys(p for p in (optional, "model.", "transformer.") if p))


def _with_hints(build: Build, found: Culprit) -> Culprit:
    """The lines of the spec that decide the op, where the reading is to blame."""
    from glmc.tracing import spec_of_op

    if found.stage != READING or not found.op:
        return found
    first = list(build.stages)[1]
    ops = [op for graph in parse_program(build.dump(first)).graphs for op in graph.ops]
    wanted = {found.op, *found.suspects}
    lines = dict.fromkeys(
        f"{line['where']} {line['entry']}: {line['says']}"
        for op in ops
        if statement(op) in wanted
        for line in spec_of_op(build, op)
    )
    return Culprit(
        found.stage, found.place, found.op, found.why, found.suspects, [*lines]
    )


def text(found: Culprit) -> str:
    """The culprit for a person."""
    where = f"layer {found.place}" if isinstance(found.place, int) else found.place
    lines = [f"culprit  {found.stage}: {found.why}"]
    if where is not None:
        lines.append(f"where    {where}")
    if found.op:
        lines.append(f"op       {found.op}")
    lines += [f"or       {one}" for one in found.suspects]
    lines += [f"see      {one}" for one in found.hints]
    return "\n".join(lines)
