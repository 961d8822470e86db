"""``glmc verify``: compare a build with its weights with a reference."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glmc.ir.errors import ScenarioError
from glmc.look.builds import Build
from glmc.prove import references
from glmc.prove.comparing import (
    TOLERANCES,
    Answer,
    Comparison,
    Read,
    Scenario,
    answer,
    carried,
    scenarios,
)
from glmc.use.ranks import every, of_all, on_every_rank
from glmc.use.running import load_model, token_ids, usual_device

DIFFERS = 1
"""The exit code when a difference exceeds the tolerance."""


@on_every_rank
def verify_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc verify``; return 0 when all differences are within the tolerance, else
    1."""
    arguments.device = device_of(arguments)
    model = load_model(arguments)
    read = _reader(arguments)
    tolerance = arguments.tolerance or TOLERANCES[arguments.dtype]
    compared, kept = Comparison(tolerance), []
    for given, expected in reference(arguments, model):
        mine = _of_all_stages(arguments, _own(model, read, given))
        compared.add(given, mine, expected)
        kept.append((given, expected))
    compared.ranks = every(arguments, compared.worst)
    if arguments.save:
        references.write_golden(arguments.save, kept)
    if arguments.json:
        print(json.dumps(facts(compared, arguments), indent=2))
    else:
        print(text(compared, arguments))
    return 0 if compared.equal else DIFFERS


def _reader(arguments: argparse.Namespace) -> Read:
    """Return what takes the hidden state from the values that a layer hands on."""
    program = Build(arguments.build).program

    def read(out: Any) -> torch.Tensor:
        values = [out] if isinstance(out, torch.Tensor) else list(out)
        for at in program.partial:
            values[at] = of_all(arguments, values[at])
        return carried(values, program.summands)

    return read


def device_of(arguments: argparse.Namespace) -> str:
    """Return ``--device``, or a GPU where there is one that the build is for."""
    chosen: str | None = arguments.device
    return chosen or usual_device(Build(arguments.build).target)


def reference(
    arguments: argparse.Namespace, model: Any
) -> Iterator[tuple[Scenario, Answer]]:
    """Yield the scenarios and the reference's answers to them, from ``--against``."""
    if getattr(arguments, "against_text", None):
        from glmc.prove.texts.verifying import text_reference

        yield from text_reference(arguments, model)
        return
    if arguments.against != "transformers":
        yield from references.read_golden(Path(arguments.against))
        return
    given = scenarios(model.vocab_size)
    if arguments.prompt_ids:
        ids = torch.tensor([token_ids(arguments.prompt_ids)])
        given = [replace(given[0], ids=ids), given[1]]
    theirs = references.load_transformers(
        arguments.weights, arguments.dtype, arguments.device, arguments.revision
    )
    build = Build(arguments.build)
    yield from references.answers(theirs, build.program.numbers, given)


def _own(model: Any, read: Read, given: Scenario) -> Answer:
    try:
        return answer(model, enumerate(model.layers), read, given)
    except (ValueError, RuntimeError) as error:
        raise ScenarioError(
            f"the build cannot run the scenario {given.name!r}: {error}"
        ) from error


def _of_all_stages(arguments: argparse.Namespace, mine: Answer) -> Answer:
    """Return an answer with the layers that other stages have, where there are some."""
    if not Build(arguments.build).program.stages:
        return mine
    found: dict[str, torch.Tensor] = {}
    for answered in every(arguments, dict(mine)):
        found |= answered
    return {**found, **mine}


def facts(compared: Comparison, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the comparison as plain data; an infinite difference is null."""
    value, phase, row = compared.worst
    return {
        "equal": compared.equal,
        "against": arguments.against,
        "dtype": arguments.dtype,
        "device": arguments.device,
        "tolerance": compared.tolerance,
        "ranks": [_number(value) for value, _, _ in compared.ranks],
        "worst": {"phase": phase, "row": row, "difference": _number(value)},
        "differences": {
            phase: {row: _number(value) for row, value in rows.items()}
            for phase, rows in compared.rows.items()
        },
    }


def _number(value: float) -> float | None:
    return value if value < float("inf") else None


def text(compared: Comparison, arguments: argparse.Namespace) -> str:
    """Format the comparison as a table: a row for every layer, a column for every
    phase."""
    phases = list(compared.rows)
    width = max(map(len, [*phases, "0.0e+00 !"]))
    label = max(map(len, compared.names))
    lines = ["  ".join([" " * label, *(f"{phase:>{width}}" for phase in phases)])]
    for row in compared.names:
        cells = [_cell(compared, phase, row) for phase in phases]
        lines.append("  ".join([f"{row:<{label}}", *(f"{c:>{width}}" for c in cells)]))
    value, phase, row = compared.worst
    how = f"{arguments.against}, {arguments.dtype} on {arguments.device}"
    verdict = f"within {compared.tolerance:g}"
    if not compared.equal and compared.first:
        verdict = (
            f"beyond {compared.tolerance:g} from {compared.first[1]} on (marked !); "
            "glmc bisect names the culprit"
        )
    said = f"worst {value:.1e} ({phase}, {row})"
    lines += ["", f"{said} against {how}: {verdict}"]
    if len(compared.ranks) > 1:
        each = (f"{n}: {value:.1e}" for n, (value, _, _) in enumerate(compared.ranks))
        lines.append(f"worst of each rank: {', '.join(each)}")
    return "\n".join(lines)


def _cell(compared: Comparison, phase: str, row: str) -> str:
    value = compared.rows[phase].get(row)
    if value is None:
        return "-"
    return f"{value:.1e}" + (" " if value <= compared.tolerance else " !")
