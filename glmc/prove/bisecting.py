"""``glmc bisect``: where a build first departs from what it should compute.

What a build does is a chain: the reference, the lowered program, the program after each
pass, the emitted module with the reference ops, the same with the kernels. Each link
runs on the same tokens; the first that departs from the one before it is to blame.
Within it the hidden states tell the first layer, and values the first op.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glmc.backends.runtime.glm_positions import GlmPositions
from glmc.backends.runtime.inputs import positions
from glmc.backends.runtime.loading import find_folder
from glmc.ir.errors import WeightsUnusableError
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.look.builds import Build
from glmc.look.views import statement
from glmc.prove import references
from glmc.prove.comparing import Answer, Scenario, scenarios
from glmc.prove.culprits import READING, Culprit, departs, first_row, places
from glmc.prove.emission import blame_build
from glmc.prove.probing import (
    Place,
    RankedStage,
    Recording,
    Scheme,
    Stage,
    Teller,
    Told,
    Values,
    Weights,
    graph_at,
    stage_answer,
    stage_of,
    stage_values,
    watched_modules,
)
from glmc.prove.verifying import device_of
from glmc.use.running import hub_options


class Reference(Protocol):
    """The reference that a build is compared with: answers, and inner values where it
    has them."""

    @property
    def answers(self) -> Sequence[tuple[Scenario, Answer]]:
        """The scenarios and the reference's answers to them."""

    def told(self, at: int, program: Program, graph: Graph, place: Place) -> Told:
        """Return the reference's values for a lowered graph in scenario ``at``."""


@dataclass
class Numbers:
    """A reference that holds answers only."""

    answers: Sequence[tuple[Scenario, Answer]]

    def told(self, at: int, program: Program, graph: Graph, place: Place) -> Told:
        """Return nothing: the values within are unknown."""
        return {}


