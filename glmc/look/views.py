"""Views of a build: one op, one stage against another, every parameter's recipe."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from glmc.backends.ledger import RUN_BY
from glmc.ir.errors import NotInBuildError
from glmc.ir.graph import Graph, Program
from glmc.ir.leaves import Tensor
from glmc.ir.ledger import count
from glmc.ir.op import Op, registry
from glmc.ir.recipe import Cat, OnFirst, Permute, Recipe, Shard, Slice, View, tensors
from glmc.ir.text.printer import (
    print_call,
    print_layers,
    print_recipe,
    print_state,
)
from glmc.look.builds import Build


def title(graph: Graph) -> str:
    """Return ``layer x 28``, ``stem``."""
    return f"{graph.name} x {count(graph)}" if graph.layers else graph.name


def statement(op: Op) -> str:
    """Write an op as a line of a dump."""
    return f"{', '.join(map(str, op.results))} = {print_call(op)}"


def program_of(build: Build, stage: str) -> Program:
    """Return the program after a stage.

    Raises:
        GlmcError: when there is no such stage, or it is the Model.
    """
    if stage == "model":
        raise NotInBuildError(
            "the stage 'model' holds no graphs; take one of the later ones."
        )
    return build.program_at(stage)


# --- one op, everywhere -------------------------------------------------------------


def op_facts(build: Build, name: str) -> dict[str, Any]:
    """Find an op (``linear``) or value (``%qkv``) in the last stage.

    Raises:
        GlmcError: when the build has none of that name.
    """
    stages = list(build.stages)[1:]
    programs = [program_of(build, stage) for stage in stages]
    placed = {(row.graph, row.at): row for row in build.placements}
    value, found = name.removeprefix("%"), []
    for graph in programs[-1].graphs:
        for op in graph.ops:
            if op.mnemonic == name or value in op.outs:
                row = placed.get((graph.name, ", ".join(f"%{out}" for out in op.outs)))
                found.append(
                    {
                        "graph": graph.name,
                        "layers": count(graph),
                        "line": statement(op),
                        "since": stages[_since(programs, graph, op)],
                        "launches": build.target.launches([op.mnemonic]),
                        "where": row and row.where,
                        "reason": row.reason if row else "",
                    }
                )
    if not found:
        ops = {op.mnemonic for graph in programs[-1].graphs for op in graph.ops}
        near = get_close_matches(name, [*ops, *registry()], n=1)
        other = " It may be fused away; see --diff." if name in registry() else ""
        hint = f"; did you mean {near[0]}?" if near and near[0] != name else "."
        raise NotInBuildError(
            f"the last stage has no op or value {name!r}{hint}{other} "
            f"Its ops are {', '.join(sorted(ops))}."
        )
    doc = registry()[name].__doc__ if name in registry() else None
    on = build.target
    about = {"on": on.machine, "unit": on.unit, "units": on.units}
    return {"op": name, "doc": _first(doc), **about, "uses": found}


def _since(programs: Sequence[Program], graph: Graph, op: Op) -> int:
    """Return the first of the last stages in a row that hold an op as it is now."""
    at = len(programs) - 1
    while at and any(
        op in g.ops for g in programs[at - 1].graphs if g.name == graph.name
    ):
        at -= 1
    return at


def _first(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def op_text(facts: dict[str, Any]) -> str:
    """Format :func:`op_facts` for a person."""
    lines = [f"{facts['op']}: {facts['doc']}"] if facts["doc"] else []
    for use in facts["uses"]:
        launches = use["launches"]
        launches = f"{launches} {facts['unit' if launches == 1 else 'units']}"
        where = f"{use['graph']} x {use['layers']}"
        lines += [f"  {where}, {launches}, since {use['since']}", f"    {use['line']}"]
        if use["where"]:  # builds of before placements were written down have none
            why = f": {use['reason']}" if use["reason"] else ""
            lines.append(f"    on {facts['on']}: {RUN_BY[use['where']]}{why}")
    return "\n".join(lines)


# --- one stage against another ------------------------------------------------------


def diff_facts(build: Build, before: str, after: str) -> list[dict[str, Any]]:
    """List, per graph, the lines that went (``-``), came (``+``) and stayed (blank)."""
    old, new = program_of(build, before), program_of(build, after)
    found = []
    for was in old.graphs:
        now = next((g for g in new.graphs if g.name == was.name), None)
        lines = list(_changes(_lines(was), _lines(now) if now else []))
        if any(mark != " " for mark, _ in lines):
            found.append({"graph": title(was), "lines": lines})
    return found


def _lines(graph: Graph) -> list[str]:
    return [
        "(" + ", ".join(map(str, graph.inputs)) + ")",
        *map(print_state, graph.states),
        *(
            f"@{param.name}: {param.type} = {print_recipe(param.recipe, graph.prefix)}"
            for param in graph.params
        ),
        *map(statement, graph.ops),
        "return " + ", ".join(f"%{name}" for name in graph.returns),
    ]


def _changes(old: list[str], new: list[str]) -> Iterator[tuple[str, str]]:
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            yield from ((" ", line) for line in old[a:b])
        else:
            yield from (("-", line) for line in old[a:b])
            yield from (("+", line) for line in new[c:d])


def diff_text(build: Build, before: str, after: str) -> str:
    """Format the diff for a person: unchanged lines only beside changed ones, and
    why."""
    lines = [f"{before} -> {after}"]
    for graph in diff_facts(build, before, after):
        lines += ["", graph["graph"], *_context(graph["lines"])]
    if len(lines) == 1:
        lines.append("  no difference")
    names = list(build.stages)
    passes = names[names.index(before) + 1 : names.index(after) + 1]
    why = [e for e in build.ledger if e.fusion in passes and e.status == "applied"]
    lines += ["", *(f"{e.fusion}: {e.graph}: {e.reason}" for e in why)] if why else []
    return "\n".join(lines)


def _context(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    changed = {at for at, (mark, _) in enumerate(lines) if mark != " "}
    near = {at + step for at in changed for step in (-1, 0, 1)}
    gap = False
    for at, (mark, line) in enumerate(lines):
        if at in near:
            gap = False
            yield f"{mark} {line}"
        elif not gap:
            gap = True
            yield "  …"


# --- weights ------------------------------------------------------------------------


def weight_facts(build: Build) -> list[dict[str, Any]]:
    """List each parameter of the last stage: where its rows come from, and how."""
    program = build.program
    rows = [(param.name, param) for param in program.params]
    for block in program.blocks:
        at = print_layers(block.layers)
        rows += [(f"layers.{{{at}}}.{p.name}", p) for p in block.params]
    return [
        {
            "path": path,
            "type": str(param.type),
            "recipe": print_recipe(param.recipe),
            "pieces": list(pieces(param.recipe)),
        }
        for path, param in rows
    ]


def pieces(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the tensors of a recipe: which rows of the parameter each fills, and
    how."""
    parts = recipe.parts if isinstance(recipe, Cat) and not recipe.dim else (recipe,)
    start = 0
    for part in parts:
        rows = part.shape[0]
        tensor, how = _described(part)
        yield {"rows": [start, start + rows], "tensor": tensor, "how": how}
        start += rows


