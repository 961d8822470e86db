"""What ``glmc inspect`` prints, as text and as JSON."""

import math
from collections.abc import Iterable
from typing import Any

from glmc.builds import Build
from glmc.ir.graph import Program
from glmc.ir.passes.ledger import Entry, launches, totals
from glmc.ir.recipe import Tensor, leaves
from glmc.ir.text import parse_program
from glmc.ir.types import BYTES


def summary(build: Build) -> dict[str, Any]:
    """Sizes, stages, fusions and config keys of a build, as plain data."""
    model, program = build.model, build.program
    count = parameters(parse_program(build.dump("lowered")))
    kv = sum(block.kv.elements() for block in program.schedule() if block.kv)
    saved_launches, saved_bytes = totals(build.ledger)
    return {
        "model": model.name,
        "spec": build.manifest["spec"],
        "dtype": model.dtype,
        "layers": model.layers,
        "blocks": {block.name: len(block.layers) for block in program.blocks},
        "hidden": model.hidden,
        "vocab": model.vocab,
        "parameters": count,
        "weight_bytes": sum(param.type.nbytes() for _, _, param in program.bindings()),
        "kv_bytes_per_token": kv * BYTES[model.dtype],
        "stages": _stages(build),
        "launches_saved_per_call": saved_launches,
        "activation_bytes_saved_per_token": saved_bytes,
        "config_keys": build.manifest["config_keys"],
    }


def parameters(lowered: Program) -> int:
    """The number of weights of the published model, shared ones once; a quantised
    matrix counts as what it stands for.

    ``lowered`` is the program before any pass: fused parameters are cut from others.
    """
    found = {}
    for _, layer, param in lowered.bindings():
        for leaf in leaves(param.recipe):
            name = (leaf if isinstance(leaf, Tensor) else leaf.codes).name
            found[name.replace("{i}", str(layer))] = math.prod(leaf.shape)
    return sum(found.values())


def _stages(build: Build) -> list[dict[str, Any]]:
    found = []
    for name, stage in list(build.stages.items())[1:]:
        program = parse_program(build.dump(name))
        ops = [op for graph in program.schedule() for op in graph.ops]
        ops += [*program.stem.ops, *program.head.ops]
        found.append(
            {
                "name": name,
                "doc": stage["doc"],
                "ops": len(ops),
                "launches": launches(ops),
            }
        )
    return found


def summary_text(build: Build) -> str:
    """The summary for a terminal."""
    facts = summary(build)
    blocks = ", ".join(f"{count} x {name}" for name, count in facts["blocks"].items())
    lines = [
        f"{facts['model']}  ({facts['spec']}, {facts['dtype']})",
        f"  layers      {facts['layers']}: {blocks}",
        f"  width       {facts['hidden']}, vocabulary {facts['vocab']}",
        f"  parameters  {facts['parameters']:,}",
        f"  weights     {size(facts['weight_bytes'])}",
        *_cache_lines(facts),
        f"  config      {_keys(facts['config_keys'])}",
        "",
        "stages",
    ]
    lines += [
        f"  {stage['name']:<16} {stage['ops']:>6} ops {stage['launches']:>6} launches"
        f"  {stage['doc']}"
        for stage in facts["stages"]
    ]
    return "\n".join(lines)


def _cache_lines(facts: dict[str, Any]) -> list[str]:
    kv = facts["kv_bytes_per_token"]
    return [f"  KV cache    {size(kv)} a token"] if kv else []


def _keys(fates: dict[str, dict[str, str]]) -> str:
    counts: dict[str, int] = {}
    for fate in fates.values():
        counts[fate["status"]] = counts.get(fate["status"], 0) + 1
    return ", ".join(f"{count} keys {status}" for status, count in counts.items())


def ledger_text(entries: Iterable[Entry]) -> str:
    """The ledger for a terminal: what was fused, what was not, and why."""
    entries = list(entries)
    lines = ["ledger"]
    for entry in entries:
        where = f"{entry.graph} x {entry.layers}" if entry.graph else ""
        line = f"  {entry.status:<8} {entry.fusion:<15} {where:<16} {entry.at}"
        lines += [line.rstrip(), f"           {entry.reason}"]
        if entry.launches_saved or entry.bytes_saved:
            lines[-1] += (
                f"; saves {entry.launches_saved} launches and "
                f"{size(entry.bytes_saved)} a token, in each layer"
            )
    saved_launches, saved_bytes = totals(entries)
    total = f"{saved_launches} launches a call and {size(saved_bytes)} a token"
    return "\n".join([*lines, f"  in all: {total} saved"])


def size(count: int) -> str:
    """``12.49 GB``, ``16.0 kB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
