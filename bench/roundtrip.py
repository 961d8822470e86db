"""Check that every stage of a config, printed, parses back to itself.

Reads configs, or folders of model folders; without any, the configs that glmc comes
with. What glmc refuses is told with its code and counted; a dump that does not come
back ends the script with 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from compile import found
from report import Row, show

from glmc.backends.target import DEFAULT, target
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.frontends.spec.library import builtin_configs
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from glmc.ir.text import parse_model, parse_program, print_model, print_program


def lost(source: str) -> Iterator[tuple[str, bool]]:
    """Each stage of a config, and whether its dump came back as something else.

    Raises:
        GlmcError: where glmc does not compile the config.
    """
    model = load_model(resolve_source(source)).model
    yield "model", parse_model(print_model(model)) != model
    for stage in target(DEFAULT).stages(lower(model)):
        text = print_program(stage.program)
        back = parse_program(text)
        yield stage.name, back != stage.program or print_program(back) != text


def row(source: str) -> Row:
    """Return what became of one config."""
    place = Path(source)
    name = place.parent.name if place.name == "config.json" else place.name
    began = time.perf_counter()
    try:
        stages = dict(lost(source))
    except GlmcError as refusal:
        said = str(refusal).removeprefix(f"{source}: ")[:70]
        told = f"refused {refusal.code}: {said}"
        return {"config": name, "stages": "", "s": "", "result": told}
    wrong = [stage for stage, differs in stages.items() if differs]
    return {
        "config": name,
        "stages": float(len(stages)),
        "s": time.perf_counter() - began,
        "result": f"LOST: {', '.join(wrong)}" if wrong else "same",
    }


def main() -> None:
    """Print the table; the exit code says whether all came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sources = [str(c) for c in found(options.configs)] or list(builtin_configs())
    rows = [row(source) for source in sources]
    show(rows, options.json)
    results = [str(r["result"]).partition(" ")[0].rstrip(":") for r in rows]
    counts = {kind: results.count(kind) for kind in ("same", "LOST", "refused")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    raise SystemExit(bool(counts["LOST"]))


if __name__ == "__main__":
    main()
