"""Refuse what a compilation was asked for and cannot give."""

import sys
from collections.abc import Iterable
from dataclasses import replace

from glmc.backends.ledger import Placement, fallen_back
from glmc.backends.own_kernels import OwnKernel, check_kernel
from glmc.backends.runtime.storage import storage_fault
from glmc.backends.target import Target, target
from glmc.compile.accounting import needed
from glmc.compile.checkpoints import read_headers
from glmc.compile.options import Options
from glmc.frontends.frontend import LoadedModel
from glmc.ir.errors import (
    CheckpointMismatchError,
    DecodeDiffersError,
    FusionSilentError,
    GlmcError,
    KernelMissingError,
    NotDealtError,
    NotQuantizableError,
    OptionsDisagreeError,
    OptionValueError,
    PassChangedResultsError,
    UnknownDeviceError,
    UnknownPassError,
)
from glmc.ir.graph import Program
from glmc.ir.ledger import Entry
from glmc.ir.lower import lower
from glmc.ir.passes import Stage
from glmc.ir.shrink import shrink

VERIFY_TOLERANCE = 1e-4
"""Largest absolute logit difference a pass may make on the shrunken fp32 model."""


def check_options(options: Options, on: Target) -> None:
    """Refuse options that do not go with the target, or with each other."""
    _check_parallel(options)
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


def _check_parallel(options: Options) -> None:
    """Refuse numbers of ranks that are none, and options that mean nothing on one."""
    for name in ("tensor_parallel", "pipeline_parallel"):
        if (count := getattr(options, name)) < 1:
            option = name.replace("_", "-")
            raise OptionValueError(f"--{option} {count}: give a number such as 8.")
    if options.expert_parallel and options.tensor_parallel == 1:
        raise OptionsDisagreeError(
            "--expert-parallel says how experts are dealt to the ranks of"
            " --tensor-parallel: give both."
        )
    if options.tensor_parallel > 1 and options.kernels:
        raise OptionsDisagreeError(
            "--kernel with --tensor-parallel: a kernel of your own is checked on whole"
            " tensors only; leave one of them out."
        )


def check_scores(loaded: LoadedModel, options: Options) -> None:
    """Refuse to deal a model that scores texts.

    Raises:
        GlmcError: where several ranks are asked for.
    """
    many = options.tensor_parallel > 1 or options.pipeline_parallel > 1
    if loaded.model.scores and many:
        raise NotDealtError(
            f"{loaded.model.name} scores texts, which one rank does; leave"
            " --tensor-parallel and --pipeline-parallel out."
        )


def check_rounded(options: Options, lowered: Program) -> Program:
    """Return the lowered program with its matrices rounded, where that was asked for.

    Raises:
        GlmcError: when none of them can be.
    """
    program = options.rounded(lowered)
    if options.codes is not None and program == lowered:
        raise NotQuantizableError(
            f"--codes int{options.codes}: no matrix of the model's layers is floats"
            f" with rows of whole groups of {options.group}; choose another --group,"
            " or leave --codes out"
        )
    return program


def check_storage(loaded: LoadedModel, lowered: Program) -> None:
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


def check_fusions(stages: Iterable[Stage]) -> None:
    """Fail when a fusion had candidates and took none of them; those behind what ranks
    tell each other it could not take."""
    silent = []
    for stage in stages:
        missed = [e for e in stage.ledger if e.status == "refused"]
        taken = any(entry.status == "applied" for entry in stage.ledger)
        if not taken and not all(_behind_ranks(stage, entry) for entry in missed):
            reasons = sorted({entry.reason for entry in missed})
            silent.append(f"{stage.name} ({'; '.join(reasons)})")
    if silent:
        names = " ".join(f"--disable {text.split(' ')[0]}" for text in silent)
        raise FusionSilentError(
            f"--strict: these fusions matched nothing: {', '.join(silent)}. "
            f"Leave them out with {names}, or compile without --strict."
        )


def _behind_ranks(stage: Stage, entry: Entry) -> bool:
    """Tell whether a refused candidate reads what ranks have told each other."""
    names = {name.strip().removeprefix("%") for name in entry.at.split(",")}
    graphs = (g for g in stage.program.graphs if g.name == entry.graph)
    read = (
        graph.producers.get(name)
        for graph in graphs
        for op in graph.ops
        if names.issuperset(op.outs)
        for name in op.values
    )
    return any(maker is not None and maker.ranked for maker in read)


def check_kernels(placed: Iterable[Placement], on: Target) -> None:
    """Fail when an op runs as the reference does, for want of a kernel."""
    missing = fallen_back(placed)
    if missing:
        options = " ".join(f"--kernel {op}=FILE" for op in missing)
        raise KernelMissingError(
            f"--strict: on {on.machine} these ops would run as the torch code of"
            f" reference.py: {'; '.join(missing.values())}. Compile without --strict,"
            f" or give kernels of your own: {options}."
        )


def verify_passes(loaded: LoadedModel, options: Options) -> dict[str, float]:
    """Execute every stage of a shrunken instance; torch is imported here only."""
    from glmc.backends.torch.execute import compare
    from glmc.backends.torch.readings import differences as readings
    from glmc.backends.torch.weights import random_checkpoint

    dealing = replace(options, pipeline_parallel=1).dealing(anywhere=True)
    small = lower(shrink(loaded.model, options.tensor_parallel), cuts=bool(dealing))
    small = options.rounded(small, shrunken=True)
    stages = list(target(options.target).stages(small, options.disable, dealing))
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


def check_own(own: OwnKernel, loaded: LoadedModel, options: Options) -> float:
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
