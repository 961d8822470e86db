"""Model to Program: every block becomes a graph of plain ops.

Nothing is fused here. The graph says what the model means; the passes change how.
"""

import re
from collections.abc import Mapping, Sequence
from keyword import iskeyword

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.build import GraphBuilder
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.layout import recipe
from glmc.ir.op import Op
from glmc.ir.recipe import Recipe
from glmc.ir.types import CacheType, TensorType, Type

NO_AXES: Mapping[str, int] = {}
POSITIONS = TensorType(dtype="i64", dims=("B", "T"))

_TABLES: Mapping[type, type[Op]] = {
    type(None): ops.RopeTable,
    m.LinearScaling: ops.RopeTableLinear,
    m.DynamicScaling: ops.RopeTableDynamic,
    m.Llama3Scaling: ops.RopeTableLlama3,
    m.YarnScaling: ops.RopeTableYarn,
    m.LongRopeScaling: ops.RopeTableLongRope,
}


def lower(model: m.Model) -> Program:
    """The model as graphs of plain ops.

    Raises:
        GlmcError: when a weight's layout does not give the slot it is bound to.
    """
    return _Lowering(model).program()


class _Lowering:
    def __init__(self, model: m.Model) -> None:
        self.model = model
        self.hidden = TensorType(dtype=model.dtype, dims=("B", "T", model.hidden))
        self.tables = self._tables()
        self.shared: dict[str, Param] = {}

    def program(self) -> Program:
        stem = self.stem()
        head = self.head()
        return Program(
            name=self.model.name,
            dtype=self.model.dtype,
            params=tuple(self.shared.values()),
            stem=stem,
            blocks=tuple(self.block(block) for block in self.model.blocks),
            head=head,
        )

    def _tables(self) -> dict[m.Rope, tuple[str, str]]:
        """One cos/sin pair for each rope that differs in more than its style."""
        tables: dict[m.Rope, tuple[str, str]] = {}
        for rope in _ropes(self.model):
            key = _table_key(rope)
            suffix = f"_{len(tables) + 1}" if tables else ""
            tables.setdefault(key, (f"cos{suffix}", f"sin{suffix}"))
        return tables

    def stem(self) -> Graph:
        """Token ids to the first hidden state, and the tables all layers share."""
        g = GraphBuilder({"ids": POSITIONS, "pos": POSITIONS}, self.model.dtype)
        embed = self.model.embed
        table = self.param(g, embed.weight, ("V", "E"))
        if embed.positions:
            tokens = g.emit(ops.Embedding, "tokens", ids="ids", weight=table)
            rows = self.param(g, embed.positions, ("P", "E"))
            places = g.emit(ops.Embedding, "places", ids="pos", weight=rows)
            x = g.emit(ops.Add, "x", x=tokens, y=places)
        else:
            x = g.emit(ops.Embedding, "x", ids="ids", weight=table)
        returns = [x]
        for rope, names in self.tables.items():
            returns += _table(g, rope, names)
        self.shared |= g.params
        return g.graph("stem", *returns).replace(params=())

    def head(self) -> Graph:
        """The last hidden state to logits."""
        g = GraphBuilder({"x": self.hidden}, self.model.dtype, self.shared)
        x = "x"
        if self.model.final_norm:
            x = self.norm(g, "h", x, self.model.final_norm)
        head = self.model.head
        weight = self.param(g, head.weight, ("V", "E"))
        bias = self.bias(g, weight, head.bias, ("V",))
        logits = g.emit(ops.Linear, "logits", x=x, weight=weight, bias=bias)
        self.shared |= g.params
        return g.graph("head", logits).replace(params=())

    def block(self, block: m.Block) -> Graph:
        """One kind of decoder block."""
        inputs: dict[str, Type] = {"x": self.hidden}
        for rope, names in self.tables.items():
            dims = ("B", "T", rope.dim // 2)
            inputs |= dict.fromkeys(names, TensorType(dtype="f32", dims=dims))
        inputs["kv"] = _cache(block)
        g = GraphBuilder(inputs, self.model.dtype)
        x = "x"
        for at, step in enumerate(block.steps, 1):
            x = self.step(g, x, step, at, last=at == len(block.steps))
        return g.graph(block.name, x, layers=block.layers, prefix=block.prefix)

    def step(self, g: GraphBuilder, x: str, step: m.Step, at: int, last: bool) -> str:
        """x + post(op(pre(x)))."""
        h = x
        if step.pre:
            h = self.norm(g, f"h{at}", x, step.pre)
        match step.op:
            case m.Attention():
                y = self.attention(g, h, step.op)
            case m.Mlp():
                y = self.mlp(g, h, step.op)
        if step.post:
            y = self.norm(g, f"{y}_normed", y, step.post)
        return str(g.emit(ops.Add, "out" if last else f"x{at}", x=x, y=y))

    def attention(self, g: GraphBuilder, h: str, a: m.Attention) -> str:
        """Projections, per-head norms, rope, cache write, attention, output."""
        axes = _attention_axes(a)
        slots = {"q": ("H D", a.q), "k": ("K D", a.k), "v": ("K D", a.v)}
        flat = {
            name: self.linear(g, name, h, projection, (rows, "E"), axes)
            for name, (rows, projection) in slots.items()
        }
        q = g.emit(ops.Heads, "qh", x=flat["q"], n=a.heads)
        k = g.emit(ops.Heads, "kh", x=flat["k"], n=a.kv_heads)
        v = g.emit(ops.Heads, "vh", x=flat["v"], n=a.kv_heads)
        if a.q_norm:
            q = self.norm(g, "qn", q, a.q_norm, ("D",), axes)
        if a.k_norm:
            k = self.norm(g, "kn", k, a.k_norm, ("D",), axes)
        if a.rope:
            cos, sin = self.tables[_table_key(a.rope)]
            turn = {"cos": cos, "sin": sin, "style": a.rope.style}
            q = g.emit(ops.Rope, "qr", x=q, **turn)
            k = g.emit(ops.Rope, "kr", x=k, **turn)
        kv = g.emit(ops.KvWrite, "kv_now", kv="kv", k=k, v=v)
        seen = {"scale": a.scale, "window": a.window}
        context = g.emit(ops.Attention, "ctx", q=q, kv=kv, **seen)
        return self.linear(g, "attn", context, a.o, ("E", "H D"), axes)

    def mlp(self, g: GraphBuilder, h: str, mlp: m.Mlp) -> str:
        """Two or three matrices with an activation between."""
        axes = {"F": mlp.ff}
        if mlp.gate:
            gate = self.linear(g, "gate", h, mlp.gate, ("F", "E"), axes)
            up = self.linear(g, "up", h, mlp.up, ("F", "E"), axes)
            act = g.emit(ops.Activation, "act", x=gate, fn=mlp.act)
            ff = g.emit(ops.Mul, "ff", x=act, y=up)
        else:
            up = self.linear(g, "up", h, mlp.up, ("F", "E"), axes)
            ff = g.emit(ops.Activation, "ff", x=up, fn=mlp.act)
        return self.linear(g, "mlp", ff, mlp.down, ("E", "F"), axes)

    def linear(
        self,
        g: GraphBuilder,
        result: str,
        x: str,
        projection: m.Projection,
        slot: tuple[str, str],
        axes: Mapping[str, int],
    ) -> str:
        """x Wᵀ + b with the weights of a slot."""
        weight = self.param(g, projection.weight, slot, axes)
        bias = self.bias(g, weight, projection.bias, slot[:1], axes)
        return str(g.emit(ops.Linear, result, x=x, weight=weight, bias=bias))

    def norm(
        self,
        g: GraphBuilder,
        result: str,
        x: str,
        norm: m.Norm,
        slot: tuple[str] = ("E",),
        axes: Mapping[str, int] = NO_AXES,
    ) -> str:
        """A norm of either kind."""
        weight = self.param(g, norm.weight, slot, axes)
        fields = {"x": x, "weight": weight, "eps": norm.eps}
        if norm.kind == "rms":
            emitted = g.emit(ops.RmsNorm, result, **fields, weight_in=norm.weight_in)
        else:
            bias = self.bias(g, weight, norm.bias, slot, axes)
            emitted = g.emit(ops.LayerNorm, result, **fields, bias=bias)
        return str(emitted)

    def param(
        self,
        g: GraphBuilder,
        weight: m.Weight,
        slot: Sequence[str],
        axes: Mapping[str, int] = NO_AXES,
    ) -> str:
        """Declare a slot's parameter under the name the checkpoint gives it."""
        recipe = self.weight(weight, slot, axes)
        return g.param(g.free(_names(weight), recipe), recipe)

    def bias(
        self,
        g: GraphBuilder,
        owner: str,
        bias: m.Weight | None,
        slot: Sequence[str],
        axes: Mapping[str, int] = NO_AXES,
    ) -> str | None:
        """Declare the bias that goes with a weight."""
        if bias is None:
            return None
        return g.param(f"{owner}_bias", self.weight(bias, slot, axes))

    def weight(
        self, weight: m.Weight, slot: Sequence[str], axes: Mapping[str, int]
    ) -> Recipe:
        """The recipe of a slot whose dimensions are named by ``slot``."""
        model = self.model
        sizes = {"V": model.vocab, "E": model.hidden, **model.axes, **axes}
        if model.max_positions:
            sizes.setdefault("P", model.max_positions)
        if weight.layout is None:
            layout = " ".join(f"({dim})" for dim in slot)
            return recipe(weight.tensor, layout, None, slot, sizes)
        return recipe(weight.tensor, weight.layout, weight.part, slot, sizes)


def _names(weight: m.Weight) -> list[str]:
    """``h.{i}.attn.c_proj.weight`` is ``c_proj``, or ``attn_c_proj`` beside another.

    A part of a tensor is called like its slot.
    """
    if weight.part:
        return [weight.part]
    path = weight.tensor.removesuffix(".weight").split(".")
    tails = [path[at:] for at in range(len(path) - 1, -1, -1)]
    return [_identifier("_".join(tail)) for tail in tails]


def _identifier(text: str) -> str:
    """A name that is one in the dump and in Python."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII)
    return name if name.isidentifier() and not iskeyword(name) else f"w_{name}"


def _ropes(model: m.Model) -> list[m.Rope]:
    steps = [step.op for block in model.blocks for step in block.steps]
    return [op.rope for op in steps if isinstance(op, m.Attention) and op.rope]


def _table_key(rope: m.Rope) -> m.Rope:
    return rope.model_copy(update={"style": "half"})


def _table(g: GraphBuilder, rope: m.Rope, names: tuple[str, str]) -> tuple[str, str]:
    scaling = rope.scaling.model_dump() if rope.scaling else {}
    cls = _TABLES[type(rope.scaling)]
    emitted = g.emit(cls, *names, pos="pos", dim=rope.dim, theta=rope.theta, **scaling)
    return (str(emitted[0]), str(emitted[1]))


def _attention_axes(a: m.Attention) -> dict[str, int]:
    group = a.heads // a.kv_heads
    return {"H": a.heads, "K": a.kv_heads, "D": a.head_dim, "G": group}


def _cache(block: m.Block) -> CacheType:
    """The cache of a block's one attention."""
    found = [s.op for s in block.steps if isinstance(s.op, m.Attention)]
    a = found[0]
    return CacheType(kv_heads=a.kv_heads, k_dim=a.head_dim, v_dim=a.head_dim)
