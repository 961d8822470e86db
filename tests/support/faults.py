"""Seeded faults, as data: what is broken, and what must be named as the culprit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glmc.ir import model as m
from glmc.ir.graph import Program
from glmc.ir.passes import PIPELINE, Entry, fusions
from glmc.ir.passes.carry import CarryResidual
from glmc.ir.passes.rewrite import Fusion, Rule

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
GPT2 = "gpt2-tied"
BASES = (*_NAMES, GPT2)

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
)


@dataclass(frozen=True)
class Mispass:
    """A pass that means something else."""

    name: str
    base: str
    broken: Any
    ops: str
    place: int | str = 0


def swapped(fusion: Fusion, old: str, new: str) -> Fusion:
    """A fusion whose replacements say ``new`` where they said ``old``."""
    rules = tuple(
        Rule(match=rule.match, replace=rule.replace.replace(old, new))
        for rule in fusion.rules
    )
    assert rules != fusion.rules, "nothing would be wrong"
    return replace(fusion, rules=rules)


def pipeline(broken: Any) -> list[Any]:
    """The passes with one replaced by its broken likeness."""
    return [broken if one.name == broken.name else one for one in PIPELINE]


@dataclass(frozen=True)
class BrokenCarry(CarryResidual):
    """carry-residual that hands on the wrong operands."""

    which: tuple[int, int] = (1, 1)

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply, and break what the blocks return."""
        after, entries = super().run(program)
        blocks = tuple(
            block.replace(returns=tuple(block.returns[at] for at in self.which))
            for block in after.blocks
        )
        return after.model_copy(update={"blocks": blocks}), entries


QKV, GATE_UP, ACT, NORM, LAYER_NORM, ATTENTION = (
    fusions.MERGE_QKV,
    fusions.MERGE_GATE_UP,
    fusions.ACT_MUL,
    fusions.ADD_RMS_NORM,
    fusions.ADD_LAYER_NORM,
    fusions.QKV_ATTENTION,
)

MISPASSES: Sequence[Mispass] = (
    Mispass(
        "rows of v and k",
        LLAMA,
        swapped(QKV, "cat(@wq, @wk, @wv)", "cat(@wq, @wv, @wk)"),
        "linear",
    ),
    Mispass(
        "biases of v and k",
        BIASES,
        swapped(QKV, "cat(@bq, @bk, @bv)", "cat(@bq, @bv, @bk)"),
        "linear",
    ),
    Mispass("k is v", LLAMA, swapped(QKV, "%kh = heads(%k", "%kh = heads(%v"), "heads"),
    Mispass(
        "rows of up and gate",
        LLAMA,
        swapped(GATE_UP, "cat(@wg, @wu)", "cat(@wu, @wg)"),
        "linear",
    ),
    Mispass(
        "the other half is activated",
        GLM,
        swapped(GATE_UP, "activation(%gate,", "activation(%up,"),
        "activation",
    ),
    Mispass("another activation", LLAMA, swapped(ACT, "fn=$fn", "fn=relu"), "act_mul"),
    Mispass(
        "a sum twice",
        LLAMA,
        swapped(NORM, "%x, %y, @w", "%x, %x, @w"),
        "add_rms_norm",
        0,
    ),
    Mispass("an eps", LLAMA, swapped(NORM, "eps=$eps", "eps=0.5"), "add_rms_norm"),
    Mispass(
        "results swapped", LLAMA, swapped(NORM, "%s, %h =", "%h, %s ="), "add_rms_norm"
    ),
    Mispass(
        "a bias left out", GPT2, swapped(LAYER_NORM, " bias=@b,", ""), "add_layer_norm"
    ),
    Mispass(
        "an eps of a LayerNorm",
        GPT2,
        swapped(LAYER_NORM, "eps=$eps", "eps=0.5"),
        "add_layer_norm",
    ),
    Mispass(
        "another style",
        LLAMA,
        swapped(ATTENTION, "style=$style", "style=interleaved"),
        "qkv_attention",
    ),
    Mispass(
        "another scale",
        GPT2,
        swapped(ATTENTION, "scale=$scale", "scale=1.0"),
        "qkv_attention",
    ),
    Mispass(
        "another window",
        QWEN3,
        swapped(ATTENTION, "window=$window", "window=3"),
        "qkv_attention",
    ),
    Mispass(
        "head norms in each other's place",
        QWEN3,
        swapped(
            ATTENTION,
            "q_norm=@q_norm, k_norm=@k_norm",
            "q_norm=@k_norm, k_norm=@q_norm",
        ),
        "qkv_attention",
    ),
    Mispass(
        "sine for cosine",
        LLAMA,
        swapped(ATTENTION, "cos=%cos, sin=%sin", "cos=%sin, sin=%cos"),
        "qkv_attention",
    ),
    Mispass("a residual lost", LLAMA, BrokenCarry(), "return"),
    Mispass("an output lost", GLM, BrokenCarry(which=(0, 0)), "return"),
)


