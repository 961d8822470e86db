"""Every launch of a call of a model, on paper."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from glmc.backends.triton import aot, registry
from glmc.backends.triton.calls import Sizes
from glmc.backends.triton.dry import AotSpec, Launched, Rehearsal
from glmc.backends.triton.paper import sass
from glmc.backends.triton.paper.flight import Flight, flight
from glmc.backends.triton.paper.pointers import offsets, sources
from glmc.backends.triton.paper.predict import Gpu, Prediction, predict
from glmc.backends.triton.paper.sass import Instruction
from glmc.backends.triton.resources import Resources
from glmc.backends.triton.targets import Target
from glmc.backends.triton.uses import OpUse
from glmc.ir.cost import Cost

# Tensors smaller by this than the largest one are taken to stay in a cache.
_FEW = 8
# What a kernel takes, how it reads, and the bytes of the tensors that it streams.
Look = tuple[Resources, Flight, int]


@dataclass(frozen=True)
class Line:
    """A launch of the op at place ``op`` in a list of ops."""

    op: int
    launched: Launched
    resources: Resources
    reads: Flight
    predicted: Prediction


def sheet(
    kernels: str,
    ops: Iterable[tuple[OpUse, Cost]],
    dtype: str,
    sizes: Sizes,
    on: Gpu,
    own: Collection[str] = (),
) -> Iterator[Line]:
    """Predict the launches of each op that has a kernel, in their order.

    The bytes of an op are shared out among its launches by the tensors they stream,
    its operations among those that have tensor cores work.

    Args:
        kernels: the text of kernels.py.
        ops: every op of the model, and what it costs.
        dtype: "f32", "f16" or "bf16": weights, activations and cache.
        sizes: of the call.
        on: the GPU.
        own: ops whose kernel is the user's, and unknown here.

    Raises:
        GlmcError: as :func:`glmc.backends.triton.aot.compile_jobs` does.
    """
    every = list(ops)
    rehearsal = Rehearsal(kernels, on.cores.chip, on.cores.count)
    placed = registry.places([use for use, _ in every], own)
    found = [
        (at, launched)
        for at, ((use, _), place) in enumerate(zip(every, placed, strict=True))
        if place.where == "kernel"
        for launched in rehearsal.call(use, dtype, sizes=sizes)
    ]
    made = _compiled(kernels, _distinct(one.spec for _, one in found), dtype, on, own)
    looked = [look(launched, made) for _, launched in found]
    for (at, launched), one in zip(found, looked, strict=True):
        taken, reads, _ = one
        among = [
            other for (op, _), other in zip(found, looked, strict=True) if op == at
        ]
        cost = _share(every[at][1], one, among)
        yield Line(
            at, launched, taken, reads, predict(launched.grid, taken, reads, cost, on)
        )


def _share(of: Cost, one: Look, among: Sequence[Look]) -> Cost:
    """Return what one launch of an op costs; ``among`` are all of them."""
    whole = sum(share for _, _, share in among)
    working = sum(share for _, reads, share in among if reads.work.products)
    _, reads, share = one
    return Cost(
        nbytes=of.nbytes * share // max(whole, 1),
        flops=of.flops * share // max(working, 1) if reads.work.products else 0,
        dtype=of.dtype,
    )


def _distinct(specs: Iterable[AotSpec]) -> list[AotSpec]:
    found: list[AotSpec] = []
    for spec in specs:
        if spec not in found:
            found.append(spec)
    return found


def _compiled(
    kernels: str,
    specs: Sequence[AotSpec],
    dtype: str,
    on: Gpu,
    own: Collection[str],
) -> Sequence[aot.Compiled]:
    jobs = [aot.Job(spec, dtype, Target(on.cores.chip)) for spec in specs]
    return aot.compile_jobs(kernels, jobs, own).kernels if jobs else ()


def look(launched: Launched, made: Sequence[aot.Compiled]) -> Look:
    """Return what a launch's kernel takes, how it reads, and the bytes of the tensors
    that it streams."""
    compiled = next(one for one in made if one.job.spec == launched.spec)
    code, loops = sass.parse(sass.disassemble(compiled.binary))
    arch = int(compiled.job.target.arch)
    found = sources(code, offsets(launched.spec.signature, arch))
    big = _streamed(code, found, launched.nbytes)
    chip = compiled.job.target.name
    reads = flight(code, loops, [bool(names & big) for names in found], chip)
    return compiled.resources, reads, sum(launched.nbytes[name] for name in big)


def _streamed(
    code: Sequence[Instruction],
    found: Sequence[frozenset[str]],
    nbytes: Mapping[str, int],
) -> set[str]:
    """Return the pointers that a kernel reads nearly all of its bytes from.

    Small tensors are found in a cache by all programs but the first. What is loaded
    coherently was written by another program of the launch.
    """
    read = {
        name
        for one, names in zip(code, found, strict=True)
        if "STRONG" not in one.modifiers
        for name in names
    }
    most = max((nbytes[name] for name in read), default=0)
    return {name for name in read if nbytes[name] * _FEW >= most}
