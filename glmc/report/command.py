"""``glmc report``."""

import argparse
import json
from pathlib import Path

from glmc.files.replacing import write_file
from glmc.ir.draw.mermaid import mermaid
from glmc.ir.draw.svg import svg
from glmc.ir.errors import NotInBuildError, OptionsDisagreeError
from glmc.ir.graph import Graph
from glmc.look.builds import Build
from glmc.report.page import page


def report_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc report``."""
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
        print(json.dumps({"text": text}) if arguments.json else text.rstrip("\n"))
        return 0
    write_file(out, text)
    size = len(text.encode())
    said = f"{out}: {size / 1000:.0f} kB; open it in a browser"
    print(json.dumps({"file": str(out), "bytes": size}) if arguments.json else said)
    return 0


def _graph(build: Build, part: str, stage: str | None) -> Graph:
    """Return a part of the program of a stage, by name."""
    program = build.program_at(stage) if stage else build.program
    graphs = {graph.name: graph for graph in program.graphs}
    if part not in graphs:
        raise NotInBuildError(
            f"{build.path} has no part {part!r}; it has {', '.join(graphs)}."
        )
    return graphs[part]
