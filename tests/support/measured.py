"""Collect the measurements of logits for the table that `bench/parity.py` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from glmc.look.builds import Build

PROPERTY = "parity"
Record = Callable[[str, object], None]


def record(
    into: Record, build: Path, against: str, scenario: str, difference: float
) -> float:
    """Note a difference in pytest's report; gives it back.

    `into` is pytest's `record_property`, `against` what the logits were compared with.
    """
    manifest = Build(build).manifest
    row = {
        "build": str(build),
        "spec": manifest["spec"],
        "model_type": manifest["config"].get("model_type"),
        "against": against,
        "scenario": scenario,
        "difference": difference,
    }
    into(PROPERTY, json.dumps(row))
    return difference
