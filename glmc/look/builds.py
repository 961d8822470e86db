"""Read a build: manifest, stages, ledger. No torch, nothing is imported."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glmc.backends.ledger import Placement, Row
from glmc.backends.runtime.drift import COMPILED, compiled_beside
from glmc.backends.target import DEFAULT, Target, target
from glmc.compile.writing import digest
from glmc.files.manifest import MANIFEST, read_manifest
from glmc.files.reading import read_model, read_program
from glmc.frontends.read.json_text import MEGABYTE, parse_json_object, read_bytes
from glmc.ir.errors import (
    EncoderError,
    FileTooLargeError,
    FileUnreadableError,
    JsonError,
    NotABuildError,
    NotInBuildError,
)
from glmc.ir.graph import Program
from glmc.ir.model import Model
from glmc.ir.node import Node
from glmc.version import __version__

_LEDGER = "ir/ledger.json"
_LARGEST = 256 * MEGABYTE
_AGAIN = "Compile the build again."


@dataclass(frozen=True)
class Build:
    """A compiled package, on disk or not written yet."""

    path: Path
    files: Mapping[str, str] | None = None
    """Its files, where they were never written; ``path`` is then what was compiled."""

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """manifest.json."""
        if self.files is not None:
            return dict(json.loads(self.files[MANIFEST]))
        return read_manifest(self.path, whole=True)

    @cached_property
    def compiled(self) -> Mapping[str, Any] | None:
        """The build's record of its config; None in builds from a dump.

        Raises:
            WeightsError: when the file is not what it should be.
        """
        if self.files is None:
            return compiled_beside(str(self.path / MANIFEST))
        text = self.files.get(COMPILED)
        return dict(json.loads(text)) if text else None

    @cached_property
    def target(self) -> Target:
        """The target of the build; builds that name none are for any machine.

        Raises:
            GlmcError: when glmc knows no such target.
        """
        return target(str(self.manifest.get("target", DEFAULT)))

    @property
    def ranks(self) -> int:
        """The number of processes that compute it together."""
        return int(self.manifest.get("ranks", 1))

    @cached_property
    def stages(self) -> dict[str, Mapping[str, str]]:
        """Maps each stage's name to its ``file`` and ``doc``, in order."""
        return {stage["name"]: stage for stage in self.manifest["stages"]}

    def dump(self, stage: str) -> str:
        """Return the text of a stage.

        Raises:
            GlmcError: when there is no such stage.
        """
        if stage not in self.stages:
            known = ", ".join(self.stages)
            raise NotInBuildError(
                f"{self.path} has no stage {stage!r}; it has {known}."
            )
        return self._read(self.stages[stage]["file"])

    def source(self, name: str) -> str:
        """Read the text of a file, as it lies there.

        Raises:
            GlmcError: when it cannot be read.
        """
        return self._read(name)

    def require_generation(self) -> None:
        """Refuse a command that needs a model that generates.

        Raises:
            GlmcError: when this is an encoder, or scores texts.
        """
        if self.model.scores:
            raise EncoderError(
                f"{self.path} answers classes of a text and generates nothing. Call it"
                " from Python: `model = build.load(CHECKPOINT)`, then `model(input_ids,"
                " attention_mask)`."
            )
        if self.model.is_encoder:
            raise EncoderError(
                f"{self.path} is an encoder, which generates nothing: it answers all "
                "tokens of a text at once. Call it from Python: `model = build.load("
                "CHECKPOINT)`, then `model(input_ids, attention_mask)`."
            )

    def _read(self, name: str) -> str:
        if self.files is not None:
            return self.files[name]
        path = self.path / name
        try:
            data = read_bytes(path, _LARGEST)
            self._refuse_foreign(path, name, data)
            return data.decode("utf-8")
        except OSError as error:
            reason = error.strerror
        except UnicodeDecodeError:
            reason = "it is not UTF-8 text"
        except (FileTooLargeError, FileUnreadableError) as error:
            reason = str(error)
        raise NotABuildError(f"{path} cannot be read ({reason}). {_AGAIN}")

    def _refuse_foreign(self, path: Path, name: str, data: bytes) -> None:
        """Refuse a link out of the build, unless it leads to the text that was
        compiled."""
        inside = path.resolve().is_relative_to(self.path.resolve())
        if not inside and self.manifest["files"].get(name) != digest(data):
            raise NotABuildError(
                f"{path} leads out of the build, to a file that is not of it. {_AGAIN}"
            )

    def _repr_html_(self) -> str:
        """Return the summary, for notebooks."""
        from html import escape

        from glmc.look.inspecting import summary, summary_text

        return f"<pre>{escape(summary_text(summary(self)))}</pre>"

    @cached_property
    def model(self) -> Model:
        """The Model level."""
        return read_model(self.dump("model"), self._at("model"))

    @cached_property
    def program(self) -> Program:
        """The program of the last stage: what the emitted module does."""
        return self.program_at(list(self.stages)[-1])

    def program_at(self, stage: str) -> Program:
        """Return the program of a stage; stages with the same dump share it."""
        text = self.dump(stage)
        if text not in self._programs:
            self._programs[text] = read_program(text, self._at(stage))
        return self._programs[text]

    def _at(self, stage: str) -> str:
        """Name the dump of a stage, for messages, and the glmc that wrote it if it is
        another."""
        by = self.manifest["glmc"]
        other = (
            "" if by == __version__ else f" (of glmc {by:.40}; this is {__version__})"
        )
        return f"{self.path / self.stages[stage]['file']}{other}"

    @cached_property
    def _programs(self) -> dict[str, Program]:
        """Maps each dump to the program that it holds."""
        return {}

    @cached_property
    def ledger(self) -> list[Row]:
        """Every candidate of every fusion."""
        return list(self._ledger.fusions)

    @cached_property
    def placements(self) -> list[Placement]:
        """The place where each op of the last stage runs on the target's machine."""
        return list(self._ledger.backend)

    @cached_property
    def served(self) -> list[Placement]:
        """The ops that an engine runs by something of its own; none without one."""
        return list(self._ledger.engine)

    @cached_property
    def _ledger(self) -> "_Ledger":
        where, text = self.path / _LEDGER, self._read(_LEDGER)
        # Builds of before placements were written down are lists of fusions.
        if text.lstrip().startswith("["):
            text = f'{{"fusions": {text}}}'
        try:
            found = parse_json_object(text.encode(), str(where))
            return _Ledger.model_validate(found)
        except JsonError as error:
            raise NotABuildError(f"{error}. {_AGAIN}") from None
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise NotABuildError(f"{where}: {at}: {first['msg']}. {_AGAIN}") from None


class _Ledger(Node):
    """The form of ir/ledger.json."""

    fusions: tuple[Row, ...]
    backend: tuple[Placement, ...] = ()
    engine: tuple[Placement, ...] = ()
