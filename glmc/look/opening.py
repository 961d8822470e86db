"""Open what a command is given: a build, or what compiling a config would give."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmc.files.manifest import MANIFEST
from glmc.frontends.read.hub import is_hub_id
from glmc.frontends.wording import named, show
from glmc.ir.errors import NoCheckpointError
from glmc.look.builds import Build

if TYPE_CHECKING:  # a quarter of what `inspect` imports, and it needs none of it
    from glmc.frontends.frontend import LoadedModel


def open_build(given: str, arguments: argparse.Namespace) -> Build:
    """Return the build in a folder, or else what compiling ``given`` gives,
    unwritten."""
    path = Path(given)
    if path.is_dir() and not (path / "config.json").is_file():
        return Build(path)
    if (path / MANIFEST).is_file():
        return Build(path)
    from glmc.compile.driver import Options, compile_files

    options = Options(
        revision=arguments.revision,
        endpoint=arguments.endpoint,
        offline=arguments.offline,
        timeout=arguments.timeout,
    )
    compiled = compile_files(given, options)
    tell(compiled.loaded.source.note)
    tell(switched_off(compiled.loaded))
    texts = {n: text for n, text in compiled.files.items() if isinstance(text, str)}
    return Build(path, texts)


def own_weights(build: Build) -> str:
    """Return the checkpoint beside a config that was compiled on the fly."""
    given = str(build.path)
    if build.files is None or not (build.path.is_dir() or is_hub_id(given)):
        raise NoCheckpointError(
            f"{given} has no weights of its own; name a checkpoint with --weights"
        )
    return given


def tell(note: str | None) -> None:
    """Print a note to stderr, if there is one."""
    if note:
        print(f"glmc: note: {note}", file=sys.stderr)


def switched_off(loaded: "LoadedModel") -> str | None:
    """Say which keys the spec does not know and takes for switched off."""
    off = [key for key, fate in loaded.keys.items() if fate.status == "off"]
    if not off:
        return None
    told = ", ".join(f"{named(key)} ({show(loaded.config[key])})" for key in off)
    return f"The spec {loaded.spec!r} does not know {told}: taken for switched off"
