"""The table of architectures: each compared with its reference, and how far apart.

Runs the tests of logits, which note every difference they measure, and writes
docs/architectures.md from their notes: prompt and cached decode, in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from xml.etree import ElementTree

from glmc.authoring.listing import Entry, entries
from glmc.ir import model as m
from glmc.ir.node import Node
from glmc.look.builds import Build

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "architectures.md"
# Tests whose notes count, and the property that the notes are in.
TESTS = "(test_logits and (prompt or decode) and not kernels) or test_answers"
PROPERTY = "parity"
_DECODE = "decode"

_HEAD = """\
# Architectures

Written by `python bench/parity.py`, which compares tiny random checkpoints of every
variant in the tests with a reference, in fp32: all tokens of a prompt in one call, and
token by token with the cache. *Reference* is transformers, golden vectors of the
published code, or that code read as text. Differences are the worst absolute ones of
all variants; what a type's variants cover stands under *covered*. `glmc specs` lists
the specs.
"""
_COLUMNS = (
    "model_type",
    "spec",
    "reference",
    "variants",
    "prompt",
    "decode",
    "covered",
)

# Parts of a Model that say where things lie, and not what is computed.
_NO_FEATURES = (m.Weight, m.Tokens, m.Waiver, m.OldName)
_NO_FIELDS = {"bias", "name", "dtype", "max_positions", "axes", "optional_prefix"}


@dataclass
class Row:
    """The measurements of one model type."""

    model_type: str
    spec: str
    against: str
    worst: dict[str, float] = field(default_factory=dict)
    builds: set[str] = field(default_factory=set)

    def add(self, note: dict[str, Any]) -> None:
        kind = _DECODE if note["scenario"] == _DECODE else "prompt"
        self.worst[kind] = max(self.worst.get(kind, 0.0), note["difference"])
        self.builds.add(note["build"])

    def features(self) -> list[str]:
        """Return what the variants of this type do, by the records of the IR."""
        found: dict[str, None] = {}
        for build in sorted(self.builds):
            model = Build(Path(build)).model
            found |= dict.fromkeys(_features(model))
            if isinstance(model.head, m.Head) and model.head.weight == (
                model.embed.weight
            ):
                found["tied head"] = None
        # "silu mlp" says that there is an "mlp".
        return sorted(f for f in found if not any(g.endswith(f" {f}") for g in found))


def _features(node: Node) -> Iterator[str]:
    """A record's choices: enumerations, and whatever is not as by default."""
    label = _words(type(node).__name__)
    if isinstance(node, m.Step):
        yield _words(type(node.op).__name__)
    for name, about in type(node).model_fields.items():
        value = getattr(node, name)
        if isinstance(value, _NO_FEATURES) or name in _NO_FIELDS:
            continue
        choice = get_origin(about.annotation) is Literal
        if choice and len(get_args(about.annotation)) > 1 and about.is_required():
            yield f"{value} {label}"
        elif not about.is_required() and value != about.default:
            yield from _unusual(name, label, value)
        yield from (f for part in _parts(value) for f in _features(part))


def _unusual(name: str, label: str, value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield f"{value} {label}"
    elif isinstance(value, m.Norm):
        yield (
            f"{label} norm" if name == "norm" else f"{name.removesuffix('_norm')} norm"
        )
    elif isinstance(value, Node):
        kind = _words(type(value).__name__)
        yield kind if kind.endswith(name) else f"{label} {_words(name)}"
    elif not isinstance(value, tuple):
        yield f"{label} {_words(name)}"


def _parts(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        yield from (part for part in value if isinstance(part, Node))


def _words(name: str) -> str:
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return spaced.replace("_", " ").strip()


def measure(workers: int, only: str | None) -> tuple[list[Row], int]:
    """Run the tests; gives rows and pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        wanted = f"({TESTS}) and ({only})" if only else TESTS
        command = [sys.executable, "-m", "pytest", "-q", "-k", wanted]
        command += [f"--junitxml={report}", f"--basetemp={folder}/tests"]
        command += ["-o", "junit_family=xunit1"]  # the one that has properties
        command += ["-n", str(workers)] if workers > 1 else []
        tests = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py"))]
        done = subprocess.run([*command, *tests], cwd=ROOT, check=False)
        rows: dict[tuple[str, str], Row] = {}
        for note in _notes(report):
            key = (str(note["model_type"]), str(note["spec"]))
            rows.setdefault(key, Row(*key, str(note["against"]))).add(note)
        found = sorted(rows.values(), key=lambda row: (row.model_type, row.spec))
        # The builds are gone after this, and features are read from them.
        lines = [(row, row.features()) for row in found]
        _print(lines)
        kept = _kept(TABLE.read_text(encoding="utf-8")) if only else {}
        if not only or not done.returncode:
            TABLE.write_text(_page(lines, kept), encoding="utf-8")
    return found, done.returncode


def _notes(report: Path) -> Iterator[dict[str, Any]]:
    for one in ElementTree.parse(report).iter("property"):
        if one.get("name") == PROPERTY:
            yield json.loads(one.get("value", ""))


def _kept(page: str) -> dict[tuple[str, str], str]:
    """Return the measured rows of a page by type and spec."""
    rows = (line for line in page.splitlines() if line.startswith("| `"))
    cells = ((line, line.strip("| ").split(" | ")) for line in rows)
    return {(c[0], c[1]): line for line, c in cells if c[3] != "0"}


def _page(
    lines: list[tuple[Row, list[str]]], kept: Mapping[tuple[str, str], str]
) -> str:
    """Write the page: what was measured now, and of the rest the rows it had."""
    every = {(c[0], c[1]): _line(c) for c in (_cells(*one) for one in lines)}
    specs = {f"`{entry.name}`" for entry in entries()}
    every = {at: row for at, row in {**kept, **every}.items() if at[1] in specs}
    done = {spec for _, spec in every}
    silent = (e for e in entries() if f"`{e.name}`" not in done)
    table = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    table += [every[at] for at in sorted(every, key=_by_name)]
    return "\n".join([_HEAD, *table, *(_line(_silent(e)) for e in silent), ""])


def _by_name(at: tuple[str, str]) -> list[str]:
    return [name.strip("`") for name in at]


def _cells(row: Row, features: list[str]) -> list[str]:
    differences = [
        f"{row.worst[kind]:.1e}" if kind in row.worst else "-"
        for kind in ("prompt", _DECODE)
    ]
    names = [f"`{row.model_type}`", f"`{row.spec}`", row.against]
    return [*names, str(len(row.builds)), *differences, ", ".join(features)]


def _silent(entry: Entry) -> list[str]:
    """A spec that nothing was measured of."""
    types = ", ".join(f"`{name}`" for name in entry.model_types)
    return [types, f"`{entry.name}`", entry.verified or "unverified", "0", "-", "-", ""]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _print(lines: list[tuple[Row, list[str]]]) -> None:
    for row, _ in lines:
        worst = ", ".join(f"{kind} {value:.2g}" for kind, value in row.worst.items())
        print(f"{row.model_type:<16} {row.spec:<16} {row.against:<13} {worst}")


def main() -> int:
    """Measure all types, or those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    told = "pytest's -k, as in 'llama or qwen3'; other rows of the page then stay"
    parser.add_argument("--only", metavar="EXPR", help=told)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    _, code = measure(options.workers, options.only)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
