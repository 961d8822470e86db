"""Seeded faults of reading: Models that are not what the config says, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glmc.ir import model as m

Change = Callable[[m.Model], m.Model]


@dataclass(frozen=True)
class Misreading:
    """A Model that is not what the config says."""

    name: str
    base: str
    change: Change
    ops: str
    """The mnemonic of the op to be named (or the few that cannot be told apart)."""
    place: int | str = 0


def attention(**changes: Any) -> Change:
    """Change the attention of every layer."""
    return _sublayers(m.Attention, changes)


def mlp(**changes: Any) -> Change:
    """Change the MLP of every layer."""
    return _sublayers(m.Mlp, changes)


def rope(**changes: Any) -> Change:
    """Change the rotary embedding of every layer."""
    return _steps(
        lambda step: (
            _with(step, rope=_with(step.op.rope, **changes))
            if isinstance(step.op, m.Attention)
            else step
        )
    )


def _with(node: Any, **changes: Any) -> Any:
    if isinstance(node, m.Step):
        return node.model_copy(update={"op": node.op.model_copy(update=changes)})
    return node.model_copy(update=changes)


def _sublayers(kind: type, changes: dict[str, Any]) -> Change:
    def change(step: m.Step) -> m.Step:
        if not isinstance(step.op, kind):
            return step
        made = {k: v(step.op) if callable(v) else v for k, v in changes.items()}
        step = _with(step, **made)
        return step

    return _steps(change)


def _steps(change: Callable[[m.Step], m.Step]) -> Change:
    def run(model: m.Model) -> m.Model:
        blocks = tuple(
            block.model_copy(update={"steps": tuple(map(change, block.steps))})
            for block in model.blocks
        )
        return model.model_copy(update={"blocks": blocks})

    return run


def of(name: str, **changes: Any) -> Callable[[Any], Any]:
    """A projection or norm of a sublayer with some fields changed."""
    return lambda op: getattr(op, name).model_copy(update=changes)


def of_itself(**changes: Any) -> Callable[[Any], Any]:
    """A node with some fields changed."""
    return lambda node: node.model_copy(update=changes)


def taken(name: str) -> Callable[[Any], Any]:
    """Another projection or norm of the same sublayer in its place."""
    return lambda op: getattr(op, name)


def stored(name: str, layout: str | None, part: str | None = None) -> Any:
    """A projection whose weight lies otherwise in its tensor."""

    def change(op: Any) -> Any:
        one = getattr(op, name)
        weight = one.weight.model_copy(update={"layout": layout, "part": part})
        return one.model_copy(update={"weight": weight})

    return change


def part(name: str, part: str) -> Any:
    """A projection that takes another part of its fused tensor."""

    def change(op: Any) -> Any:
        one = getattr(op, name)
        return one.model_copy(
            update={"weight": one.weight.model_copy(update={"part": part})}
        )

    return change


def norms(which: str, at: int, **changes: Any) -> Change:
    """Change the ``pre`` or ``post`` norm of a block's step."""

    def run(model: m.Model) -> m.Model:
        blocks = []
        for block in model.blocks:
            steps = list(block.steps)
            norm = getattr(steps[at], which).model_copy(update=changes)
            steps[at] = steps[at].model_copy(update={which: norm})
            blocks.append(block.model_copy(update={"steps": tuple(steps)}))
        return model.model_copy(update={"blocks": tuple(blocks)})

    return run


def norms_swapped(model: m.Model) -> m.Model:
    """Each of a block's two pre norms has the other's weights."""
    blocks = []
    for block in model.blocks:
        one, two = block.steps
        steps = (
            one.model_copy(update={"pre": two.pre}),
            two.model_copy(update={"pre": one.pre}),
        )
        blocks.append(block.model_copy(update={"steps": steps}))
    return model.model_copy(update={"blocks": tuple(blocks)})


def top(**changes: Any) -> Change:
    """Change fields of the Model itself."""

    def run(model: m.Model) -> m.Model:
        made = {k: v(model) if callable(v) else v for k, v in changes.items()}
        return model.model_copy(update=made)

    return run


def deeper(change: Callable[[Any], Any], *path: str) -> Change:
    """Change a node that lies deeper in the Model."""

    def run(model: m.Model) -> m.Model:
        nodes: list[Any] = [model]
        for name in path:
            nodes.append(getattr(nodes[-1], name))
        made = change(nodes.pop())
        for name, node in zip(reversed(path), reversed(nodes), strict=True):
            made = node.model_copy(update={name: made})
        return made  # type: ignore[no-any-return]

    return run


def blocks(**changes: Any) -> Change:
    """Change fields of every block."""

    def run(model: m.Model) -> m.Model:
        made = []
        for block in model.blocks:
            update = {k: v(block) if callable(v) else v for k, v in changes.items()}
            made.append(block.model_copy(update=update))
        return model.model_copy(update={"blocks": tuple(made)})

    return run


def within(name: str, **changes: Any) -> Callable[[Any], Any]:
    """Return what a node has under a name, with some fields changed."""
    return lambda node: (
        getattr(node, name) and getattr(node, name).model_copy(update=changes)
    )


def only(layer: int, change: Change) -> Change:
    """A change of one layer, which becomes a kind of block of its own."""

    def run(model: m.Model) -> m.Model:
        (block,) = model.blocks
        (other,) = change(model).blocks
        rest = tuple(one for one in block.layers if one != layer)
        odd = other.model_copy(update={"name": "odd_layer", "layers": (layer,)})
        usual = block.model_copy(update={"layers": rest})
        return model.model_copy(update={"blocks": (usual, odd)})

    return run


