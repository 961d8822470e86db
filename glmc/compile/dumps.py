"""``glmc ir`` and ``glmc compile --from-ir``: read dumps back, perhaps edited."""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glmc.backends.runtime.drift import COMPILED, compiled_beside
from glmc.backends.target import DEFAULT, Target, target
from glmc.compile.checkpoints import told
from glmc.compile.driver import MODEL_FILE, ir_files, json_text, stage_rows
from glmc.compile.writing import digest, name_note, refuse_name, write_build
from glmc.files.manifest import MANIFEST, read_manifest
from glmc.files.reading import lowered, read_model, read_program
from glmc.files.replacing import write_file
from glmc.ir.errors import (
    DumpNameError,
    DumpsDisagreeError,
    FileUnreadableError,
    GlmcError,
    OptionsDisagreeError,
)
from glmc.ir.graph import Program
from glmc.ir.model import Model
from glmc.ir.passes import Entry, Stage, named, run
from glmc.ir.text import print_model, print_program
from glmc.version import __version__


def ir_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc ir``: read, verify, rewrite, print."""
    text = read_text(arguments.file)
    where = str(arguments.file)
    passes = _passes(arguments)
    entries: list[Entry] = []
    if is_model(text) and passes is None:
        shown = print_model(read_model(text, where))
    else:
        program = _program(text, where)
        stages = list(run(program, passes=passes or ()))
        entries = [entry for stage in stages for entry in stage.ledger]
        shown = print_program(stages[-1].program)
    if arguments.json:
        rows = target(arguments.target or DEFAULT).rows(entries)
        facts = {"text": shown, "ledger": [row.written() for row in rows]}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    for entry in entries:
        what = f"{entry.graph} {entry.at}".strip()
        print(f"{entry.status} {entry.fusion}: {what}: {entry.reason}", file=sys.stderr)
    if arguments.out:
        write_file(arguments.out, shown)
    else:
        print(shown, end="")
    return 0


def _passes(arguments: argparse.Namespace) -> Iterable[Any] | None:
    """Return the passes that were asked for, or None where none were."""
    if arguments.pipeline:
        return target(arguments.target or DEFAULT).passes()
    if arguments.passes is None:
        return None
    known = target(arguments.target or DEFAULT).passes()
    return named([name for name in arguments.passes.split(",") if name], known)


def _program(text: str, where: str) -> Program:
    """Return a program; a dump of the Model level is lowered to one."""
    if is_model(text):
        return lowered(read_model(text, where), where)
    return read_program(text, where)


def read_text(path: Path) -> str:
    """Read a dump's text; ``-`` is the standard input.

    Raises:
        GlmcError: when it cannot be read.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else _held(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FileUnreadableError(
            f"{path} cannot be read: {reason}. Dumps lie in the folder ir of a build."
        ) from None


def _held(path: Path) -> Path:
    """Return the dump that holds a stage: a pass that changed nothing wrote none, and
    the manifest says which one stands for it."""
    name = re.fullmatch(r"\d+-(.+)\.glmc", path.name)
    stages = _known(path).get("stages")
    if path.exists() or not name or not isinstance(stages, list):
        return path
    files = {row.get("name"): row.get("file") for row in stages if type(row) is dict}
    return path.parent / Path(str(files.get(name[1], path.name))).name


def is_model(text: str) -> bool:
    """Tell whether a dump is of the Model level."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return first.startswith("model")


def rebuild_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc compile --from-ir``."""
    unused = [
        option
        for option, value in (
            ("SOURCE", arguments.source),
            ("--set", arguments.sets),
            ("--spec", arguments.spec),
            ("--variant", arguments.variant),
            ("--ignore-key", arguments.ignore_key),
            ("--engine", arguments.engine),
        )
        if value
    ]
    if unused:
        raise OptionsDisagreeError(
            f"--from-ir builds from a dump, so {', '.join(unused)} would have no "
            "effect; change the dump instead."
        )
    refuse_name(arguments.out)
    files = rebuild(arguments.from_ir, arguments.disable, arguments.target)
    note = name_note(arguments.out)
    if note:
        print(f"glmc: note: {note}", file=sys.stderr)
    write_build(arguments.out, files, force=arguments.force)
    facts = {"build": str(arguments.out), "from_ir": str(arguments.from_ir)}
    said = f"{arguments.out}: built from {arguments.from_ir}"
    print(json.dumps(facts, indent=2) if arguments.json else said)
    return 0


def rebuild(
    path: Path, disable: Iterable[str] = (), made_for: str | None = None
) -> dict[str, str]:
    """Return the files of a build from a dump.

    It is made for the target of that name; by default for that of the build where the
    dump lies.

    A dump of the Model level goes through the pipeline; a program is built as it
    stands, with the Model dump beside it for what programs do not hold.

    Raises:
        GlmcError: when a dump is wrong, or the two do not belong together.
    """
    from glmc.backends.package import Parts, package

    known = _known(path)
    on = target(made_for or str(known.get("target", DEFAULT)))
    text = read_text(path)
    if is_model(text):
        model = read_model(text, str(path))
        stages = tuple(on.stages(lowered(model, str(path)), disable))
    else:
        program = read_program(text, str(path))
        model = _beside(path)
        _belong_together(path, model, program)
        doc = "As read from a dump."
        stages = (Stage(name="edited", doc=doc, program=program),)
    origin = f"Written by glmc {__version__} from a dump of its IR."
    program = stages[-1].program
    had = known.get("files")
    parts = Parts(tokenizer=not isinstance(had, dict) or "tokenizer/__init__.py" in had)
    try:
        files = package(model, program, origin, on, parts=parts)
    except DumpNameError as error:
        raise error.within(str(path)) from None
    files |= ir_files(model, stages, on.placements(program), on)
    if known:  # weights still come from checkpoints of the config of that build
        with told():
            kept = compiled_beside(str(path.parent.parent / MANIFEST))
        files |= {COMPILED: json_text(kept)} if kept is not None else {}
    files[MANIFEST] = _manifest(known, text, model, stages, files, on)
    return files


def _beside(path: Path) -> Model:
    beside = path.parent / Path(MODEL_FILE).name
    if not beside.is_file():
        raise DumpsDisagreeError(
            f"{path} is a program, and the Model it came from is missing: copy "
            f"{Path(MODEL_FILE).name} of the same build to {path.parent}."
        )
    return read_model(read_text(beside), str(beside))


def _belong_together(path: Path, model: Model, program: Program) -> None:
    """Refuse a program that the emitted code around it would not fit."""
    wanted = lowered(model, str(path.parent / Path(MODEL_FILE).name))
    for what, has, wants in (
        ("dtype", program.dtype, wanted.dtype),
        ("number of layers", program.layers, wanted.layers),
        ("stem's inputs", program.stem.inputs, wanted.stem.inputs),
    ):
        if has != wants:
            raise DumpsDisagreeError(
                f"{path}: its {what} ({_shown(has)}) is not that of the Model beside "
                f"it ({_shown(wants)}); edit both, or start from one build's dumps."
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"%{one.name}: {one.type}" for one in value)
    return str(value)


def _known(path: Path) -> dict[str, object]:
    """Return the manifest of the build where a dump lies; empty where it lies alone."""
    try:
        return read_manifest(path.parent.parent, whole=True)
    except GlmcError:
        return {}


def _manifest(
    known: dict[str, object],
    text: str,
    model: Model,
    stages: tuple[Stage, ...],
    files: dict[str, str],
    on: Target,
) -> str:
    """Return the manifest for a build from a dump, with the record of the build that
    the dump comes from and of the stage where this one leaves it."""
    kept = {
        key: known.get(key, empty)
        for key, empty in (
            ("spec", None),
            ("variant", None),
            ("spec_files", {}),
            ("config", {}),
            ("config_keys", {}),
            ("assumed", {}),
            ("spec_lines", {}),
            ("auto_map", []),
            ("options", {}),
        )
    }
    made = {
        "glmc": __version__,
        "model": model.name,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "from_ir": digest(text),
        "target": on.name,
    }
    ranks = stages[-1].program.world
    made |= {"ranks": ranks} if ranks > 1 else {}
    hashes = {name: digest(one) for name, one in sorted(files.items())}
    return json_text(made | kept | {"stages": stage_rows(stages), "files": hashes})