@dataclass(frozen=True)
class Misprint:
    """A line of the build that says something else than the program."""

    name: str
    base: str
    file: str
    old: str
    new: str
    ops: str
    place: int | str | None = 0
    stage: str | None = None
    """The file to be named, where it is not the edited one."""


MODEL, WEIGHTS, OPS, KERNELS = "model.py", "weights.py", "reference.py", "kernels.py"

MISPRINTS: Sequence[Misprint] = (
    Misprint("style", LLAMA, MODEL, 'style="half"', 'style="interleaved"', "qkv_attention"),
    Misprint("theta", LLAMA, MODEL, "theta=10000.0", "theta=10500.0", "rope_table", "stem"),
    Misprint("scale", LLAMA, MODEL, "scale=0.25", "scale=0.3", "qkv_attention"),
    Misprint("activation", LLAMA, MODEL, 'fn="silu"', 'fn="gelu"', "act_mul"),
    Misprint("final eps", LLAMA, MODEL, "self.norm, eps=0.01", "self.norm, eps=0.1", "add_rms_norm", "head"),
    Misprint("a bias", BIASES, MODEL, "bias=self.qkv_bias", "bias=None", "linear"),
    Misprint("an operand", LLAMA, MODEL, "x0, attn, self.post", "x, attn, self.post", "add_rms_norm", 1),
    Misprint("a norm", LLAMA, MODEL, "attn, self.post_attention_layernorm", "attn, self.input_layernorm", "add_rms_norm"),
    Misprint("an op left out", LLAMA, MODEL, "ops.act_mul(gate_up, ", "ops.activation(gate_up, ", "act_mul"),
    Misprint("heads", LLAMA, MODEL, "kv_heads=2", "kv_heads=1", "qkv_attention"),
    Misprint("what is handed on", LLAMA, MODEL, "return x1, mlp", "return x1, x1", "", None),
    Misprint("v for k", LLAMA, WEIGHTS, "self_attn.k_proj.weight", "self_attn.v_proj.weight", "linear"),
    Misprint("gate twice", LLAMA, WEIGHTS, "mlp.up_proj.weight", "mlp.gate_proj.weight", "linear"),
    Misprint("a norm's weights", LLAMA, WEIGHTS, ".input_layernorm.weight", ".post_attention_layernorm.weight", "add_rms_norm"),
    Misprint("a layer's weights", LLAMA, WEIGHTS, "layers.{i}.mlp.down", "layers.0.mlp.down", "linear", 1),
    Misprint("a transposition", GPT2, WEIGHTS, 'permute(tensor("transformer.h.{i}.attn.c_proj.weight", 64, 64), 1, 0)', '"transformer.h.{i}.attn.c_proj.weight"', "linear"),
    Misprint("a sign of rope", LLAMA, OPS, "b * cos + a * sin", "b * cos - a * sin", "qkv_attention"),
    Misprint("no eps", LLAMA, OPS, "keepdim=True) + eps", "keepdim=True)", "add_rms_norm"),
    Misprint("halves", LLAMA, OPS, "ACTIVATIONS[fn](gate) * up", "ACTIVATIONS[fn](up) * gate", "act_mul"),
    Misprint("decoding's scale", LLAMA, OPS, "keys.transpose(-1, -2)) * scale", "keys.transpose(-1, -2))", "qkv_attention"),
    Misprint("padding is seen", LLAMA, OPS, "(visible & real)", "visible", "qkv_attention"),
    Misprint("a window is one longer", QWEN3, OPS, "queries - slots < window", "queries - slots <= window", "qkv_attention", 2),
    Misprint("a slot too far", LLAMA, OPS, "] = k.transpose(1, 2)", "] = k.roll(1, 1).transpose(1, 2)", "qkv_attention"),
    Misprint("positions off by one", LLAMA, "inputs.py", "torch.arange(cache.length, end,", "(cache.length > 0) + torch.arange(cache.length, end,", "rope_table", "stem"),
    Misprint("another eps in a kernel", LLAMA, KERNELS, "/ E + EPS", "/ E + 9 * EPS", "add_rms_norm"),
    Misprint("a sigmoid in a kernel", LLAMA, KERNELS, "x * tl.sigmoid(x)", "x * tl.sigmoid(-x)", "act_mul"),
    Misprint("a sign in a kernel", LLAMA, KERNELS, "tl.where(first, -partner, partner)", "tl.where(first, partner, -partner)", "qkv_attention"),
    Misprint("a mask in a kernel", LLAMA, KERNELS, "visible = distance >= 0", "visible = distance >= -1", "qkv_attention"),
)  # fmt: skip
