"""The options of a compilation, whoever asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc.backends.packing import unfit
from glmc.backends.target import DEFAULT
from glmc.frontends.read.hub import Hub
from glmc.ir.graph import Program
from glmc.ir.passes import Pass
from glmc.ir.passes.place import ExpertsBy, Place
from glmc.ir.passes.rounding import rounded
from glmc.ir.passes.stages import CutStages

SHRUNKEN = 32
"""Columns that share a scale in models as small as passes are verified on."""


@dataclass(frozen=True)
class Options:
    """The options of a compilation; see ``glmc compile --help``."""

    target: str = DEFAULT
    engine: str | None = None
    """The engine of others that is to run the build too: "vllm"."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: bool = False
    codes: int | None = None
    """The bits of the codes that matrices of floats are rounded to, when loaded."""
    group: int = 128
    """The columns of a row that share a scale of them."""
    variant: str | None = None
    spec: Path | None = None
    sets: tuple[str, ...] = ()
    ignore_keys: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    strict: bool = False
    verify_passes: bool = False
    kernels: tuple[str, ...] = ()
    aot: tuple[str, ...] = ()
    aot_dtypes: tuple[str, ...] = ()
    revision: str | None = None
    endpoint: str | None = None
    offline: bool = False
    timeout: float | None = None
    read: Mapping[str, Any] | None = None
    """The certificate, where the spec was read from published code."""

    def dealing(self, *, anywhere: bool = False) -> tuple[Pass, ...]:
        """Return the passes that deal a program to ranks, if any; ``anywhere`` is
        that of :class:`~glmc.ir.passes.place.Place`."""
        passes: tuple[Pass, ...] = ()
        if self.tensor_parallel > 1:
            by: ExpertsBy = "experts" if self.expert_parallel else "channels"
            passes += (Place(self.tensor_parallel, by, anywhere),)
        if self.pipeline_parallel > 1:
            passes += (CutStages(self.pipeline_parallel),)
        return passes

    def rounded(self, program: Program, *, shrunken: bool = False) -> Program:
        """Return a lowered program with what is to be rounded made so; ``shrunken`` is
        one to verify passes on."""
        if self.codes is None:
            return program
        group = min(self.group, SHRUNKEN) if shrunken else self.group
        return rounded(program, self.codes, group, unfit)

    @property
    def hub(self) -> Hub:
        """The way in which a hub id is looked up."""
        return Hub(self.revision, self.endpoint, self.offline, self.timeout)
