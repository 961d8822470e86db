"""Lower tables of positions: computed once in the stem, read by every layer."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.build import GraphBuilder
from glmc.ir.op import Op
from glmc.ir.types import TensorType

if TYPE_CHECKING:
    from glmc.ir.lower.emitter import Emitter

_OPS: Mapping[type, type[Op]] = {
    type(None): ops.RopeTable,
    m.LinearScaling: ops.RopeTableLinear,
    m.DynamicScaling: ops.RopeTableDynamic,
    m.Llama3Scaling: ops.RopeTableLlama3,
    m.YarnScaling: ops.RopeTableYarn,
    m.LongRopeScaling: ops.RopeTableLongRope,
    m.ProportionalScaling: ops.RopeTableProportional,
}


class Tables:
    """Tables of positions: a cos/sin pair for each rope that differs in more than its
    style.

    Likewise the slopes of ALiBi and the factors of queries that grow with positions.
    """

    def __init__(self, model: m.Model) -> None:
        self._names: dict[m.Rope, tuple[str, str]] = {}
        self._slopes: dict[tuple[int, m.Alibi], str] = {}
        self._scales: dict[m.QueryScale, str] = {}
        self._distances: dict[tuple[int, m.Distances], str] = {}
        for rope in _ropes(model):
            suffix = _suffix(self._names)
            self._names.setdefault(_key(rope), (f"cos{suffix}", f"sin{suffix}"))
        for op in _attentions(model):
            if isinstance(op, m.Attention) and op.alibi:
                name = f"slopes{_suffix(self._slopes)}"
                self._slopes.setdefault((op.heads, op.alibi), name)
            if isinstance(op, m.Attention) and op.distances:
                name = f"distances{_suffix(self._distances)}"
                self._distances.setdefault((op.heads, op.distances), name)
            if op.q_scale:
                name = f"q_scale{_suffix(self._scales)}"
                self._scales.setdefault(op.q_scale, name)

    def names(self, rope: m.Rope) -> tuple[str, str]:
        """Return the values that hold a rope's cos and sin."""
        return self._names[_key(rope)]

    def slopes(self, attention: m.Attention) -> str | None:
        """Return the value that holds an attention's ALiBi slopes, or None."""
        if attention.alibi is None:
            return None
        return self._slopes[attention.heads, attention.alibi]

    def distances(self, attention: m.Attention) -> str | None:
        """Return the value that holds an attention's numbers by distance, or None."""
        if attention.distances is None:
            return None
        return self._distances[attention.heads, attention.distances]

    def query_scale(self, scale: m.QueryScale) -> str:
        """Return the value that holds the factors of queries."""
        return self._scales[scale]

    def inputs(self) -> dict[str, TensorType]:
        """Return the tables as inputs of a block."""
        found: dict[str, TensorType] = {}
        for (heads, _), name in self._slopes.items():
            found[name] = TensorType(dtype="f32", dims=(heads,))
        for (heads, _), name in self._distances.items():
            found[name] = TensorType(dtype="f32", dims=(heads, "T", "T"))
        for name in self._scales.values():
            found[name] = TensorType(dtype="f32", dims=("B", "T"))
        for rope, names in self._names.items():
            dims = ("B", "T", rope.dim // 2)
            found |= dict.fromkeys(names, TensorType(dtype="f32", dims=dims))
        return found

    def emit(self, g: "Emitter") -> Iterator[str]:
        """Compute all tables from ``%pos`` and ``%ids``; yield their names."""
        for (heads, alibi), name in self._slopes.items():
            fields = {"pos": "pos", "heads": heads, **alibi.model_dump()}
            yield g.emit(ops.AlibiSlopes, name, **fields)
        for (heads, d), name in self._distances.items():
            axes = {"Bd": d.rows, "H": heads}
            table = g.weight(d.weight, ("Bd", "H"), axes, dtype="f32")
            sizes = {"buckets": d.buckets, "furthest": d.furthest}
            yield g.emit(ops.Distances, name, ids="ids", table=table, **sizes)
        for scale, name in self._scales.items():
            yield g.emit(ops.QueryScale, name, pos="pos", **scale.model_dump())
        for rope, names in self._names.items():
            yield from self.table(g, rope, "pos", names)

    def table(
        self, g: GraphBuilder, rope: m.Rope, pos: str, names: tuple[str, str]
    ) -> tuple[str, str]:
        """Compute cos and sin of a rope at some positions; return their names."""
        scaling = rope.scaling.model_dump() if rope.scaling else {}
        fields = {"pos": pos, "dim": rope.dim, "theta": rope.theta, **scaling}
        kind = _OPS[type(rope.scaling)]
        if rope.sections > 1:
            kind = ops.RopeTableSections
            fields |= {"frequencies": rope.frequencies}
        cos, sin = g.emit(kind, *names, **fields)
        return cos, sin


def _suffix(known: Mapping[Any, object]) -> str:
    return f"_{len(known) + 1}" if known else ""


def _attentions(model: m.Model) -> list[m.Attention | m.Mla]:
    return [op for op in _ops(model) if isinstance(op, m.Attention | m.Mla)]


def _ropes(model: m.Model) -> list[m.Rope]:
    turning = m.Attention | m.Mla | m.PooledAttention
    return [op.rope for op in _ops(model) if isinstance(op, turning) and op.rope]


def _ops(model: m.Model) -> list[m.Sublayer]:
    return [op for block in model.blocks for op in block.sublayers]


def _key(rope: m.Rope) -> m.Rope:
    return rope.model_copy(update={"style": "half", "reverse": False})
