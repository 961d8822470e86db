"""The options of a compilation, whoever asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc.backends.target import DEFAULT
from glmc.frontends.read.hub import Hub


@dataclass(frozen=True)
class Options:
    """The options of a compilation; see ``glmc compile --help``."""

    target: str = DEFAULT
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

    @property
    def hub(self) -> Hub:
        """The way in which a hub id is looked up."""
        return Hub(self.revision, self.endpoint, self.offline, self.timeout)
