"""The summaries of ``glmc inspect``, as text and as plain data."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, get_args

from glmc.backends.ledger import Placement, Row, Where, totals
from glmc.backends.target import Target, target
from glmc.ir.graph import Graph, Program
from glmc.ir.leaves import Tensor
from glmc.ir.recipe import counted
from glmc.ir.text.printer import print_layers
from glmc.ir.types import BYTES
from glmc.look.builds import Build


def summary(build: Build, lengths: Sequence[int] = ()) -> dict[str, Any]:
    """Return the sizes, stages, fusions and config keys of a build, as plain data.

    ``lengths`` are those at which the cache of one sequence is measured; default: 4096
    and what the model was made for.
    """
    model, program = build.model, build.program
    count = parameters(build.program_at(list(build.stages)[1]))
    per_token, per_row = (state_bytes(program, each) for each in ("token", "row"))
    saved_launches, saved_bytes = totals(build.ledger)
    lengths = lengths or sorted({4096, model.max_positions or 4096})
    return {
        "model": model.name,
        "spec": build.manifest["spec"],
        "target": build.target.name,
        "dtype": model.dtype,
        "layers": model.layers,
        "blocks": {block.name: len(block.layers) for block in program.blocks},
        "kinds": [_kind(block, build.target) for block in program.blocks],
        "hidden": model.hidden,
        "vocab": model.vocab,
        "parameters": count,
        "weight_bytes": sum(param.type.nbytes() for _, _, param in program.bindings()),
        "state_bytes_per_token": per_token,
        "state_bytes_per_row": per_row,
        "state_bytes": {str(n): per_row + per_token * n for n in lengths},
        "stages": _stages(build),
        "ranks": program.ranks,
        "pipeline": list(program.stages),
        "launches_saved_per_call": saved_launches,
        "activation_bytes_saved_per_token": saved_bytes,
        "config_keys": build.manifest["config_keys"],
    }


def _kind(block: Graph, on: Target) -> dict[str, Any]:
    return {
        "name": block.name,
        "layers": print_layers(block.layers),
        "ops": len(block.ops),
        "launches": on.launches(op.mnemonic for op in block.ops),
        "parameters": sum(param.type.elements() for param in block.params),
    }


def parameters(lowered: Program) -> int:
    """Count the weights of the published model, shared ones once; a quantised matrix
    counts as the float matrix it encodes.

    ``lowered`` is the program before any pass: fused parameters are cut from others.
    """
    found = {}
    for _, layer, param in lowered.bindings():
        for leaf, times in counted(param.recipe):
            name = (leaf if isinstance(leaf, Tensor) else leaf.codes).name
            found[name.replace("{i}", str(layer))] = math.prod(leaf.shape) * times
    return sum(found.values())


def _stages(build: Build) -> list[dict[str, Any]]:
    found = []
    for name, stage in list(build.stages.items())[1:]:
        program = build.program_at(name)
        ops = [op for graph in program.schedule() for op in graph.ops]
        ops += [*program.stem.ops, *program.head.ops]
        found.append(
            {
                "name": name,
                "doc": stage["doc"],
                "ops": len(ops),
                "launches": build.target.launches(op.mnemonic for op in ops),
            }
        )
    return found


def summary_text(facts: Mapping[str, Any]) -> str:
    """Format the summary for a terminal."""
    on = target(facts["target"])
    kinds = [
        f"{facts['blocks'][kind['name']]} x {kind['name']} ({kind['layers']}): "
        f"{kind['parameters']:,} parameters, {kind['ops']} ops, "
        f"{kind['launches']} {on.units} each"
        for kind in facts["kinds"]
    ]
    lines = [
        f"{facts['model']}  ({facts['spec']}, {facts['dtype']})",
        *(
            f"  {label:<10}  {kind}"
            for label, kind in zip_longest(["layers"], kinds, fillvalue="")
        ),
        f"  width       {facts['hidden']}, vocabulary {facts['vocab']}",
        f"  parameters  {facts['parameters']:,}",
        f"  weights     {size(facts['weight_bytes'])}",
        *_cache_lines(facts),
        *_rank_lines(facts),
        f"  target      {on.name}: {on.doc}",
        f"  config      {_keys(facts['config_keys'])}",
        "",
        "stages",
    ]
    lines += [
        f"  {stage['name']:<16} {stage['ops']:>6} ops {stage['launches']:>6} {on.units}"
        f"  {stage['doc']}"
        for stage in facts["stages"]
    ]
    return "\n".join(lines)


def _rank_lines(facts: Mapping[str, Any]) -> list[str]:
    """Say how many ranks compute the model, and whose the figures are."""
    ranks, stages = facts["ranks"], facts["pipeline"]
    if ranks * len(stages or [0]) == 1:
        return []
    told = f"{ranks}; figures are of one"
    if stages:
        begin = ", ".join(map(str, stages))
        told = f"{ranks} in each stage, from layers {begin} on; figures are of one"
        told += " that had all layers" if ranks > 1 else ""
    return [f"  ranks       {told}"]


def keys_text(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Format every config key: its value, its fate, and who says so."""
    fates = facts["config_keys"]
    width = max(map(len, fates), default=0)
    lines = ["config keys"]
    for key, fate in fates.items():
        value = json.dumps(config.get(key), ensure_ascii=False)
        value = value if len(value) <= 40 else f"{value[:39]}…"
        told = f"{fate['status']}: {fate['reason']} ({fate['where']})"
        lines.append(f"  {key:<{width}}  {value}  {told}")
    return "\n".join(lines)


