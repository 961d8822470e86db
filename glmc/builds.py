"""Reading a build back: manifest, stages, ledger. No torch, nothing is imported."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glmc.ir.errors import GlmcError
from glmc.ir.graph import Program
from glmc.ir.model import Model
from glmc.ir.passes.ledger import Entry
from glmc.ir.text import parse_model, parse_program
from glmc.writing import read_manifest


@dataclass(frozen=True)
class Build:
    """A compiled package on disk."""

    path: Path

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """manifest.json."""
        return read_manifest(self.path)

    @cached_property
    def stages(self) -> dict[str, Mapping[str, str]]:
        """Stage name to its ``file`` and ``doc``, in order."""
        return {stage["name"]: stage for stage in self.manifest["stages"]}

    def dump(self, stage: str) -> str:
        """The text of a stage.

        Raises:
            GlmcError: when there is no such stage.
        """
        if stage not in self.stages:
            known = ", ".join(self.stages)
            raise GlmcError(f"{self.path} has no stage {stage!r}; it has {known}.")
        return self.text(self.stages[stage]["file"])

    def text(self, name: str) -> str:
        """A file of the build.

        Raises:
            GlmcError: when it is missing.
        """
        try:
            return (self.path / name).read_text("utf-8")
        except OSError as error:
            raise GlmcError(
                f"{self.path / name} cannot be read ({error.strerror}). "
                "Compile the build again."
            ) from None

    @cached_property
    def model(self) -> Model:
        """The Model level."""
        return parse_model(self.dump("model"))

    @cached_property
    def program(self) -> Program:
        """The program of the last stage: what the emitted module does."""
        return parse_program(self.dump(list(self.stages)[-1]))

    @cached_property
    def ledger(self) -> list[Entry]:
        """Every candidate of every fusion."""
        return [Entry(**entry) for entry in json.loads(self.text("ir/ledger.json"))]
