"""Lower the stem, blocks, head and prefix encoder of a program."""

from collections.abc import Callable

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.errors import ModelShapeError
from glmc.ir.graph import MASK, Graph, Parameter, Program
from glmc.ir.lower import factors
from glmc.ir.lower.checks import check, only_attention
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.factors import FACTORS, LAYER_FACTORS
from glmc.ir.lower.history import SNAPSHOTS, mixed, remembered
from glmc.ir.lower.mla import SELECTION
from glmc.ir.lower.moe import IDS as TOKEN_IDS
from glmc.ir.lower.steps import SHORTCUT, run
from glmc.ir.lower.streams import altered, gather, hidden_type, hyper, spread
from glmc.ir.lower.sublayers import EMBEDDED, LAYER_INPUT, PREFIX
from glmc.ir.lower.tables import Tables
from glmc.ir.op import OpTypeError
from glmc.ir.types import TensorType
from glmc.ir.verify import VerifyError, verify, verify_model

IDS = TensorType(dtype="i64", dims=("B", "T"))
STREAMS = TensorType(dtype="i64", dims=("B", 2, "T"))
"""The type of positions that :class:`~glmc.ir.model.GlmPositions` describes."""
BOUND = TensorType(dtype="i32", dims=("B",))
REAL = TensorType(dtype="bool", dims=("B", "T"))
LAYER_INPUTS = "layer_inputs"
"""The stem's value of which every layer is given its part."""


def lower(model: m.Model, *, cuts: bool = False) -> Program:
    """Lower a model to graphs of plain ops, and verify the result.

    Args:
        model: the model.
        cuts: whether parameters say how they may be dealt to ranks.

    Raises:
        GlmcError: when a weight's layout does not give the slot it is bound to, or
            its parts do not go together.
    """
    try:
        verify_model(model)
        program = _lower(model)
        program = program if cuts else _uncut(program)
        verify(program)
    except (OpTypeError, VerifyError) as error:
        raise ModelShapeError(f"{model.name} is no model: {error}.") from None
    return program


def _lower(model: m.Model) -> Program:
    check(model)
    tables = Tables(model)
    shared: dict[str, Parameter] = {}
    stem = _stem(model, tables, shared)
    blocks = tuple(_block(model, tables, block) for block in model.blocks)
    head = _head(model, tables, shared)
    encoder = model.prefix_encoder
    return Program(
        name=model.name,
        dtype=model.dtype,
        prefix_encoder=_prefix_encoder(model, encoder, shared) if encoder else None,
        stem=stem,
        blocks=blocks,
        head=head,
        params=tuple(shared.values()),
    )