@dataclass
class Transformers:
    """A model of transformers as the reference."""

    model: Any
    numbers: Sequence[int]
    """The number of each layer of the build in the checkpoint."""
    given: Sequence[Scenario]
    prefixes: Sequence[str]
    answers: Sequence[tuple[Scenario, Answer]] = ()
    _kept: dict[int, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = references.answers(self.model, self.numbers, self.given)
        self.answers = list(found)

    def told(self, at: int, program: Program, graph: Graph, place: Place) -> Told:
        """Return the values that the modules of transformers have for a graph."""
        if at not in self._kept:
            kept = Recording()
            with watched_modules(self.model, kept):
                list(references.answers(self.model, self.numbers, [self.given[at]]))
            self._kept[at] = kept.whole()
        teller = Teller(program, graph, place, self._kept[at], self.prefixes)
        rows = self.answers[at][1]
        if place == "head":
            teller.tell(graph.returns[0], rows["logits"])
        elif place == "stem":
            first = next(iter(references.layers_of(self.model, self.numbers).values()))
            name = next(n for n, m in self.model.named_modules() if m is first)
            teller.tell(graph.returns[0], self._kept[at].get(f"{name} in"))
        else:
            teller.tell(graph.returns[0], rows.get(f"layer {place}"))
        return teller.all()


@dataclass
class Chain:
    """The links that are compared: programs by stage, and the emitted model."""

    programs: Mapping[str, Program]
    weights: Mapping[str, torch.Tensor]
    load: Callable[[], Any] | None = None
    """The emitted model with its weights, fp32."""
    ops: Sequence[str] = ("reference",)
    """The modules of the build whose ops are tried, in this order."""
    scheme: Scheme = positions

    def culprit(self, reference: Reference) -> Culprit | None:
        """Find the first link that departs from the one before; None where none
        does."""
        right = reference.answers
        before: Stage | RankedStage | None = None
        for name, program in self.programs.items():
            try:
                now = stage_of(program, self.weights, self.scheme)
                mine = [(given, stage_answer(now, given)) for given, _ in right]
            except (KeyError, RuntimeError, ValueError) as error:
                return Culprit(name, None, "", f"the program cannot run: {error}")
            row = first_row(right, mine)
            if row and before is None:
                return blame_reading(now, reference, *row)
            if row and before:
                return blame_pass(name, before, now, right[row[0]][0], row[1])
            before, right = now, mine
        assert before is not None
        if self.load is None or isinstance(before, RankedStage):
            return None
        return blame_build(before, self.load, self.ops, right)


# --- the reference against the lowered program ---------------------------------------


def blame_reading(
    now: Stage | RankedStage, reference: Reference, at: int, row: str
) -> Culprit:
    """Blame the config, the spec or the lowering for a wrong lowered program."""
    program, (given, _) = now.program, reference.answers[at]
    why = "the program departs from the reference before any pass has run"
    for place, graph in places(row, program):
        want = reference.told(at, program, graph, place)
        have = stage_values(now, given, place)
        found = _first_wrong(graph, have, want, given)
        if found is None:
            continue
        op, others = found
        instead = _another(op, have, want, given)
        if instead:
            why += f"; what %{instead} holds belongs to %{op.outs[0]}"
            op, others = _source(graph, op), []
        lines = [statement(one) for one in others]
        return Culprit(READING, place, statement(op), why, lines)
    why += "; the reference has no values that tell which op it is"
    layer = int(row.split()[1]) if row.startswith("layer") else None
    return Culprit(READING, layer, "", why)


def _first_wrong(
    graph: Graph, have: Values, want: Told, given: Scenario
) -> tuple[Op, list[Op]] | None:
    """Find the first op with a wrong result, and the ops before it that may be the
    cause."""
    right = {
        name
        for name, values in want.items()
        if name in have and not any(departs(have[name], v, given) for v in values)
    }
    for op in graph.ops:
        if any(name in want and name in have and name not in right for name in op.outs):
            return op, _unsettled(graph, op, right)
    return None


def _unsettled(graph: Graph, op: Op, right: set[str]) -> list[Op]:
    """List the ops that lead to ``op`` and whose results are unknown in the
    reference."""
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


def _another(op: Op, have: Values, want: Told, given: Scenario) -> str | None:
    """Find another value that equals the expected one: the two are mixed up."""
    for out in op.outs:
        for value in want.get(out, ()):
            for name, other in have.items():
                same = name not in op.outs and other.shape == value.shape
                if same and not departs(other, value, given):
                    return name
    return None


def _source(graph: Graph, op: Op) -> Op:
    """Trace an op's first operand back to an op with a parameter."""
    while not op.params and op.values and op.values[0] in graph.producers:
        op = graph.producers[op.values[0]]
    return op


# --- one stage against the next -------------------------------------------------------


def blame_pass(
    name: str,
    before: Stage | RankedStage,
    now: Stage | RankedStage,
    given: Scenario,
    row: str,
) -> Culprit:
    """Blame a pass that changed what the program computes."""
    why = f"the pass {name} changed the result"
    place: Place = ""
    for place, graph in places(row, now.program):
        old = graph_at(before.program, place)
        want, have = (stage_values(one, given, place) for one in (before, now))
        made = {n for op in graph.ops for n in op.outs}
        made &= {n for op in old.ops for n in op.outs}
        # Heads that several ranks hold are more than before.
        made = {n for n in made if _alike(want.get(n), have.get(n))}
        common = {n: [v] for n, v in want.items() if n in made}
        found = _first_wrong(graph, have, common, given)
        if found:
            op, others = found
            fresh = [one for one in (*others, op) if one not in old.ops]
            first, *rest = fresh or [op]
            lines = [statement(one) for one in rest]
            return Culprit(name, place, statement(first), why, lines)
    graph = graph_at(now.program, place)
    returned = ", ".join(f"%{one}" for one in graph.returns)
    return Culprit(name, place, f"return {returned}", f"{why} in what is handed on")


def _alike(want: torch.Tensor | None, have: torch.Tensor | None) -> bool:
    return want is None or have is None or want.shape == have.shape


# --- the command ----------------------------------------------------------------------


def bisect_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc bisect``; return 0 when the build is right, 1 with the culprit
    named."""
    build = Build(arguments.build)
    build.require_generation()
    chain = chain_of(build, arguments)
    found = chain.culprit(_reference(build, arguments))
    if found:
        found = _with_hints(build, found)
    if arguments.json:
        print(json.dumps({"culprit": asdict(found) if found else None}, indent=2))
    else:
        print(text(found) if found else _NOTHING)
        if not found and build.ranks > 1:
            print(
                f"the emitted model was not run: under `torchrun --nproc-per-node"
                f" {build.ranks}` glmc verify compares it"
            )
    return 1 if found else 0


_NOTHING = "no difference: every stage computes the same"


def chain_of(build: Build, arguments: argparse.Namespace) -> Chain:
    """Return the links of a build on disk."""
    from glmc.use.running import import_build

    names = list(build.stages)[1:]
    programs = {name: build.program_at(name) for name in names}
    try:
        folder = find_folder(arguments.weights, **hub_options(arguments))
        weights = Weights(folder, build.model.optional_prefix)
    except ValueError as error:
        raise WeightsUnusableError(str(error)) from error

    device = device_of(arguments)

    def load() -> Any:
        module = import_build(build.path)
        options = {"allow_config_drift": arguments.allow_config_drift}
        return module.load(
            folder, device=device, dtype="float32", strict=False, **options
        )

    kind = device.partition(":")[0]
    chosen = build.target.operations.get(kind, "reference")
    modules = tuple(dict.fromkeys(("reference", chosen)))
    ids = build.model.positions
    scheme = GlmPositions(**dict(ids)) if ids else positions
    return Chain(programs, weights, load, modules, scheme)


def _reference(build: Build, arguments: argparse.Namespace) -> Reference:
    if arguments.against != "transformers":
        return Numbers(references.read_golden(Path(arguments.against)))
    model = references.load_transformers(
        arguments.weights, "float32", "cpu", arguments.revision
    )
    program = build.program
    given = scenarios(build.model.vocab, 9, 3)
    return Transformers(
        model, program.numbers, given, prefixes(build.model.optional_prefix)
    )


def prefixes(optional: str | None) -> tuple[str, ...]:
    """List the prefixes that module names of transformers may put before a tensor's
    name."""
    return tuple(dict.fromkeys(p for p in (optional, "model.", "transformer.") if p))


def _with_hints(build: Build, found: Culprit) -> Culprit:
    """Add the lines of the spec that decide the op, where the reading is to blame."""
    from glmc.look.tracing import spec_of_ops

    if found.stage != READING or not found.op:
        return found
    first = list(build.stages)[1]
    ops = [op for graph in build.program_at(first).graphs for op in graph.ops]
    wanted = {found.op, *found.suspects}
    found_in = spec_of_ops(build, [op for op in ops if statement(op) in wanted])
    lines = dict.fromkeys(
        f"{line['where']} {line['entry']}: {line['says']}" for line in found_in
    )
    return replace(found, hints=[*lines])


def text(found: Culprit) -> str:
    """Describe the culprit for a person."""
    where = f"layer {found.place}" if isinstance(found.place, int) else found.place
    lines = [f"culprit  {found.stage}: {found.why}"]
    if where is not None:
        lines.append(f"where    {where}")
    if found.op:
        lines.append(f"op       {found.op}")
    lines += [f"or       {one}" for one in found.suspects]
    lines += [f"see      {one}" for one in found.hints]
    return "\n".join(lines)