_NAMES = ("llama-gqa", "llama-mha", "llama-biases", "qwen3-window", "glm-partial")
LLAMA, MHA, BIASES, QWEN3, GLM = _NAMES
GPT2, SANDWICH = "gpt2-tied", "glm4-sandwich"
GEMMA4, GEMMA3N, DOTS3 = (
    "gemma4_text-shared",
    "gemma3n_text-streams",
    "dots3_note_text-windows",
)
JETMOE = "jetmoe-heads"
BASES = (*_NAMES, GPT2, SANDWICH, GEMMA4, GEMMA3N, DOTS3, JETMOE)

MISREADINGS: Sequence[Misreading] = (
    Misreading("rope style", LLAMA, rope(style="interleaved"), "rope"),
    Misreading("rope base", LLAMA, rope(theta=10500.0), "rope_table", "stem"),
    Misreading(
        "rope scaling",
        LLAMA,
        rope(scaling=m.LinearScaling(factor=2.0)),
        "rope_table_linear",
        "stem",
    ),
    Misreading("rope width", LLAMA, rope(dim=8), "rope"),
    Misreading("scale", LLAMA, attention(scale=0.3), "attention"),
    Misreading("window", LLAMA, attention(window=4), "attention"),
    Misreading("activation", LLAMA, mlp(act="gelu"), "activation"),
    Misreading("eps", LLAMA, norms("pre", 0, eps=1e-3), "rms_norm"),
    Misreading("eps, second norm", LLAMA, norms("pre", 1, eps=1e-3), "rms_norm"),
    Misreading(
        "final eps",
        LLAMA,
        top(final_norm=of("final_norm", eps=1e-4)),
        "rms_norm",
        "head",
    ),
    Misreading("no final norm", LLAMA, top(final_norm=None), "linear", "head"),
    Misreading(
        "head tied by mistake",
        LLAMA,
        top(head=lambda model: m.Head(weight=model.embed.weight)),
        "linear",
        "head",
    ),
    Misreading(
        "embedding is the head's",
        LLAMA,
        top(embed=lambda model: m.Embedding(weight=model.head.weight)),
        "embedding",
        "stem",
    ),
    Misreading("norms swapped", LLAMA, norms_swapped, "rms_norm"),
    Misreading("gate and up", LLAMA, mlp(gate=taken("up"), up=taken("gate")), "linear"),
    Misreading("k and v", LLAMA, attention(k=taken("v"), v=taken("k")), "linear"),
    Misreading("q and k", MHA, attention(q=taken("k"), k=taken("q")), "linear"),
    Misreading("order of heads", MHA, attention(q=stored("q", "(D H) E")), "linear"),
    Misreading(
        "order of KV heads", LLAMA, attention(k=stored("k", "(D K) E")), "linear"
    ),
    Misreading("output's heads", LLAMA, attention(o=stored("o", "E (D H)")), "linear"),
    Misreading("bias of q", BIASES, attention(q=of("q", bias=None)), "linear"),
    Misreading("bias of down", BIASES, mlp(down=of("down", bias=None)), "linear"),
    Misreading("one activation", LLAMA, only(1, mlp(act="gelu")), "activation", 1),
    Misreading("one eps", LLAMA, only(2, norms("pre", 1, eps=1e-4)), "rms_norm", 2),
    Misreading("one style", LLAMA, only(2, rope(style="interleaved")), "rope", 2),
    Misreading(
        "head norms swapped",
        QWEN3,
        attention(q_norm=taken("k_norm"), k_norm=taken("q_norm")),
        "rms_norm",
    ),
    Misreading("no head norm", QWEN3, attention(q_norm=None), "rope"),
    Misreading("window forgotten", QWEN3, attention(window=None), "attention", 2),
    Misreading("halves of a fused tensor", GLM, mlp(gate=part("gate", "up")), "linear"),
    Misreading("rope style of pairs", GLM, rope(style="half"), "rope"),
    Misreading("whole head turns", GLM, rope(dim=16), "rope"),
    Misreading("eps of a LayerNorm", GPT2, norms("pre", 0, eps=1e-5), "layer_norm"),
    Misreading("exact gelu", GPT2, mlp(act="relu"), "activation"),
    Misreading("rows as columns", GPT2, attention(o=stored("o", None)), "linear"),
    Misreading("parts of c_attn", GPT2, attention(q=part("q", "k")), "linear"),
    Misreading(
        "cache of another layer",
        GEMMA4,
        blocks(kv_from=lambda block: tuple(n - 2 for n in block.kv_from)),
        "attention",
        4,
    ),
    Misreading(
        "activation of a layer's part",
        GEMMA4,
        _sublayers(m.PerLayerInput, {"act": "relu"}),
        "activation",
    ),
    Misreading("no layer scalar", GEMMA4, blocks(scalar=None), "add"),
    Misreading("cutoff", GEMMA3N, mlp(cutoff=0.5), "cut_below"),
    Misreading(
        "matrices that gather",
        GEMMA3N,
        deeper(lambda s: s.model_copy(update={"gather": s.spread}), "streams"),
        "gather_streams",
        "head",
    ),
    Misreading(
        "norm beside attention",
        GEMMA3N,
        _sublayers(m.LowRank, {"norm": within("norm", eps=1e-4)}),
        "rms_norm",
    ),
    Misreading(
        "norm of the shared key",
        DOTS3,
        _sublayers(m.Mla, {"k_norm": within("k_norm", eps=1e-4)}),
        "rms_norm",
    ),
    Misreading(
        "router of heads",
        JETMOE,
        attention(
            experts=lambda a: a.experts.model_copy(
                update={
                    "router": a.experts.router.model_copy(update={"after": "sigmoid"})
                }
            )
        ),
        "moe_router",
    ),
)
