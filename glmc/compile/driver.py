"""The pipeline, top to bottom on one page."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glmc.backends.ledger import Placement, fallen_back
from glmc.backends.own_kernels import (
    OwnKernel,
    check_kernel,
    own_files,
    read_kernels,
)
from glmc.backends.package import package
from glmc.backends.runtime.drift import COMPILED, settled, token_ids
from glmc.backends.runtime.storage import storage_fault
from glmc.backends.target import DEFAULT, Ahead, Target, target
from glmc.compile.accounting import needed
from glmc.compile.checkpoints import read_headers
from glmc.compile.writing import digest, write_build
from glmc.files.manifest import MANIFEST
from glmc.frontends.build.config import spelled
from glmc.frontends.build.provenance import sized_by
from glmc.frontends.build.reads import reads
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.frontends.read.hub import Hub
from glmc.ir.errors import (
    CheckpointMismatchError,
    DecodeDiffersError,
    FusionSilentError,
    GlmcError,
    KernelMissingError,
    LayoutError,
    OptionsDisagreeError,
    PassChangedResultsError,
    UnknownDeviceError,
    UnknownPassError,
)
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.model import Model
from glmc.ir.passes import Stage
from glmc.ir.shrink import shrink
from glmc.ir.text import print_model, print_program
from glmc.version import __version__

MODEL_FILE = "ir/0-model.glmc"
VERIFY_TOLERANCE = 1e-4
"""Largest absolute logit difference a pass may make on the shrunken fp32 model."""


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
    _check_options(options, on)
    loaded = load_model(
        resolve_source(str(source), options.hub),
        ignore_keys=options.ignore_keys,
        variant=options.variant,
        spec_path=options.spec,
        sets=options.sets,
    )
    lowered = _lowered(loaded)
    _check_storage(loaded, lowered)
    stages = tuple(on.stages(lowered, options.disable))
    if options.strict:
        _strict(stages)
    verified = _verify_passes(loaded, options) if options.verify_passes else {}
    program = stages[-1].program
    files: dict[str, str | bytes] = {}
    own = read_kernels(options.kernels, loaded.source.folder, _moving(program))
    placed = tuple(on.placements(program, {kernel.op for kernel in own}))
    if options.strict:
        _strict_kernels(placed, on)
    checked = {kernel.op: _check(kernel, loaded, options) for kernel in own}
    files |= package(loaded.model, program, _origin(loaded), on, checked)
    files |= own_files(own)
    files[COMPILED] = json_text(compiled_config(loaded))
    files |= ir_files(loaded.model, stages, placed, on)
    ahead = _ahead(files, program, options, checked) if options.aot else None
    files[MANIFEST] = _manifest(loaded, stages, options, files)
    return Compilation(options, loaded, stages, files, verified, ahead, checked, placed)


def _lowered(loaded: LoadedModel) -> Program:
    """Lower the model to graphs; an error in that names its config."""
    try:
        return lower(loaded.model)
    except LayoutError as error:
        keys = sized_by(loaded.lines, error.axis)
        if keys:
            error.args = (f"{error}. What {error.axis} is, {keys} say",)
        raise error.within(loaded.source.where) from None
    except GlmcError as error:
        raise error.within(loaded.source.where) from None


def _check_storage(loaded: LoadedModel, lowered: Program) -> None:
    """Refuse a config that contradicts the files beside it about how weights are
    stored.

    Whatever else is wrong with the files, or missing, is for ``glmc check``.
    """
    try:
        headers = read_headers(loaded.source.folder).tensors
    except GlmcError:
        return
    fault = storage_fault(needed(loaded.model, lowered, headers), headers)
    if fault:
        raise CheckpointMismatchError(f"{loaded.source.folder}: {fault}")


def _check_options(options: Options, on: Target) -> None:
    """Refuse options that do not go with the target, or with each other."""
    known = [one.name for one in on.passes()]
    for name in options.disable:
        if name not in known:
            raise UnknownPassError(
                f"--disable {name}: the passes of the target {on.name} are"
                f" {', '.join(known)}."
            )
    if options.aot_dtypes and not options.aot:
        raise OptionsDisagreeError(
            "--aot-dtype says what --aot compiles for: give both."
        )
    if options.kernels and not on.own_kernels:
        raise OptionsDisagreeError(
            f"--kernel: a build for the target {on.name} runs on {on.machine} and has"
            " no kernels that yours could replace; leave --kernel or --target out."
        )
    for name in options.aot:
        if name not in on.ahead:
            known = list(on.ahead) or ["nothing"]
            raise UnknownDeviceError(
                f"Unknown target {name!r} of --aot: for a build of the target {on.name}"
                f" kernels can be compiled for {', '.join(known)}."
            )


def _strict(stages: Iterable[Stage]) -> None:
    """Fail when a fusion had candidates and took none of them."""
    silent = []
    for stage in stages:
        states = {entry.status for entry in stage.ledger}
        if stage.ledger and "applied" not in states and states != {"absent"}:
            reasons = sorted({entry.reason for entry in stage.ledger})
            silent.append(f"{stage.name} ({'; '.join(reasons)})")
    if silent:
        names = " ".join(f"--disable {text.split(' ')[0]}" for text in silent)
        raise FusionSilentError(
            f"--strict: these fusions matched nothing: {', '.join(silent)}. "
            f"Leave them out with {names}, or compile without --strict."
        )


def _strict_kernels(placed: Iterable[Placement], on: Target) -> None:
    """Fail when an op runs as the reference does, for want of a kernel."""
    missing = fallen_back(placed)
    if missing:
        options = " ".join(f"--kernel {op}=FILE" for op in missing)
        raise KernelMissingError(
            f"--strict: on {on.machine} these ops would run as the torch code of"
            f" reference.py: {'; '.join(missing.values())}. Compile without --strict,"
            f" or give kernels of your own: {options}."
        )


def _verify_passes(loaded: LoadedModel, options: Options) -> dict[str, float]:
    """Execute every stage of a shrunken instance; torch is imported here only."""
    from glmc.backends.torch.execute import compare, random_checkpoint
    from glmc.backends.torch.readings import differences as readings

    small = lower(shrink(loaded.model))
    stages = list(target(options.target).stages(small, options.disable))
    differences = list(compare([stage.program for stage in stages]))
    verified: dict[str, float] = {}
    before = 0.0
    for stage, difference in zip(stages, differences, strict=True):
        if not abs(difference - before) <= VERIFY_TOLERANCE:
            raise PassChangedResultsError(
                f"--verify-passes: {stage.name} changed the logits of a shrunken "
                f"{loaded.model.name} by {difference:.3g}. This is a bug of the pass; "
                f"please report it. Until then: --disable {stage.name}"
            )
        verified[stage.name], before = difference, difference
    checkpoint = random_checkpoint(stages[0].program)
    for stage in (stages[0], stages[-1]) if stages[0].program.decodes else ():
        for what, difference in readings(stage.program, checkpoint):
            if not difference <= VERIFY_TOLERANCE:
                raise DecodeDiffersError(
                    f"--verify-passes: after {stage.name}, a shrunken"
                    f" {loaded.model.name} that reads tokens {what} answers other"
                    f" logits than in one call, by {difference:.3g}: what its layers"
                    " keep is wrong. Please report it."
                )
    return verified


def _moving(program: Program) -> set[str]:
    """Return the ops of a program that are more than a view."""
    return {op.mnemonic for g in program.graphs for op in g.ops if not op.is_view}


def _check(own: OwnKernel, loaded: LoadedModel, options: Options) -> float:
    """Compare a user's kernel with the reference, on shrunken shapes; return the
    difference.

    In f32, and in f16 for models in half precision: bf16 is what Triton's interpreter
    does not do right.
    """
    dtypes = ("f32",) if loaded.model.dtype == "f32" else ("f32", "f16")
    small = shrink(loaded.model)
    print(
        f"glmc: checking your {own.op} against the reference in"
        f" {' and '.join(dtypes)}; Triton's interpreter may take minutes",
        file=sys.stderr,
        flush=True,
    )
    return max(
        check_kernel(
            own,
            small.model_copy(update={"dtype": dtype}),
            options.target,
            options.disable,
        )
        for dtype in dtypes
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


def _origin(loaded: LoadedModel) -> str:
    variant = f", variant {loaded.variant}" if loaded.variant else ""
    spec = f"spec {loaded.spec}{variant}"
    return f"Written by glmc {__version__} from a config.json ({spec})."


def ir_files(
    model: Model,
    stages: Iterable[Stage],
    placed: Iterable[Placement],
    on: Target,
) -> dict[str, str]:
    """Return the dumps of a build and its ledger; a pass that changed nothing has
    none."""
    stages = list(stages)
    files = {MODEL_FILE: print_model(model)}
    held = dict(zip(stage_files(stages), stages, strict=True))
    files |= {file: print_program(stage.program) for file, stage in held.items()}
    entries = [entry for stage in stages for entry in stage.ledger]
    fusions = [row.written() for row in on.rows(entries)]
    backend = [row.model_dump() for row in placed]
    files["ir/ledger.json"] = json_text({"fusions": fusions, "backend": backend})
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
    stages: Iterable[Stage],
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
    return kept | {"kernels": [text.partition("=")[0] for text in options.kernels]}


def json_text(value: Any) -> str:
    """Write JSON for files: stable, indented, a newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
