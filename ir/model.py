"""The Model level: what a person says about a model, before it becomes a graph.

A :class:`Model` is what a frontend produces and what :mod:`glmc.ir.lower` consumes.
Weights are named as they lie in the checkpoint; :class:`Weight` says which part of
which tensor a slot is, in the axis notation of :mod:`glmc.ir.layout`.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from glmc.ir.node import Node

ActivationName = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh"]
DType = Literal["f32", "f16", "bf16"]


class RowQuantized(Node):
    """int8 codes with one scale per output row, as ChatGLM's ``quantization_bit``.

    With 4 bits, two codes lie in a byte, the even column in the high nibble.
    """

    bits: Literal[4, 8]
    suffix: str = "_scale"
    """What the scale's name has after the tensor's."""


class BlockQuantized(Node):
    """float8 (e4m3) codes with one scale per block of rows and columns."""

    block: tuple[PositiveInt, PositiveInt] = (128, 128)
    suffix: str = "_scale_inv"


Storage = RowQuantized | BlockQuantized


class Weight(Node):
    """A slot's place in the checkpoint."""

    tensor: str
    """Tensor name as published; ``{i}`` stands for the layer's index."""
    layout: str | None = None
    """How the tensor is stored, e.g. ``"[q:(H D)|k:(K D)|v:(K D)] E"``; None: as the
    slot itself is laid out."""
    part: str | None = None
    """Which part of a ``[a:..|b:..]`` layout this slot is."""
    storage: Storage | None = None
    """How the tensor is quantised; None: it is stored as floats."""


class Projection(Node):
    """y = x W^T + b."""

    weight: Weight
    bias: Weight | None = None


class Norm(Node):
    """RMSNorm or LayerNorm over the last dimension, statistics in fp32."""

    kind: Literal["rms", "layer"]
    eps: PositiveFloat
    weight: Weight
    bias: Weight | None = None
    weight_in: Literal["input", "f32"] = "input"
    """RMSNorm only. ``input``: round to the input's dtype, then multiply by the weight
    (transformers). ``f32``: multiply in fp32, round once (ChatGLM's own code)."""


class LinearScaling(Node):
    """Positions divided by ``factor`` (position interpolation, arXiv:2306.15595)."""

    factor: PositiveFloat


class DynamicScaling(Node):
    """NTK-aware base, growing once a sequence is longer than ``max_positions``."""

    factor: PositiveFloat
    max_positions: PositiveInt


class Llama3Scaling(Node):
    """Llama 3.1's wavelength-dependent interpolation."""

    factor: PositiveFloat
    low_freq_factor: PositiveFloat
    high_freq_factor: PositiveFloat
    original_max_positions: PositiveInt


class YarnScaling(Node):
    """YaRN (arXiv:2309.00071); ``attention_factor`` multiplies cos and sin."""

    factor: PositiveFloat
    beta_fast: PositiveFloat
    beta_slow: PositiveFloat
    original_max_positions: PositiveInt
    attention_factor: PositiveFloat
    truncate: bool


class LongRopeScaling(Node):
    """LongRoPE (arXiv:2402.13753): a divisor per frequency, short and long."""

    short_factor: tuple[PositiveFloat, ...]
    long_factor: tuple[PositiveFloat, ...]
    original_max_positions: PositiveInt
    attention_factor: PositiveFloat


RopeScaling = (
    LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling
)


class Rope(Node):
    """Rotary position embedding on the first ``dim`` channels of each head.

    With several ``sections`` (ChatGLM-6B) these channels are cut into as many equal
    parts, and each part turns by a stream of positions of its own.
    """

    dim: PositiveInt
    theta: PositiveFloat
    style: Literal["half", "interleaved"]
    """``half`` pairs channel j with j + dim/2, ``interleaved`` pairs 2j with 2j + 1;
    within a section, where there are several."""
    scaling: RopeScaling | None = None
    sections: PositiveInt = 1
    frequencies: Literal["f32", "f16"] = "f32"
    """``f16``: frequencies are rounded to fp16, whatever the model computes in."""


class Attention(Node):
    """Self-attention with grouped key/value heads."""

    kind: Literal["attention"] = "attention"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    scale: PositiveFloat
    window: PositiveInt | None = None
    """A query sees itself and the ``window - 1`` tokens before it."""
    mask: Literal["causal", "prefix", "full"] = "causal"
    """What a query sees of the tokens that are no padding. ``causal``: those up to its
    own. ``prefix``: also all before the generated text, which see each other (a prefix
    LM); where that part ends, :attr:`Model.positions` says. ``full``: all of them."""
    rope: Rope | None = None
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    q_norm: Norm | None = None
    """RMSNorm of each query head, before rope."""
    k_norm: Norm | None = None


