"""Run ``glmc read``."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmc.files.replacing import write_file
from glmc.frontends.read.hub import Hub
from glmc.ir.errors import OutputExistsError
from glmc.shell.options import hub_of

if TYPE_CHECKING:
    from glmc.prove.texts.reading import Reading


def read_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc read``, and ``glmc specs new --read``."""
    out = arguments.out
    if out and out.exists() and not arguments.force:
        raise OutputExistsError(f"{out} is there already; --force writes over it")
    found = _read(arguments.checkpoint, arguments.text, hub_of(arguments))
    if out:
        write_file(out, found.spec)
    if arguments.json:
        print(json.dumps(_facts(found), indent=2))
    elif out:
        how = f"extends {found.extends}" if found.extends else "stands alone"
        print(f"{out}: {how}, equal to {found.text.file}.py in all that was compared")
    else:
        print(found.spec, end="")
    return 0


@contextmanager
def reading_spec(source: str, hub: Hub) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the file of a spec read from a model's code, and its certificate."""
    found = _read(source, None, hub)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{found.text.file.removeprefix('modeling_')}.yaml"
        path.write_text(found.spec, encoding="utf-8")
        yield path, found.certificate


def _read(source: str, text: str | None, hub: Hub) -> "Reading":
    """Read a spec from code; say so before what that takes is imported, torch first."""
    _tell(f"reading the code of {source}")
    from glmc.prove.texts.reading import read

    return read(source, text, hub, _tell)


def _facts(found: "Reading") -> dict[str, object]:
    return {
        "text": f"{found.text.file}.py",
        "class": found.text.model_class,
        "extends": found.extends,
        "certificate": dict(found.certificate),
        "spec": found.tree,
    }


def _tell(line: str) -> None:
    print(f"glmc: {line}", file=sys.stderr, flush=True)
