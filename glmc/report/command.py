"""``glmc report``."""

import argparse
import json
from pathlib import Path
from typing import Any

from glmc.files.replacing import write_file
from glmc.ir.draw.mermaid import mermaid
from glmc.ir.draw.svg import svg
from glmc.ir.errors import NotInBuildError, OptionsDisagreeError
from glmc.ir.graph import Graph
from glmc.look.builds import Build
from glmc.look.opening import open_build
from glmc.report.page import comparing_page, page

_PAGE = Path("report.html")


def report_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc report``."""
    part = arguments.svg or arguments.mermaid
    if arguments.stage and part is None:
        raise OptionsDisagreeError(
            "--stage is for --svg and --mermaid; the page has all stages."
        )
    if part and arguments.other is not None:
        option = "--svg" if arguments.svg else "--mermaid"
        raise OptionsDisagreeError(f"{option} draws a part of one build; name one.")
    build = open_build(arguments.build, arguments)
    if part is not None:
        return _draw(arguments, _graph(build, part, arguments.stage))
    out, said, facts = arguments.out or _PAGE, "", {}
    if arguments.other is None:
        text = page(build)
    else:
        text, found = comparing_page(build, open_build(arguments.other, arguments))
        said = "".join(f"{sentence}\n" for sentence in found["said"])
        facts = {"differ": found["counts"], "said": found["said"]}
    return _write(arguments, text, out, said, facts)


def _draw(arguments: argparse.Namespace, graph: Graph) -> int:
    text = svg(graph) + "\n" if arguments.svg else mermaid(graph)
    if arguments.out is not None:
        return _write(arguments, text, arguments.out, "", {})
    print(json.dumps({"text": text}) if arguments.json else text.rstrip("\n"))
    return 0


def _write(
    arguments: argparse.Namespace, text: str, out: Path, said: str, facts: Any
) -> int:
    write_file(out, text)
    size = len(text.encode())
    told = f"{said}{out}: {size / 1000:.0f} kB; open it in a browser"
    about = {"file": str(out), "bytes": size} | facts
    print(json.dumps(about) if arguments.json else told)
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
