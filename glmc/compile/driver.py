"""The pipeline, top to bottom on one page."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glmc.backends.ledger import Placement
from glmc.backends.own_kernels import (
    own_files,
    read_kernels,
)
from glmc.backends.package import Parts, package
from glmc.backends.runtime.drift import COMPILED, token_ids
from glmc.backends.runtime.folders import LAYOUTS
from glmc.backends.runtime.spelling import settled
from glmc.backends.target import Ahead, Target, target
from glmc.backends.vllm.emit import Introduced, introduced
from glmc.backends.vllm.placing import engine_placements
from glmc.compile.options import Options
from glmc.compile.refusals import (
    check_fusions,
    check_kernels,
    check_options,
    check_own,
    check_rounded,
    check_scores,
    check_storage,
    verify_passes,
)
from glmc.compile.writing import digest, write_build
from glmc.files.manifest import MANIFEST
from glmc.frontends.build.config import spelled, with_sidecar
from glmc.frontends.build.provenance import sized_by
from glmc.frontends.build.reads import reads
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.ir.errors import (
    GlmcError,
    LayoutError,
)
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.model import Model
from glmc.ir.passes import Stage
from glmc.ir.text import print_model, print_program
from glmc.version import __version__

__all__ = [
    "MODEL_FILE",
    "Compilation",
    "Options",
    "compile_files",
    "compile_model",
    "compiled_config",
    "ir_files",
    "json_text",
    "stage_files",
    "stage_rows",
]

MODEL_FILE = "ir/0-model.glmc"
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "ice_text.model",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""Files by which a folder shows that it has a tokenizer."""


@dataclass(frozen=True)
class Compilation:
    """A compiled model, not yet written."""

    options: Options
    loaded: LoadedModel
    stages: tuple[Stage, ...]
    files: dict[str, str | bytes]
    verified: dict[str, float]
    """Pass to logit difference, where passes were verified."""
    ahead: Ahead | None = None
    """The kernels, where they were compiled ahead of time."""
    own: Mapping[str, float] = field(default_factory=dict)
    """Op to largest difference of the user's kernels that were put in."""
    placed: tuple[Placement, ...] = ()
    """The place where each op of the last stage runs on the target's machine."""

    @property
    def target(self) -> Target:
        """The target that the build is made for."""
        return target(self.options.target)


def compile_model(
    source: str | Path, out: str | Path, *, force: bool = False, **options: Any
) -> Path:
    """Compile a model description into a package at ``out``.

    Args:
        source: a config.json, a model folder, a built-in config's name, or a hub id.
        out: the folder to write; it appears whole or not at all.
        force: move an edited build (or another folder) at ``out`` aside first.
        options: fields of :class:`Options`.

    Returns:
        The folder.

    Raises:
        GlmcError: on anything a user can mend.
    """
    compiled = compile_files(source, Options(**options))
    write_build(Path(out), compiled.files, force=force)
    return Path(out)


def compile_files(source: str | Path, options: Options) -> Compilation:
    """Do everything but the writing."""
    on = target(options.target)
    check_options(options, on)
    loaded = load_model(
        resolve_source(str(source), options.hub),
        ignore_keys=options.ignore_keys,
        variant=options.variant,
        spec_path=options.spec,
        sets=options.sets,
    )
    check_scores(loaded, options)
    lowered = check_rounded(options, _lowered(loaded, options))
    check_storage(loaded, lowered)
    stages = tuple(on.stages(lowered, options.disable, options.dealing()))
    if options.strict:
        check_fusions(stages)
    verified = verify_passes(loaded, options) if options.verify_passes else {}
    program = stages[-1].program
    files: dict[str, str | bytes] = {}
    own = read_kernels(options.kernels, loaded.source.folder, _moving(program))
    placed = tuple(on.placements(program, {kernel.op for kernel in own}))
    if options.strict:
        check_kernels(placed, on)
    checked = {kernel.op: check_own(kernel, loaded, options) for kernel in own}
    parts = replace(_parts(loaded), ahead=bool(options.aot))
    origin, served = _origin(loaded), _served(loaded, options)
    files |= package(loaded.model, program, origin, on, checked, parts, served)
    files |= own_files(own)
    files[COMPILED] = json_text(compiled_config(loaded))
    engine = engine_placements(program, on) if served else []
    files |= ir_files(loaded.model, stages, placed, on, engine)
    ahead = _ahead(files, program, options, checked) if options.aot else None
    files[MANIFEST] = _manifest(loaded, stages, options, files)
    return Compilation(options, loaded, stages, files, verified, ahead, checked, placed)


def _lowered(loaded: LoadedModel, options: Options) -> Program:
    """Lower the model to graphs; an error in that names its config."""
    try:
        return lower(loaded.model, cuts=bool(options.dealing()))
    except LayoutError as error:
        keys = sized_by(loaded.lines, error.axis)
        if keys:
            error.args = (f"{error}. What {error.axis} is, {keys} say",)
        raise error.within(loaded.source.where) from None
    except GlmcError as error:
        raise error.within(loaded.source.where) from None


def _moving(program: Program) -> set[str]:
    """Return the ops of a program that are more than a view."""
    return {op.mnemonic for g in program.graphs for op in g.ops if not op.is_view}


