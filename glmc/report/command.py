"""``glmc report``."""

import argparse
import os
import tempfile
from pathlib import Path

from glmc.builds import Build
from glmc.ir.draw.mermaid import mermaid
from glmc.ir.draw.svg import svg
from glmc.ir.errors import NotInBuildError, OptionsDisagreeError
from glmc.ir.graph import Graph
from glmc.report.page import page
from glmc.writing import writing_to


def report_command(arguments: argparse.Namespace) -> int:
    """``glmc report``."""
    build = Build(arguments.build)
    part = arguments.svg or arguments.mermaid
    if part is None:
        if arguments.stage:
            raise OptionsDisagreeError(
                "--stage is for --svg and --mermaid; the page has all stages."
            )
        text, out = page(build), arguments.out or Path("report.html")
    else:
        graph = _graph(build, part, arguments.stage)
        text = svg(graph) + "\n" if arguments.svg else mermaid(graph)
        out = arguments.out
    if out is None:
        print(text, end="")
        return 0
    _write(out, text)
    print(f"{out}: {len(text.encode()) / 1000:.0f} kB; open it in a browser")
    return 0


def _graph(build: Build, part: str, stage: str | None) -> Graph:
    """A part of the program of a stage, by name."""
    program = build.program_at(stage) if stage else build.program
    graphs = {graph.name: graph for graph in program.graphs}
    if part not in graphs:
        raise NotInBuildError(
            f"{build.path} has no part {part!r}; it has {', '.join(graphs)}."
        )
    return graphs[part]


def _write(out: Path, text: str) -> None:
    """The whole file or nothing."""
    with writing_to(out):
        number, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(out)