def state_bytes(program: Program, per: str) -> int:
    """Count the bytes that all layers keep for each token, or for each row. A state
    that several layers read counts once."""
    own = [state.type for _, state in program.own_states() if state.type.per == per]
    return sum(kept.elements() * BYTES[kept.dtype or program.dtype] for kept in own)


def kept(facts: Mapping[str, Any]) -> str:
    """Say what layers keep, in words: ``28.0 KiB a token, 1.0 MiB a sequence``."""
    sizes = ("state_bytes_per_token", "a token"), ("state_bytes_per_row", "a sequence")
    return ", ".join(f"{size(facts[key])} {each}" for key, each in sizes if facts[key])


def _cache_lines(facts: Mapping[str, Any]) -> list[str]:
    held = [f"{size(held)} at {int(n):,}" for n, held in facts["state_bytes"].items()]
    words = kept(facts)
    return [f"  cache       {words}; {', '.join(held)}"] if words else []


def _keys(fates: dict[str, dict[str, str]]) -> str:
    counts: dict[str, int] = {}
    for fate in fates.values():
        counts[fate["status"]] = counts.get(fate["status"], 0) + 1
    return ", ".join(f"{count} keys {status}" for status, count in counts.items())


def ledger_text(entries: Iterable[Row], units: str = "launches") -> str:
    """Format the ledger for a terminal: what was fused, what was not, and why."""
    entries = list(entries)
    lines = ["ledger"]
    for entry in entries:
        where = f"{entry.graph} x {entry.layers}" if entry.graph else ""
        line = f"  {entry.status:<8} {entry.fusion:<15} {where:<16} {entry.at}"
        lines += [line.rstrip(), f"           {entry.reason}"]
        if entry.launches_saved or entry.bytes_saved:
            lines[-1] += (
                f"; saves {entry.launches_saved} {units} and "
                f"{size(entry.bytes_saved)} a token, in each layer"
            )
    saved_launches, saved_bytes = totals(entries)
    total = f"{saved_launches} {units} a call and {size(saved_bytes)} a token"
    return "\n".join([*lines, f"  in all: {total} saved"])


def placements_text(rows: Iterable[Placement], where: str) -> str:
    """Format the placements for a terminal: what runs each op somewhere ("on a GPU"),
    and why some have no kernel."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        ops = places.setdefault((row.where, row.reason), [])
        ops += [row.op] if row.op not in ops else []
    lines = [where] if places else []
    for kind in get_args(Where):
        for (place, reason), ops in places.items():
            if place == kind:
                lines.append(f"  {kind:<9} {', '.join(ops)}")
                lines += [f"            {reason}"] if reason else []
    return "\n".join(lines)


def size(count: int) -> str:
    """Format a number of bytes: ``12.49 GB``, ``16.0 kB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