def _parts(loaded: LoadedModel) -> Parts:
    """Return what a checkpoint's files call for of the runtime.

    Without its weights beside the config it is not known what else the checkpoint will
    hold (a built-in config, a repository on the hub, a config that was copied alone),
    and it is everything.
    """
    source = loaded.source
    if source.builtin or source.hub_id:
        return Parts()
    here = {path.name for path in source.folder.iterdir()}
    if here.isdisjoint(name for name, _ in LAYOUTS):
        return Parts()
    # A prefix encoder is published by itself, as pytorch_model.bin.
    pickled = {name for name, of in LAYOUTS if of == "torch"}
    return Parts(
        tokenizer=not here.isdisjoint(TOKENIZERS),
        pickles=loaded.model.prefix_encoder is not None or not here.isdisjoint(pickled),
    )


def _ahead(
    files: dict[str, str | bytes],
    program: Program,
    options: Options,
    own: Collection[str],
) -> Ahead:
    """Compile a build's kernels for ``options.aot``, in the model's dtype or others,
    and add the binaries to the files."""
    compiler = target(options.target).compile_ahead
    assert compiler  # a target that compiles nothing ahead takes no names
    dtypes = options.aot_dtypes or (program.dtype,)
    ahead = compiler(files, program, dtypes, options.aot, own)
    files |= ahead.files
    return ahead


def _served(loaded: LoadedModel, options: Options) -> Introduced | None:
    """Return what the published config says of itself, where an engine asks for it."""
    if options.engine is None:
        return None
    return introduced(with_sidecar(loaded.source), loaded.source.where, __version__)


def _origin(loaded: LoadedModel) -> str:
    variant = f", variant {loaded.variant}" if loaded.variant else ""
    spec = f"spec {loaded.spec}{variant}"
    return f"Written by glmc {__version__} from a config.json ({spec})."


def ir_files(
    model: Model,
    stages: Iterable[Stage],
    placed: Iterable[Placement],
    on: Target,
    engine: Iterable[Placement] = (),
) -> dict[str, str]:
    """Return the dumps of a build and its ledger, with the ops that an engine runs by
    something of its own; a pass that changed nothing has no dump."""
    stages = list(stages)
    files = {MODEL_FILE: print_model(model)}
    held = dict(zip(stage_files(stages), stages, strict=True))
    files |= {file: print_program(stage.program) for file, stage in held.items()}
    entries = [entry for stage in stages for entry in stage.ledger]
    fusions = [row.written() for row in on.rows(entries)]
    backend = [row.model_dump() for row in placed]
    ledger = {"fusions": fusions, "backend": backend}
    served = [row.model_dump() for row in engine]
    files["ir/ledger.json"] = json_text(ledger | ({"engine": served} if served else {}))
    return files


def stage_files(stages: Iterable[Stage]) -> Iterator[str]:
    """Yield for each stage the file that holds its program: the dump of the last stage
    that changed it. A pass that changes nothing hands on the same object."""
    file, before = "", None
    for at, stage in enumerate(stages, 1):
        if stage.program is not before:
            file, before = f"ir/{at}-{stage.name}.glmc", stage.program
        yield file


def stage_rows(stages: Iterable[Stage]) -> list[dict[str, str]]:
    """Return the manifest's rows for the stages: name, file, doc."""
    stages = list(stages)
    model = {"name": "model", "file": MODEL_FILE, "doc": "The model as read."}
    return [
        model,
        *(
            {"name": stage.name, "file": file, "doc": stage.doc}
            for file, stage in zip(stage_files(stages), stages, strict=True)
        ),
    ]


def _manifest(
    loaded: LoadedModel,
    stages: Sequence[Stage],
    options: Options,
    files: Mapping[str, str | bytes],
) -> str:
    return json_text(
        {
            "glmc": __version__,
            "model": loaded.model.name,
            "hidden": loaded.model.hidden,
            "vocab": loaded.model.vocab,
            "spec": loaded.spec,
            "variant": loaded.variant,
            "target": options.target,
            **({"ranks": stages[-1].program.world} if options.dealing() else {}),
            **({"unverified": loaded.unverified} if loaded.unverified else {}),
            **({"read": dict(options.read)} if options.read else {}),
            "spec_files": {file.name: file.sha256 for file in loaded.spec_files},
            "config": spelled(loaded.config),
            "config_keys": {key: asdict(fate) for key, fate in loaded.keys.items()},
            "assumed": loaded.assumed,
            "spec_lines": {path: asdict(line) for path, line in loaded.lines.items()},
            "auto_map": [asdict(entry) for entry in loaded.auto_map],
            "options": _plain(options),
            "stages": stage_rows(stages),
            "files": {name: digest(text) for name, text in sorted(files.items())},
        }
    )


def compiled_config(loaded: LoadedModel) -> dict[str, Any]:
    """Return the build's record of its config; see ``backends/runtime/drift.py``."""
    reading = loaded.reading
    how = reads(reading, loaded.model)
    says = settled(reading.published, how)
    ids = token_ids(reading.published, reading.generation)
    return {"says": spelled(says), "tokens": ids, **how}


def _plain(options: Options) -> dict[str, Any]:
    """Return the options that shape the build. Paths do not, the hashes of their files
    do; the target has an entry of its own."""
    where = ("spec", "target", "revision", "endpoint", "offline", "timeout", "read")
    kept = {k: v for k, v in asdict(options).items() if k not in where}
    if options.engine is None:
        del kept["engine"]
    return kept | {"kernels": [text.partition("=")[0] for text in options.kernels]}


def json_text(value: Any) -> str:
    """Write JSON for files: stable, indented, a newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
