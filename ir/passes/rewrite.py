"""The rewriting engine: find a fusion's matches, check that they are legal, apply.

The lines of a pattern are unified with ops one after the other, with a step back where
one finds none: patterns are short, and their lines share names. A matched value that is
read outside the match must be made again by the replacement; a rule that needs more has
a ``check`` that returns a reason.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import Any

from glmc.ir.build import infer, unique
from glmc.ir.dealing import placement_of
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.ledger import Entry, count, traffic
from glmc.ir.op import Op
from glmc.ir.passes.pattern import (
    Binding,
    ParamLine,
    Pattern,
    PatternOp,
    parse_replacement,
    unify,
)
from glmc.ir.recipe import cat
from glmc.ir.text.syntax import Ref
from glmc.ir.types import TensorType, Type


@dataclass(frozen=True)
class Match:
    """A place where a pattern fits."""

    program: Program
    graph: Graph
    ops: tuple[int, ...]
    """Indices of the matched ops, in the pattern's order."""
    bound: Binding

    def type(self, name: str) -> Any:
        """Return the type bound to a pattern name such as ``%x`` or ``@w``; None if
        absent."""
        actual = self.bound.get(name)
        if actual is None:
            return None
        if name[0] == "%":
            return self.graph.types[actual]
        param = self.program.param(self.graph, actual)
        return param.type if param else None


Check = Callable[[Match], str | None]
Candidate = Callable[[Program, Graph, Op], bool]
Compute = Mapping[str, Callable[[Match], Any]]


@dataclass(frozen=True)
class Rule:
    """One pattern (``match``) and its replacement."""

    match: str
    replace: str

    @cached_property
    def pattern(self) -> Pattern:
        """The compiled left-hand side."""
        return Pattern(self.match)

    @cached_property
    def kinds(self) -> frozenset[type[Op]]:
        """The kinds of op in the pattern."""
        return frozenset(line.cls for line in self.pattern.ops)

    @cached_property
    def replacement(self) -> tuple[list[ParamLine], list[PatternOp]]:
        """The compiled right-hand side."""
        return parse_replacement(self.replace)


