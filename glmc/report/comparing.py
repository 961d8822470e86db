"""Everything that a page of two builds shows, as plain data.

A row of what is compared has a ``mark``: ``same``, ``changed``, or the side that alone
has it, ``a`` or ``b``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from glmc.ir.draw.svg import svg
from glmc.ir.graph import Graph
from glmc.ir.op import Op
from glmc.look.builds import Build
from glmc.look.views import statement, title
from glmc.report.parts import facts, keys, weights

Pair = tuple[Build, Build]
Rows = list[dict[str, Any]]


def comparison(builds: Pair) -> dict[str, Any]:
    """Return the report of two builds, for ``compare.js``; ``counts`` are of what
    differs."""
    parts = list(_parts(builds))
    found: dict[str, Any] = {
        "facts": _facts(builds),
        "parts": parts,
        "weights": list(_weights(builds)),
        "keys": list(_keys(builds)),
        "fusions": list(_fusions(builds)),
        "files": _files(builds),
    }
    found["counts"] = {
        "ops": _differ(row for part in parts for row in part["rows"]),
        "weights": _differ(row for part in found["weights"] for row in part["rows"]),
        "keys": _differ(found["keys"]),
        "fusions": _differ(found["fusions"]),
    }
    return found | {"said": said(builds, found)}


def said(builds: Pair, found: Mapping[str, Any]) -> list[str]:
    """Say in sentences what differs."""
    sentences = []
    versions = [build.manifest["glmc"] for build in builds]
    if versions[0] != versions[1]:
        sentences.append(
            f"A was written by glmc {versions[0]} and B by glmc {versions[1]}, so what "
            "differs may be the compiler's doing; compile one of them again to know."
        )
    counts, files = found["counts"], found["files"]
    kinds = {"ops": "op", "weights": "weight", "keys": "config key"}
    if any(counts[kind] for kind in kinds):
        told = [_count(counts[kind], word) for kind, word in kinds.items()]
        verb = "differs" if sum(counts[kind] for kind in kinds) == 1 else "differ"
        text = f"{', '.join(told[:2])} and {told[2]} {verb}."
        return [text[0].upper() + text[1:], *sentences]
    if files:
        names = ", ".join(files[:6]) + (", …" if len(files) > 6 else "")
        return [
            "A and B have the same ops, weights and config; of the files that were "
            f"written these differ: {names}.",
            *sentences,
        ]
    return ["A and B are the same build: every file that was written is equal."]


def _count(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def _differ(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["mark"] != "same" for row in rows)


def _mark(a: object, b: object) -> str:
    if a is None or b is None:
        return "b" if a is None else "a"
    return "same" if a == b else "changed"


def _facts(builds: Pair) -> list[tuple[str, str, str]]:
    """List (label, of A, of B); a side has no fact where its text is empty."""
    told: list[dict[str, str]] = []
    for build in builds:
        manifest = build.manifest
        about = {
            "model": build.model.name,
            "spec": str(manifest["spec"]),
            "dtype": build.model.dtype,
            "target": build.target.name,
        }
        told.append(about | dict(facts(build)) | {"glmc": manifest["glmc"]})
    a, b = told
    return [(label, a.get(label, ""), b.get(label, "")) for label in {**a, **b}]


def _matched(
    ours: Sequence[str], theirs: Sequence[str]
) -> Iterator[tuple[int | None, int | None]]:
    """Yield the places of parts with one name; those that are alone go together in
    their order."""
    alone = set(ours) ^ set(theirs)
    left = iter([at for at, name in enumerate(theirs) if name in alone])
    for at, name in enumerate(ours):
        yield at, next(left, None) if name in alone else theirs.index(name)
    yield from ((None, at) for at in left)


def _parts(builds: Pair) -> Iterator[dict[str, Any]]:
    """Yield the parts of the last stages with their ops side by side."""
    ours, theirs = (build.program.graphs for build in builds)
    for x, y in _matched([g.name for g in ours], [g.name for g in theirs]):
        a, b = None if x is None else ours[x], None if y is None else theirs[y]
        sides = [_side(graph) for graph in (a, b)]
        name = " / ".join(dict.fromkeys(side["title"] for side in sides if side))
        rows = list(_ops(a.ops if a else (), b.ops if b else ()))
        yield {"name": name, "a": sides[0], "b": sides[1], "rows": rows}


def _side(graph: Graph | None) -> dict[str, Any] | None:
    if graph is None:
        return None
    return {"title": title(graph), "drawing": svg(graph, style=False)}


def _ops(ours: Sequence[Op], theirs: Sequence[Op]) -> Iterator[dict[str, Any]]:
    """Yield rows of (place, line of the dump) in A and in B, aligned by what ops are
    called."""
    a_names, b_names = ([op.mnemonic for op in ops] for ops in (ours, theirs))
    matcher = SequenceMatcher(None, a_names, b_names, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        lines = [
            [(at, statement(ops[at])) for at in range(begin, end)]
            for ops, begin, end in ((ours, a, b), (theirs, c, d))
        ]
        if kind == "equal":
            pairs = zip(*lines, strict=True)
            yield from ({"mark": _mark(x[1], y[1]), "a": x, "b": y} for x, y in pairs)
        else:
            yield from ({"mark": "a", "a": x, "b": None} for x in lines[0])
            yield from ({"mark": "b", "a": None, "b": y} for y in lines[1])


def _weights(builds: Pair) -> Iterator[dict[str, Any]]:
    """Yield the parts with their parameters by name, and the bytes of all layers."""
    ours, theirs = (list(weights(build.program)) for build in builds)
    names = [["", *(b.name for b in build.program.blocks)] for build in builds]
    for x, y in _matched(*names):
        a, b = {} if x is None else ours[x], {} if y is None else theirs[y]
        titles = dict.fromkeys(held["title"] for held in (a, b) if held)
        yield {
            "title": " / ".join(titles),
            "a": a.get("all", 0),
            "b": b.get("all", 0),
            "rows": _params(a, b),
        }


def _params(a: Mapping[str, Any], b: Mapping[str, Any]) -> Rows:
    sides: list[dict[str, dict[str, Any]]] = [
        {
            param["name"]: {
                "type": param["type"],
                "nbytes": param["nbytes"],
                "from": " ⟶ ".join(filter(None, (held["prefix"], param["recipe"]))),
            }
            for param in held.get("params", ())
        }
        for held in (a, b)
    ]
    return [
        {"name": name, "mark": _mark(x, y), "a": x, "b": y}
        for name, x, y in _joined(*sides)
    ]


def _joined(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    return ((name, a.get(name), b.get(name)) for name in {**a, **b})


def _keys(builds: Pair) -> Iterator[dict[str, Any]]:
    a, b = (
        {str(row["key"]): (row["value"], row["status"]) for row in keys(build)}
        for build in builds
    )
    for key, ours, theirs in _joined(a, b):
        yield {"key": key, "mark": _mark(ours, theirs), "a": ours, "b": theirs}


def _fusions(builds: Pair) -> Iterator[dict[str, Any]]:
    """Yield, for each fusion, what became of it on both sides: part, outcome, why."""
    sides: list[dict[str, list[tuple[str, str, str]]]] = [{}, {}]
    for side, build in zip(sides, builds, strict=True):
        for row in build.ledger:
            told = (row.graph, row.status, row.reason)
            rows = side.setdefault(row.fusion, [])
            rows += [told] if told not in rows else []
    for name, a, b in _joined(*sides):
        yield {"fusion": name, "mark": _mark(a, b), "a": a, "b": b}


def _files(builds: Pair) -> list[str]:
    """List the files that glmc wrote otherwise, or for one of both alone."""
    a, b = (build.manifest["files"] for build in builds)
    return [name for name, x, y in _joined(a, b) if x != y]
