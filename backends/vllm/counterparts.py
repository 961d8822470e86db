"""Find for what a model keeps its counterpart in vLLM, or refuse the model by name.

vLLM calls a model with the tokens of many requests in one row. Only ops that read a
state look at other tokens, so what each does to its states decides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.ir.errors import NotServedError
from glmc.ir.graph import Graph, Program
from glmc.ir.model import Model
from glmc.ir.op import Op
from glmc.ir.ops import (
    AlibiSlopes,
    Attention,
    KvWrite,
    LatentAttention,
    LatentWrite,
    Mix,
    QkvAttention,
    Scan,
    SelectiveScan,
    ShortConv,
)
from glmc.ir.state import KvType, StateType

ATTENDING = (Attention, KvWrite, QkvAttention)
"""Ops that vLLM's attention layer stands for."""
LATENT = (LatentAttention, LatentWrite)
"""Ops that its latent attention stands for."""
BY_ROW: Mapping[type[Op], tuple[str, ...]] = {
    Mix: ("kept_q", "kept_k", "kept_v"),
    Scan: (),
    SelectiveScan: (),
    ShortConv: ("state",),
}
"""Ops whose states are of a request, to those of them that are rings of tokens."""
UNKNOWN = {
    "prefix": "a prefix that sees itself in both directions",
    "learned": "keys that stand before every request",
    "chunk": "chunks of the text that do not see one another",
    "selection": "a selection of the slots that a query sees",
    "sinks": "sinks in the softmax over latents",
    "window": "a window over latents",
    "bias": "a bias of the product that makes keys and values",
}
"""Operands and attributes that vLLM's layers have nothing for, in words."""
OF_LATENTS = ("selection", "sinks", "window", "bias")
OF_KEYS = ("prefix", "learned", "chunk")


@dataclass(frozen=True)
class Row:
    """The arguments of one layer of vLLM: how a kind of layer attends."""

    state: str
    """The name of what it keeps."""
    name: str
    """The class of the build's ``vllm_states`` that it is an instance of."""
    given: Mapping[str, Any]
    """Arguments, by keyword; those that are source already are :class:`Source`."""


@dataclass(frozen=True)
class Source:
    """A Python expression."""

    text: str


def check(model: Model, program: Program) -> None:
    """Refuse a model that vLLM has no counterpart for.

    Raises:
        NotServedError: naming what it is.
    """
    if model.is_encoder:
        raise NotServedError(
            f"--engine vllm: {model.name} is an encoder, every token of which sees"
            " every other; only decoders are served"
        )
    if model.scores:
        raise NotServedError(
            f"--engine vllm: {model.name} scores texts and generates none; only models"
            " that generate are served"
        )
    if program.stages:
        raise NotServedError(
            "--engine vllm: a build in stages runs by torchrun, and inside vLLM it has"
            " one; leave --pipeline-parallel out"
        )
    if model.prefix_encoder is not None or model.positions is not None:
        what = "two streams of positions" if model.positions else "a prefix encoder"
        raise NotServedError(
            f"--engine vllm: {model.name} has {what}, and vLLM counts the tokens of a"
            " request in one stream from 0 on"
        )
    for graph in program.graphs:
        for op in graph.ops:
            _check_op(model, graph, op)


def _check_op(model: Model, graph: Graph, op: Op) -> None:
    states = [name for _, _, name in op.states()]
    if not states:
        return
    if not isinstance(op, (*ATTENDING, *LATENT, *BY_ROW)):
        kept = " and ".join(f"%{n}: {graph.types[n]}" for n in states)
        raise NotServedError(
            f"--engine vllm: {graph.name} of {model.name} has {op.mnemonic}, which"
            f" keeps {kept}; vLLM has attention, latent attention and states of a"
            " request"
        )
    named = OF_LATENTS if isinstance(op, LATENT) else OF_KEYS
    for name in named if isinstance(op, (*ATTENDING, *LATENT)) else ():
        if getattr(op, name, None):
            raise NotServedError(
                f"--engine vllm: {graph.name} of {model.name} attends with"
                f" {UNKNOWN[name]} ({op.mnemonic}, {name}), and vLLM's layer does not"
            )


def rows(program: Program, block: Graph) -> Iterator[Row]:
    """Yield the layers of vLLM that a kind of layer is made with."""
    for op in block.ops:
        match op:
            case Attention() | QkvAttention():
                yield _attends(program, block, op)
            case LatentAttention():
                yield _latent(block, op)


def _attends(program: Program, block: Graph, op: Attention | QkvAttention) -> Row:
    kv = block.types[op.kv]
    assert isinstance(kv, KvType)
    given: dict[str, object] = {
        "heads": _heads(block, op),
        "kv_heads": kv.kv_heads,
        "k_dim": kv.k_dim,
        "v_dim": kv.v_dim,
        "scale": op.scale,
        "window": op.window,
        "softcap": op.softcap,
        "sinks": op.sinks,
        "slopes": _slopes(program, op),
    }
    given = {key: value for key, value in given.items() if value is not None}
    return Row(declared(block, op.kv), "Attends", given)


def _heads(block: Graph, op: Attention | QkvAttention) -> int:
    match op:
        case QkvAttention(heads=heads):
            return heads
        case Attention(q=q):
            return int(block.types[q].dims[2])


def _slopes(program: Program, op: Attention | QkvAttention) -> Source | None:
    """Return the call that makes the slopes of heads, which layers are made with."""
    if op.slopes is None:
        return None
    made = program.stem.producers.get(op.slopes)
    if not isinstance(made, AlibiSlopes):
        raise NotServedError(
            "--engine vllm: slopes that are not ALiBi's are not known when vLLM's"
            " layers are made"
        )
    said = ", ".join(f"{key}={value!r}" for key, value in made.attributes().items())
    return Source(f"partial(alibi_slopes, {said})")


def _latent(block: Graph, op: LatentAttention) -> Row:
    q, kept = block.types[op.q], block.types[op.latents]
    kv_b = next(p for p in block.params if p.name == op.kv_b).type
    rank = int(kv_b.dims[1])
    turned = int(kept.dims[0]) - rank
    heads, nope = int(q.dims[2]), int(q.dims[3]) - turned
    given = {
        "heads": heads,
        "nope": nope,
        "turned": turned,
        "v_dim": int(kv_b.dims[0]) // heads - nope,
        "rank": rank,
        "scale": op.scale,
        "kv_b": op.kv_b,
    }
    return Row(declared(block, op.latents), "Latents", given)


def declared(block: Graph, name: str) -> str:
    """Return the state of a block that a value is a version of."""
    while block.state(name) is None:
        made = block.producers[name]
        name = next(v for v in made.values if isinstance(block.types[v], StateType))
    return name


def steady_until(program: Program) -> int | None:
    """Return the positions from which on tables hang on the longest of a call, which
    would be that of another request; None where none do."""
    ops = [op for graph in program.graphs for op in graph.ops if op.steady_until]
    return min((getattr(op, str(op.steady_until)) for op in ops), default=None)
