"""``glmc check``: compare a checkpoint with a build, by headers and config."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.backends.runtime.accounting import Account
from glmc.backends.runtime.drift import Drift, drift, the_last
from glmc.backends.runtime.folders import Files, FolderFiles, refuse_adapter
from glmc.backends.runtime.tensor_info import TensorInfo
from glmc.compile.accounting import account, grouped
from glmc.compile.checkpoints import checkpoint_files, read_headers, told
from glmc.ir.errors import (
    CheckpointMismatchError,
    ConfigDriftError,
    OptionsDisagreeError,
    WeightValuesError,
)
from glmc.look.builds import Build
from glmc.look.opening import open_build, own_weights
from glmc.prove.catalogue import likeness
from glmc.shell.options import hub_of

_SAME_REPOSITORY = "Take config and weights from the same repository and revision."


def check_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc check``."""
    build = open_build(arguments.build, arguments)
    weights = arguments.weights or own_weights(build)
    hub = hub_of(arguments)
    places = [checkpoint_files(weights, hub)]
    if arguments.tuned:
        places.append(checkpoint_files(arguments.tuned, replace(hub, revision=None)))
    tensors: dict[str, TensorInfo] = {}
    for files in places:
        tensors |= read_headers(files).tensors
    found = account(build.model, build.program, tensors)
    values = _values(build, places) if arguments.values else []
    with told():
        for files in places:
            refuse_adapter(files, strict=True)
        compiled = build.compiled
        other = (
            drift(compiled, the_last(places))
            if compiled is not None
            else Drift(weights)
        )
    refused = bool(other.changed) and not arguments.allow_config_drift
    fine = found.ok and not refused and not values
    if arguments.json:
        facts = _facts(found, other, tensors, fine) | {"values": values}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0 if facts["ok"] else 2
    lines = [f"  values   {one}" for one in values]
    print("\n".join([*_text(found, other), *lines]))
    if not found.ok:
        whose = likeness(tensors)
        raise CheckpointMismatchError(
            f"{weights} is not a checkpoint of {arguments.build}: see the list above."
            f"{f' {whose}' if whose else ''} {found.fault or _SAME_REPOSITORY}"
            f"{_variant_hint(build)}"
        )
    if values:
        raise WeightValuesError(f"{weights}: {'; '.join(values[:4])}.")
    if refused:
        raise ConfigDriftError(other.refusal())
    return 0


def _values(build: Build, places: Sequence[Files]) -> list[str]:
    """List the faults in the values of tensors; torch is imported here only."""
    from glmc.prove.scanning import scan

    folders = [Path(files.where) for files in places if isinstance(files, FolderFiles)]
    if len(folders) < len(places):
        raise OptionsDisagreeError(
            "--values reads all weights, so they must be here: download the checkpoint"
            " and name its folder."
        )
    return scan(build, folders)


def _facts(
    found: Account, other: Drift, tensors: Mapping[str, TensorInfo], fine: bool
) -> dict[str, Any]:
    """Return the findings as plain data."""
    return {
        "ok": fine,
        "bound": len(found.bound),
        "shapes_checked": found.shapes_known,
        "missing": found.missing,
        "wrong": found.wrong,
        "fault": found.fault,
        "unused": found.unused,
        "waived": found.waived,
        "config": [one._asdict() for one in other.changed],
        "notes": list(other.notes()),
        "likeness": None if found.ok else likeness(tensors),
    }


def _text(found: Account, other: Drift) -> Iterator[str]:
    """Yield the findings as lines for a person."""
    waived = sum(map(len, found.waived.values()))
    how = "names, shapes and dtypes" if found.shapes_known else "names (no shards here)"
    yield (
        f"{len(found.bound)} tensors bound, {waived} waived, {len(found.missing)} "
        f"missing, {len(found.wrong)} of another shape or dtype, {len(found.unused)} "
        f"unused; checked: {how}"
    )
    for reason, names in found.waived.items():
        yield f"  waived   {len(names)}: {reason}"
    for what, names in (("missing", found.missing), ("unused", found.unused)):
        yield from (f"  {what:<8} {line}" for line in grouped(names))
    wrong = [f"{name} {why}" for name, why in found.wrong.items()]
    yield from (f"  wrong    {line}" for line in grouped(wrong))
    yield from (f"  config   {one}" for one in other.changed)
    yield from (f"  note     {line}" for line in other.notes())


def _variant_hint(build: Build) -> str:
    """Suggest another variant, where a config leaves open what was saved."""
    variant = build.manifest.get("variant")
    chosen = f" It was compiled as the variant {variant!r}; --variant chooses another."
    return chosen if variant else ""
