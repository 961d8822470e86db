"""Cut the layers of a program into stages, each for ranks of its own.

A stage is a range of layers with as many bytes of weights as the others, as near as
layers allow; the first has what the stem reads besides, the last what the head reads.
What a layer hands on travels to the next stage, so it must be of known sizes, and what
a layer keeps for others must be in their stage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from glmc.ir.errors import NotDealtError
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.ledger import Entry
from glmc.ir.types import TensorType


@dataclass(frozen=True)
class CutStages:
    """The pass; same interface as a :class:`~glmc.ir.passes.rewrite.Fusion`."""

    stages: int
    name: str = "stages"
    doc: str = "Layers are cut into stages, which hand on what a layer carries."

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to the whole program.

        Raises:
            NotDealtError: where layers cannot be cut into so many stages.
        """
        if self.stages > program.layers or not program.decodes:
            what = (
                f"has {program.layers} layers" if program.decodes else "is an encoder"
            )
            raise NotDealtError(
                f"{program.name} {what} and cannot be cut into {self.stages} stages;"
                " leave --pipeline-parallel out, or give fewer."
            )
        _refuse_unknown_sizes(program)
        firsts = tuple(_balanced(_bytes(program), self.stages))
        _refuse_shared_states(program, firsts)
        after = program.model_copy(update={"stages": firsts})
        return after, [
            _entry(program, first, stop)
            for first, stop in pairwise((*firsts, program.layers))
        ]


def _entry(program: Program, first: int, stop: int) -> Entry:
    share = sum(_bytes(program)[first:stop]) / sum(_bytes(program))
    return Entry(
        fusion="stages",
        graph=program.schedule()[first].name,
        layers=stop - first,
        status="applied",
        at="",
        reason=f"layers {first}:{stop}, {share:.0%} of the bytes of weights",
    )


def _refuse_unknown_sizes(program: Program) -> None:
    for name in program.carried:
        kept = program.blocks[0].types[name]
        dims = kept.dims if isinstance(kept, TensorType) else ()
        symbols = [dim for dim in dims[2:] if isinstance(dim, str)]
        other = isinstance(kept, TensorType) and kept.dtype != program.dtype
        if dims[:2] != ("B", "T") or symbols or other:
            raise NotDealtError(
                f"{program.name}: layers hand on %{name}: {kept}, whose size and dtype"
                " the next stage cannot know; leave --pipeline-parallel out."
            )


def _refuse_shared_states(program: Program, firsts: tuple[int, ...]) -> None:
    for block in program.blocks:
        for state in block.states:
            for layer, owner in zip(block.layers, state.owners, strict=False):
                if any(owner < first <= layer for first in firsts):
                    raise NotDealtError(
                        f"{program.name}: layer {layer} reads %{state.name} of layer"
                        f" {owner}, and would be in another stage than it; give fewer"
                        " stages, or leave --pipeline-parallel out."
                    )


def _bytes(program: Program) -> list[int]:
    """Return the bytes of each layer's weights, those of stem and head with the first
    and the last."""
    found = [_held(block.params) for block in program.schedule()]
    found[0] += _held(_read(program, program.stem))
    found[-1] += _held(_read(program, program.head))
    return found


def _held(params: Iterable[Parameter]) -> int:
    return sum(param.type.nbytes() for param in params)


def _read(program: Program, graph: Graph) -> Iterator[Parameter]:
    names = {name for op in graph.ops for name in op.params}
    yield from (param for param in program.params if param.name in names)


def _balanced(sizes: list[int], stages: int) -> Iterator[int]:
    """Yield the first layer of each stage: the one at which as many of the stages'
    shares are before it."""
    before = list(accumulate(sizes, initial=0))
    last = -1
    for stage in range(stages):
        want = before[-1] * stage / stages
        near = min(range(len(sizes)), key=lambda at: abs(before[at] - want))
        last = min(max(near, last + 1), len(sizes) - stages + stage)
        yield last