def _described(recipe: Recipe) -> tuple[str, str]:
    """Return (tensors, steps): ``("qkv.weight", "rows 0:4096 of 4608")``."""
    match recipe:
        case Tensor(name=name):
            return name, "whole"
        case Slice(of=of, dim=dim, start=start, stop=stop):
            name, how = _described(of)
            what = ("rows", "columns")[dim] if dim < 2 else f"dimension {dim},"
            step = f"{what} {start}:{stop} of {of.shape[dim]}"
        case Shard(of=of, dim=dim, ranks=ranks, copies=copies):
            name, how = _described(of)
            what = ("rows", "columns")[dim] if dim < 2 else f"dimension {dim}"
            twice = f", {copies} ranks the same" if copies > 1 else ""
            step = f"a rank's {what}, of {ranks}{twice}"
        case OnFirst(of=of):
            name, how = _described(of)
            step = "on the first rank, zeros on the others"
        case View(of=of, to=to):
            name, how = _described(of)
            step = f"seen as {list(to)}"
        case Permute(of=of, dims=dims):
            name, how = _described(of)
            step = "transposed" if dims == (1, 0) else f"permuted {list(dims)}"
        case _:
            names = dict.fromkeys(tensor.name for tensor in tensors(recipe))
            return ", ".join(names), f"as {print_recipe(recipe)}"
    return name, step if how == "whole" else f"{how}, then {step}"


def weights_text(rows: Sequence[dict[str, Any]]) -> str:
    """Format :func:`weight_facts` for a person."""
    lines = []
    for row in rows:
        lines.append(f"{row['path']}: {row['type']}")
        for piece in row["pieces"]:
            start, stop = piece["rows"]
            where = f"rows {start}:{stop} = " if len(row["pieces"]) > 1 else ""
            lines.append(f"  {where}{piece['tensor']}, {piece['how']}")
    return "\n".join(lines)