def _uncut(program: Program) -> Program:
    """Return a program whose parameters do not say how they may be dealt."""

    def without(params: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        return tuple(
            param.model_copy(update={"cuts": ()}) if param.cuts else param
            for param in params
        )

    blocks = tuple(b.replace(params=without(b.params)) for b in program.blocks)
    fields = {"params": without(program.params), "blocks": blocks}
    return program.model_copy(update=fields)


def _prefix_encoder(
    model: m.Model, encoder: m.PrefixEncoder, shared: dict[str, Parameter]
) -> Graph:
    """Make the graph from row numbers to the keys and values of every layer."""
    kept = [
        only_attention(model, block) for block in model.blocks for _ in block.layers
    ]
    heads, width = sum(2 * a.kv_heads for a in kept), kept[0].head_dim
    sizes = {"N": encoder.length, "S": heads * width, "U": model.hidden}
    rows = TensorType(dtype="i64", dims=(1, encoder.length))
    e = Emitter(model, tables=Tables(model), inputs={"rows": rows}, shared=shared)
    inner = "S" if encoder.row == "states" else "E"
    table = e.weight(encoder.table, ("N", inner), sizes)
    x = e.emit(ops.Embedding, "row", ids="rows", weight=table)
    if encoder.up and encoder.down:
        up = e.linear("up", x, encoder.up, ("U", inner), sizes)
        act = e.emit(ops.Activation, "act", x=up, fn="tanh")
        x = e.linear("states", act, encoder.down, ("S", "U"), sizes)
    states = e.emit(ops.Heads, "kv_heads", x=x, n=heads)
    shared |= e.params
    return e.graph("prefix_encoder", states).replace(params=())


def _stem(model: m.Model, tables: Tables, shared: dict[str, Parameter]) -> Graph:
    """Make the graph from token ids to the first hidden state and the values layers
    share."""
    seen = _mask(model)
    inputs: dict[str, TensorType] = {
        "ids": IDS,
        "pos": STREAMS if model.positions else IDS,
    }
    if model.embed.types:
        inputs["types"] = IDS
    e = Emitter(model, tables, inputs | seen)
    several = model.streams
    if isinstance(several, m.ResidualHistory):
        several = None
    kept = _embedded(model)
    embedded = _embed(e, model.embed, EMBEDDED if several or kept else "x")
    x = spread(e, embedded, several) if several else embedded
    x = e.emit(ops.Same, "x", x=embedded) if kept and not several else x
    handed = [_nothing(e, name, x) for name in _handed_on(model)]
    returns = [x, *handed, *tables.emit(e), *seen, *_ids(model), *kept]
    if model.embed.per_layer:
        returns.append(_layer_inputs(e, model.embed.per_layer, embedded))
    if rows := factors.rows(model):
        returns.append(e.emit(ops.LayerFactors, LAYER_FACTORS, pos="pos", rows=rows))
    shared |= e.params
    return e.graph("stem", *returns).replace(params=())


def _nothing(e: Emitter, name: str, x: str) -> str:
    """Emit the value that the first layer receives in place of one handed on."""
    if name == SNAPSHOTS:
        return str(e.emit(ops.NoSnapshots, name, x=x))
    if name == SELECTION:
        return str(e.emit(ops.NoSelection, name, ids="ids"))
    return str(e.emit(ops.ZerosLike, name, x=x))


def _embed(e: Emitter, embed: m.Embedding, result: str) -> str:
    """Emit norm(scale · project(token) + type + place), leaving out what is not
    given."""
    steps: list[tuple[str, Callable[[Emitter, m.Embedding, str, str], str]]]
    steps = [("tokens", _looked_up)]
    steps += [("projected", _projected)] if embed.project else []
    steps += [("scaled", _scaled)] if embed.scale else []
    steps += [("total", _typed)] if embed.types else []
    steps += [("total", _placed)] if embed.positions else []
    steps += [("normed", _normed)] if embed.norm else []
    x = "ids"
    for at, (name, step) in enumerate(steps, 1):
        x = step(e, embed, x, result if at == len(steps) else name)
    return x


def _looked_up(e: Emitter, embed: m.Embedding, ids: str, result: str) -> str:
    table = e.weight(embed.weight, ("V", "W" if embed.project else "E"))
    return str(e.emit(ops.Embedding, result, ids=ids, weight=table))


def _projected(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    assert embed.project
    return e.linear(result, x, embed.project, ("E", "W"))


def _scaled(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    factor = {"factor": embed.scale, "rounded": embed.scale_rounded}
    return str(e.emit(ops.Scale, result, x=x, **factor))


def _typed(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    """Add the vector of each token's type."""
    assert embed.types
    table = e.weight(embed.types, ("S", "E"))
    kinds = e.emit(ops.Embedding, "kinds", ids="types", weight=table)
    return str(e.emit(ops.Add, result, x=x, y=kinds))


def _placed(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    """Add the vector of each token's place, which is learned or computed."""
    if isinstance(embed.positions, m.Sinusoids):
        fields = {"dim": e.model.hidden, **embed.positions.model_dump()}
        table = e.emit(ops.Sinusoids, "places", pos="pos", **fields)
        return str(e.emit(ops.AddTable, result, x=x, table=table))
    assert embed.positions
    rows = e.weight(embed.positions, ("P", "E"))
    places = e.emit(ops.Embedding, "places", ids="pos", weight=rows)
    return str(e.emit(ops.Add, result, x=x, y=places))


def _normed(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    assert embed.norm
    return e.norm(result, x, embed.norm)


def _layer_inputs(e: Emitter, p: m.PerLayerEmbedding, x: str) -> str:
    """Emit the per-layer embedding: a row of a second table plus a projection of x,
    ``[B,T,layers,width]``."""
    layers = e.model.layers
    axes = {"L": layers, "Ep": p.width, "Vp": p.vocab}
    table = e.weight(p.weight, ("Vp", "L Ep"), axes)
    ids = "ids"
    if p.vocab < e.model.vocab:
        ids = e.emit(ops.KnownIds, "known_ids", ids=ids, limit=p.vocab)
    rows = e.emit(ops.Embedding, "layer_rows", ids=ids, weight=table)
    if p.scale != 1.0:
        factor = {"factor": p.scale, "rounded": p.scale_rounded}
        rows = e.emit(ops.Scale, "layer_rows_scaled", x=rows, **factor)
    rows = e.emit(ops.Heads, "layer_parts", x=rows, n=layers)
    y = e.linear("layer_projected", x, p.project, ("L Ep", "E"), axes)
    if p.project_scale != 1.0:
        y = e.emit(ops.Scale, "layer_projected_scaled", x=y, factor=p.project_scale)
    y = e.emit(ops.Heads, "layer_projections", x=y, n=layers)
    y = e.norm("layer_normed", y, p.norm, ("Ep",), axes) if p.norm else y
    if p.sum_scale == 1.0:
        return str(e.emit(ops.Add, LAYER_INPUTS, x=y, y=rows))
    total = e.emit(ops.Add, "layer_total", x=y, y=rows)
    return str(e.emit(ops.Scale, LAYER_INPUTS, x=total, factor=p.sum_scale))


def _head(model: m.Model, tables: Tables, shared: dict[str, Parameter]) -> Graph:
    """Make the graph from the last hidden state to logits, pooled vector or hidden
    state."""
    inputs: dict[str, TensorType] = {"x": hidden_type(model)}
    history = isinstance(model.streams, m.ResidualHistory)
    inputs |= _handed_on(model) if history else {}
    e = Emitter(model, tables, inputs, dict(shared))
    x = _whole(e, model.streams)
    x = e.norm("h", x, model.final_norm) if model.final_norm else x
    match model.head:
        case m.Head():
            returns = [_logits(e, x, model.head)]
        case m.Pooler():
            returns = [x, _pooled(e, x, model.head)]
        case m.Classifier():
            returns = [_classified(e, x, model.head)]
        case None:
            returns = [x]
    shared |= e.params
    return e.graph("head", *returns).replace(params=())


def _whole(e: Emitter, streams: m.AnyStreams | None) -> str:
    """Emit the hidden state that the head reads."""
    match streams:
        case None:
            return "x"
        case m.ResidualHistory():
            return mixed(e, "x", SNAPSHOTS, streams.head, "gathered")
        case _:
            return gather(e, "x", streams)


def _classified(e: Emitter, x: str, head: m.Classifier) -> str:
    """Emit a number for each class of each row."""
    x = _pooled(e, x, head)
    x = e.norm("pooled_normed", x, head.norm) if head.norm else x
    return e.linear("logits", x, head.score, ("Cl", "E"), {"Cl": head.labels})


def _pooled(e: Emitter, x: str, pooler: m.Pooler | m.Classifier) -> str:
    """Emit one vector for each row, from its first token."""
    first = e.emit(ops.FirstToken, "first", x=x)
    dense = e.linear("dense", first, pooler.dense, ("E_out", "E"))
    return str(e.emit(ops.Activation, "pooled", x=dense, fn=pooler.act))


def _logits(e: Emitter, x: str, head: m.Head) -> str:
    """Emit softcap(scale · W (pre_scale · project(transform(x))))."""
    if head.transform:
        dense, act = head.transform.dense, head.transform.act
        x = e.linear("dense", x, dense, ("E_out", "E"))
        x = e.emit(ops.Activation, "act", x=x, fn=act)
        x = e.norm("h", x, head.transform.norm)
    if head.project:
        x = e.linear("projected", x, head.project, ("W", "E"))
    if head.pre_scale != 1.0:
        x = e.emit(ops.Scale, "scaled", x=x, factor=head.pre_scale)
    of, sizes = ("Cl", {"Cl": head.labels}) if head.labels else ("V", {})
    weight = e.weight(head.weight, (of, "W" if head.project else "E"), sizes)
    bias = None if head.normalised else e.bias(weight, head.bias, (of,), sizes)
    product = {"x": x, "weight": weight}
    if head.normalised:
        y = e.emit(ops.NormalisedLinear, "logits", **product)
    else:
        y = e.emit(ops.Linear, "logits", **product, bias=bias)
    if head.scale != 1.0:
        y = e.emit(ops.Scale, "scaled_logits", x=y, factor=head.scale)
    if head.softcap:
        y = e.emit(ops.SoftCap, "capped_logits", x=y, cap=head.softcap)
    return str(y)


def _block(model: m.Model, tables: Tables, block: m.Block) -> Graph:
    """Make the graph of one kind of block."""
    handed = _handed_on(model)
    inputs: dict[str, TensorType] = {"x": hidden_type(model), **handed}
    inputs |= tables.inputs() | _mask(model) | _ids(model) | _embedded(model)
    inputs |= _layer_input(model)
    if rows := factors.rows(model):
        inputs[FACTORS] = TensorType(dtype="f32", dims=(1, 1, len(rows[0])))
    e = Emitter(model, tables, inputs)
    e.kv_from, e.factors = block.kv_from, factors.varied(block.steps)
    e.carried = {name: name for name in handed}
    e.each_of = {LAYER_INPUT: LAYER_INPUTS, FACTORS: LAYER_FACTORS}
    result = f"x{len(block.steps)}" if block.scalar else "out"
    if block.altup:
        x = altered(e, block.altup, block.steps)
    elif isinstance(model.streams, m.HyperStreams):
        x = hyper(e, model.streams, block.steps)
    elif isinstance(model.streams, m.ResidualHistory):
        x = remembered(e, block.steps)
    else:
        x = run(e, "x", block.steps, result)
    if block.scalar:
        scalar = e.weight(block.scalar, ("1",))
        x = e.emit(ops.ScaleBy, "out", x=x, weight=scalar)
    returns = (x, *e.carried.values())
    where = {"layers": block.layers, "prefix": block.prefix}
    graph = e.graph(block.name, *returns, **where)
    return graph.replace(numbers=block.numbers)


def _mask(model: m.Model) -> dict[str, TensorType]:
    """Return the extra inputs of attention: the mask of real tokens in an encoder, or
    the slot at which the bidirectional part of each row ends."""
    if model.is_encoder:
        return {MASK: REAL}
    steps = [op for block in model.blocks for op in block.sublayers]
    asked = any(isinstance(op, m.Attention) and op.mask == "prefix" for op in steps)
    return {PREFIX: BOUND} if asked else {}


def _ids(model: m.Model) -> dict[str, TensorType]:
    """Return the token ids, where a layer's experts depend on them."""
    found = [step.op for block in model.blocks for step in block.steps]
    asked = any(isinstance(op, m.Moe) and op.router.table for op in found)
    return {TOKEN_IDS: IDS} if asked else {}


def _embedded(model: m.Model) -> dict[str, TensorType]:
    """Return what was embedded, where layers read it."""
    asked = any(chain.beside for block in model.blocks for chain in block.chains)
    dims = ("B", "T", model.hidden)
    return {EMBEDDED: TensorType(dtype=model.dtype, dims=dims)} if asked else {}


def _layer_input(model: m.Model) -> dict[str, TensorType]:
    """Return the input type of a layer's part of the per-layer embedding, by name."""
    if model.embed.per_layer is None:
        return {}
    dims = ("B", "T", model.embed.per_layer.width)
    return {LAYER_INPUT: TensorType(dtype=model.dtype, dims=dims)}


def _handed_on(model: m.Model) -> dict[str, TensorType]:
    """Return names and types of the values that layers hand on besides the hidden
    state."""
    steps = [step for block in model.blocks for step in block.steps]
    found: dict[str, TensorType] = {}
    if any(isinstance(s.op, m.Mla) and s.op.indexer == "shared" for s in steps):
        found[SELECTION] = TensorType(dtype="i64", dims=("B", "T", "N"))
    if isinstance(model.streams, m.ResidualHistory):
        dims = ("B", "T", "N", model.hidden)
        found[SNAPSHOTS] = TensorType(dtype=model.dtype, dims=dims)
    if any(step.shortcut for step in steps):
        found[SHORTCUT] = hidden_type(model)
    return found