class Mlp(Node):
    """``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` without a gate."""

    kind: Literal["mlp"] = "mlp"
    act: ActivationName
    ff: PositiveInt
    gate: Projection | None = None
    up: Projection
    down: Projection


Sublayer = Annotated[Attention | Mlp, Field(discriminator="kind")]


class Step(Node):
    """One residual step: ``after(residual_scale · r + post(op(pre(x))))``; what is
    None is left out."""

    op: Sublayer
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    """Norm of the sum: the "post-norm" of the first Transformer (arXiv:1706.03762)."""
    residual: Literal["stream", "normed"] = "stream"
    """What r is: ``stream`` is x, ``normed`` is pre(x)."""
    residual_scale: PositiveFloat = 1.0


class Block(Node):
    """A kind of decoder block and the layers that are of this kind."""

    name: str
    """An identifier; the emitted class is its CamelCase."""
    layers: tuple[int, ...]
    prefix: str
    """What the tensor names of a layer begin with, e.g. ``model.layers.{i}.``"""
    steps: tuple[Step, ...]


class Embedding(Node):
    """Token embedding, plus what a model adds to it: ``norm(token + type + place)``."""

    weight: Weight
    positions: Weight | None = None
    """Learned absolute positions."""
    types: Weight | None = None
    """Learned token types (segments), ``Model.type_vocab`` of them."""
    norm: Norm | None = None


class Transform(Node):
    """``norm(act(dense(x)))``: what a masked language model does before its logits."""

    dense: Projection
    act: ActivationName
    norm: Norm


class GlmPositions(Node):
    """Two streams of positions, found from the token ids (GLM, arXiv:2103.10360).

    Tokens before ``<sop>`` count 0, 1, … in the first stream and have 0 in the second.
    From ``<sop>`` on the first stream stays at the place that is being filled in (the
    first ``[gMASK]``, else the first ``[MASK]``) and the second counts 1, 2, …
    """

    gmask: NonNegativeInt
    mask: NonNegativeInt
    sop: NonNegativeInt


class PrefixEncoder(Node):
    """Learned keys and values before every sequence (P-tuning v2, arXiv:2110.07602).

    A row of the table for each of ``length`` tokens: for layer after layer the heads of
    a key and then of a value. With ``up`` and ``down`` it is ``down(tanh(up(row)))``.
    Keys are not rotated, every query sees them, and positions begin at 0 after them.
    """

    length: PositiveInt
    table: Weight
    row: Literal["states", "hidden"] = "states"
    """How wide a row is: as the keys and values of all layers together (axis ``S``), or
    as a hidden state (``E``), which needs a projection."""
    up: Projection | None = None
    """To a hidden state."""
    down: Projection | None = None
    """From a hidden state to keys and values."""


class Head(Node):
    """Hidden state to logits. Tied: the weight is the embedding's own tensor."""

    weight: Weight
    bias: Weight | None = None
    transform: Transform | None = None


class Pooler(Node):
    """``act(dense(x[0]))``: one vector for a sequence, from its first token."""

    dense: Projection
    act: ActivationName


class Tokens(Node):
    """Special token ids that generation needs."""

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None


class Waiver(Node):
    """Checkpoint tensors that the model does not use, and why."""

    pattern: str
    """A glob over tensor names."""
    reason: str


class OldName(Node):
    """An ending of tensor names that older files spell differently."""

    old: str
    new: str


class Model(Node):
    """A stack of blocks: a decoder-only language model, or an encoder."""

    name: str
    """An identifier for dumps and messages, e.g. ``chatglm``."""
    dtype: DType
    """The dtype the weights are published in."""
    vocab: PositiveInt
    type_vocab: PositiveInt | None = None
    """Token types, where the embedding has them."""
    hidden: PositiveInt
    max_positions: PositiveInt | None = None
    axes: dict[str, PositiveInt] = {}  # noqa: RUF012  (pydantic copies it)
    """Sizes of axis names in layouts beyond those the blocks define themselves."""
    embed: Embedding
    blocks: tuple[Block, ...]
    final_norm: Norm | None = None
    head: Head | Pooler | None
    """None: the last hidden state is all there is."""
    positions: GlmPositions | None = None
    """How positions follow from the ids; None: tokens are counted."""
    prefix_encoder: PrefixEncoder | None = None
    tokens: Tokens = Tokens()
    optional_prefix: str | None = None
    """Checkpoints saved from the headless model leave this prefix out of names."""
    old_names: tuple[OldName, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(len(block.layers) for block in self.blocks)

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees every other: no cache, no generation."""
        steps = [step.op for block in self.blocks for step in block.steps]
        masks = {op.mask for op in steps if isinstance(op, Attention)}
        return masks == {"full"}
