"""Rotary tables: computed once in the stem, read by every layer."""

from collections.abc import Iterator, Mapping

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.build import GraphBuilder
from glmc.ir.op import Op
from glmc.ir.types import TensorType, Type

_OPS: Mapping[type, type[Op]] = {
    type(None): ops.RopeTable,
    m.LinearScaling: ops.RopeTableLinear,
    m.DynamicScaling: ops.RopeTableDynamic,
    m.Llama3Scaling: ops.RopeTableLlama3,
    m.YarnScaling: ops.RopeTableYarn,
    m.LongRopeScaling: ops.RopeTableLongRope,
}


class Tables:
    """One cos/sin pair for each rope of a model that differs in more than its style."""

    def __init__(self, model: m.Model) -> None:
        self._names: dict[m.Rope, tuple[str, str]] = {}
        for rope in _ropes(model):
            suffix = f"_{len(self._names) + 1}" if self._names else ""
            self._names.setdefault(_key(rope), (f"cos{suffix}", f"sin{suffix}"))

    def names(self, rope: m.Rope) -> tuple[str, str]:
        """The values that hold a rope's cos and sin."""
        return self._names[_key(rope)]

    def inputs(self) -> dict[str, Type]:
        """The tables as inputs of a block."""
        found: dict[str, Type] = {}
        for rope, names in self._names.items():
            dims = ("B", "T", rope.dim // 2)
            found |= dict.fromkeys(names, TensorType(dtype="f32", dims=dims))
        return found

    def emit(self, g: GraphBuilder) -> Iterator[str]:
        """Compute all tables from ``%pos``; yields their names."""
        for rope, names in self._names.items():
            scaling = rope.scaling.model_dump() if rope.scaling else {}
            fields = {"pos": "pos", "dim": rope.dim, "theta": rope.theta, **scaling}
            if rope.sections > 1:
                fields |= {"frequencies": rope.frequencies}
                yield from g.emit(ops.RopeTableSections, *names, **fields)
            else:
                yield from g.emit(_OPS[type(rope.scaling)], *names, **fields)


def _ropes(model: m.Model) -> list[m.Rope]:
    steps = [step.op for block in model.blocks for step in block.steps]
    attending = [op for op in steps if isinstance(op, m.Attention | m.Mla)]
    return [op.rope for op in attending if op.rope]


def _key(rope: m.Rope) -> m.Rope:
    return rope.model_copy(update={"style": "half"})