@dataclass(frozen=True)
class Fusion:
    """A rewrite written in the notation of the dump.

    ``rules`` are alternatives, tried in order. ``compute`` gives attributes of the
    replacement that the match does not name; ``check`` refuses a match with a reason.
    ``candidate`` limits the fusion to some of the ops that its rules end in, and
    ``wanted`` says in words to which; the ledger does not count the others as missed.
    """

    name: str
    doc: str
    rules: tuple[Rule, ...]
    check: Check | None = None
    compute: Compute = field(default_factory=dict)
    candidate: Candidate | None = None
    wanted: str = ""

    @cached_property
    def anchors(self) -> frozenset[type[Op]]:
        """The kinds of op that the rules end in."""
        return frozenset(rule.pattern.anchor.cls for rule in self.rules)

    @cached_property
    def needed(self) -> frozenset[type[Op]]:
        """The kinds of op without which no rule matches."""
        return frozenset.intersection(*(rule.kinds for rule in self.rules))

    def considers(self, program: Program, graph: Graph, op: Op) -> bool:
        """Tell whether an op is a candidate."""
        if type(op) not in self.anchors:
            return False
        return self.candidate is None or self.candidate(program, graph, op)

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to every graph of a program."""
        entries: list[Entry] = []

        def change(graph: Graph) -> Graph:
            graph, found = _apply_all(self, program, graph)
            entries.extend(found)
            return graph

        return program.map_graphs(change), entries or [_absent(self, program)]


def _absent(fusion: Fusion, program: Program) -> Entry:
    there = {type(op) for graph in program.graphs for op in graph.ops}
    anchors = sorted(cls.mnemonic for cls in fusion.anchors & there or fusion.anchors)
    reason = f"no {' or '.join(anchors)} {fusion.wanted}"
    if not there & fusion.anchors and len(anchors) > 1:
        reason = f"the model has no {' or '.join(anchors)}"
    for cls in sorted(fusion.needed - there, key=lambda cls: cls not in fusion.anchors):
        reason = f"the model has no {cls.mnemonic}"
        break
    return Entry(
        fusion=fusion.name, graph="", layers=0, status="absent", at="", reason=reason
    )


def _apply_all(
    fusion: Fusion, program: Program, graph: Graph
) -> tuple[Graph, list[Entry]]:
    """Rewrite until nothing applies; then say why the other candidates did not
    match."""
    entries: list[Entry] = []
    settled: dict[str, str | None] = {}
    while True:
        applied = _apply_one(fusion, program, graph, settled)
        if applied is None:
            break
        match, graph = applied
        made = _made(match.graph, graph)
        settled |= {name: None for op in made for name in op.outs}
        entries.append(_entry(fusion, match, graph, made))
    return graph, entries + list(_refusals(fusion, program, graph, settled))


def _apply_one(
    fusion: Fusion, program: Program, graph: Graph, settled: dict[str, str | None]
) -> tuple[Match, Graph] | None:
    for rule in fusion.rules:
        for match in matches(rule.pattern, program, graph):
            last = graph.ops[match.ops[-1]]
            anchor = last.outs[0]
            if anchor in settled or not fusion.considers(program, graph, last):
                continue
            reason = (fusion.check and fusion.check(match)) or _illegal(rule, match)
            after = reason or _rewrite(fusion, rule, match)
            if isinstance(after, Graph):
                return match, after
            settled[anchor] = after
    return None


def matches(pattern: Pattern, program: Program, graph: Graph) -> Iterator[Match]:
    """Yield the matches of a pattern, first ops first; one for each set of ops."""
    seen: set[frozenset[int]] = set()
    for indices, bound in _places(pattern.ops, graph, (), {}):
        if frozenset(indices) not in seen:
            seen.add(frozenset(indices))
            yield Match(program, graph, indices, bound)


def _places(
    lines: list[PatternOp], graph: Graph, taken: tuple[int, ...], bound: Binding
) -> Iterator[tuple[tuple[int, ...], Binding]]:
    """Match the remaining lines by backtracking: every op a line can be, given the
    bindings of the lines before it."""
    if len(taken) == len(lines):
        yield taken, bound
        return
    line = lines[len(taken)]
    for at, op in enumerate(graph.ops):
        if type(op) is line.cls and at not in taken:
            further = dict(bound)
            if unify(line, op, further) is None:
                yield from _places(lines, graph, (*taken, at), further)


def _illegal(rule: Rule, match: Match) -> str | None:
    """Return why a match may not be replaced: a value is read outside and not made
    again."""
    graph, inside = match.graph, set(match.ops)
    _, lines = rule.replacement
    made = {match.bound.get("%" + name) for line in lines for name in line.results}
    for at in match.ops:
        for name in graph.ops[at].outs:
            if name in made:
                continue
            if name in graph.returns:
                return f"%{name} is also returned"
            for other, op in enumerate(graph.ops):
                if other not in inside and name in op.values:
                    return f"%{name} is also read by {op.mnemonic}"
    return None


def _rewrite(fusion: Fusion, rule: Rule, match: Match) -> Graph | str:
    """Replace a match in its graph; return the graph, or why that would be circular."""
    bound = dict(match.bound)
    for name, compute in fusion.compute.items():
        bound["$" + name] = compute(match)
    param_lines, lines = rule.replacement
    graph = _merged_params(match, param_lines, bound)
    kept = [op for at, op in enumerate(graph.ops) if at not in match.ops]
    taken = set(graph.types) - {n for at in match.ops for n in graph.ops[at].outs}
    program, types = match.program, dict(graph.types)

    def type_of(sigil: str, name: str) -> Type:
        if sigil == "%":
            return types[name]
        param = program.param(graph, name)
        assert param is not None, name
        return param.type

    made = []
    for line in lines:
        names = tuple(bound.get("%" + name, name) for name in line.results)
        op = infer(line.cls, _fields(line, bound), names, type_of, taken)
        bound |= {f"%{n}": out for n, out in zip(line.results, op.outs, strict=True)}
        types |= {result.name: result.type for result in op.results}
        taken |= set(op.outs)
        made.append(op)
    ordered = _ordered([*kept, *made], graph, match)
    if ordered is None:
        return "an op between the matched ones needs their result"
    used = {name for op in ordered for name in op.params}
    params = tuple(param for param in graph.params if param.name in used)
    return graph.replace(ops=ordered, params=params)


def _fields(line: PatternOp, bound: Binding) -> dict[str, Any]:
    return {
        key: bound.get(item.sigil + item.name) if isinstance(item, Ref) else item
        for key, item in line.fields.items()
    }


def _merged_params(match: Match, lines: list[ParamLine], bound: Binding) -> Graph:
    """Add the parameters that a replacement concatenates."""
    graph = match.graph
    for line in lines:
        names = [bound.get(f"@{arg.name}") for arg in line.call.args]
        found = [match.program.param(graph, name) for name in names if name]
        parts = [param for param in found if param]
        if not parts:
            bound[f"@{line.name}"] = None
            continue
        taken = [param.name for param in (*graph.params, *match.program.params)]
        name = unique(line.name, taken)
        recipe = cat([param.recipe for param in parts])
        type_of = TensorType(
            dtype=parts[0].type.dtype,
            dims=recipe.shape,
            placement=placement_of(recipe),
        )
        param = Parameter(name=name, type=type_of, recipe=recipe)
        at = graph.params.index(parts[0])
        params = (*graph.params[:at], param, *graph.params[at:])
        graph = graph.replace(params=params)
        bound[f"@{line.name}"] = name
    return graph


def _ordered(ops: list[Op], graph: Graph, match: Match) -> tuple[Op, ...] | None:
    """Sort ops topologically, each as near as can be to where it stood; None if
    circular."""
    last = graph.ops[match.ops[-1]]
    place = {out: at for at, op in enumerate(graph.ops) for out in op.outs}
    end = place[last.outs[0]]
    maker = {name: at for at, op in enumerate(ops) for name in op.outs}
    sorter = TopologicalSorter(
        {at: [maker[n] for n in op.values if n in maker] for at, op in enumerate(ops)}
    )

    def stood(at: int) -> int:
        return min((place.get(out, end) for out in ops[at].outs), default=end)

    try:
        sorter.prepare()
    except CycleError:
        return None
    ready: list[tuple[int, int]] = []
    ordered: list[Op] = []
    while sorter.is_active():
        for at in sorter.get_ready():
            heappush(ready, (stood(at), at))
        _, first = heappop(ready)
        ordered.append(ops[first])
        sorter.done(first)
    return tuple(ordered)


def _made(before: Graph, after: Graph) -> list[Op]:
    """Return the ops of a rewritten graph that are new."""
    old = set(map(id, before.ops))
    return [op for op in after.ops if id(op) not in old]


def _entry(fusion: Fusion, match: Match, after: Graph, new: list[Op]) -> Entry:
    before = [match.graph.ops[at] for at in match.ops]
    replaced, made = (tuple(op.mnemonic for op in ops) for ops in (before, new))
    return Entry(
        fusion=fusion.name,
        graph=match.graph.name,
        layers=count(match.graph),
        status="applied",
        at=", ".join(f"%{name}" for op in new for name in op.outs),
        reason=f"{' + '.join(replaced)} became {' + '.join(made)}",
        bytes_saved=traffic(match.graph, before) - traffic(after, new),
        replaced=replaced,
        made=made,
    )


def _refusals(
    fusion: Fusion,
    program: Program,
    graph: Graph,
    settled: Mapping[str, str | None],
) -> Iterator[Entry]:
    """Yield entries for the candidates left over: ops of an anchor's kind that no rule
    took or made."""
    there = {type(op) for op in graph.ops}
    for op in graph.ops:
        made_here = settled.get(op.outs[0], "") is None
        if made_here or not fusion.considers(program, graph, op):
            continue
        rules = [r for r in fusion.rules if type(op) is r.pattern.anchor.cls]
        # A rule whose ops the graph does not have explains nothing if another does.
        rules = [rule for rule in rules if rule.kinds <= there] or rules
        reason = settled.get(op.outs[0]) or "; or ".join(
            dict.fromkeys(_mismatch(rule.pattern, graph, op) for rule in rules)
        )
        yield Entry(
            fusion=fusion.name,
            graph=graph.name,
            layers=count(graph),
            status="refused",
            at=", ".join(f"%{name}" for name in op.outs),
            reason=reason,
        )


def _mismatch(pattern: Pattern, graph: Graph, anchor: Op) -> str:
    """Walk back from the anchor to the first op that does not fit the pattern; say
    why."""
    bound: Binding = {}
    todo = [(pattern.anchor, anchor)]
    while todo:
        line, op = todo.pop()
        reason = unify(line, op, bound)
        if reason:
            return reason
        for item in line.fields.values():
            made = isinstance(item, Ref) and pattern.producers.get(item.name)
            if not made or item.sigil != "%":
                continue
            name = bound["%" + item.name]
            if name not in graph.producers:
                wanted = made[0].cls.mnemonic
                return f"%{name} comes into {graph.name}, not from {wanted}"
            todo.append((made[0], graph.producers[name]))
    return "its inputs are not those of one match"
