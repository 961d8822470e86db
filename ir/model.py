"""The Model level: what a person says about a model, before it becomes a graph.

A :class:`Model` is what a frontend produces and what :mod:`glmc.ir.lower` consumes.
Weights are named as they lie in the checkpoint; :class:`Weight` says which part of
which tensor a slot is, in the axis notation of :mod:`glmc.ir.layout`.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from glmc.ir.node import Node

ActivationName = Literal["silu", "gelu", "gelu_tanh", "relu"]
DType = Literal["f32", "f16", "bf16"]
RopeStyle = Literal["half", "interleaved"]


class Weight(Node):
    """A slot's place in the checkpoint."""

    tensor: str
    """Tensor name as published; ``{i}`` stands for the layer's index."""
    layout: str | None = None
    """How the tensor is stored, e.g. ``"[q:(H D)|k:(K D)|v:(K D)] E"``; None: as the
    slot itself is laid out."""
    part: str | None = None
    """Which part of a ``[a:..|b:..]`` layout this slot is."""


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
    """Rotary position embedding on the first ``dim`` channels of each head."""

    dim: PositiveInt
    theta: PositiveFloat
    style: RopeStyle
    """``half`` pairs channel j with j + dim/2, ``interleaved`` pairs 2j with 2j + 1."""
    scaling: RopeScaling | None = None


class Attention(Node):
    """Causal self-attention with grouped key/value heads."""

    kind: Literal["attention"] = "attention"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    scale: PositiveFloat
    window: PositiveInt | None = None
    """A query sees itself and the ``window - 1`` tokens before it."""
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


class Router(Node):
    """Which experts a token goes to, and how much each of them counts; all in fp32.

    An expert's score is the softmax or sigmoid of its logit. The ``top_k`` experts with
    the highest score plus ``correction`` are taken, and weigh as their scores alone.
    """

    weight: Weight
    score: Literal["softmax", "sigmoid"]
    correction: Weight | None = None
    """A bias of each expert that counts for the choice only (arXiv:2408.15664)."""
    groups: PositiveInt = 1
    """Experts stand in this many equal groups; a group is as good as its two best."""
    top_groups: PositiveInt = 1
    """Only experts of this many best groups are eligible."""
    renormalise: bool = False
    """The weights of the chosen experts are divided by their sum."""
    scale: PositiveFloat = 1.0
    """The weights are multiplied by this at last."""


class Moe(Node):
    """A mixture of gated MLPs: each token goes to ``top_k`` of ``experts``.

    The weights of experts are stacks ``[experts, out, in]``, or one matrix for each
    expert where ``{x}``, the expert's index, stands in the tensor's name.
    """

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    top_k: PositiveInt
    act: ActivationName
    ff: PositiveInt
    router: Router
    gate: Weight
    up: Weight
    down: Weight
    shared: Mlp | None = None
    """What every token goes through besides its experts."""


class Indexer(Node):
    """Which cached tokens a query may see: DeepSeek's sparse attention.

    A token's score is the sum over ``heads`` of weight · relu(q · k · dim^-0.5), with
    weights ``linear(x) · heads^-0.5``; the ``top_k`` highest are seen. One key serves
    all heads. Queries come from the query latent, and the first channels of queries
    and keys turn by the rope of the attention.
    """

    heads: PositiveInt
    dim: PositiveInt
    top_k: PositiveInt
    style: RopeStyle
    """How channels are paired for rope."""
    q: Projection
    k: Projection
    k_norm: Norm
    weights: Weight


class Mla(Node):
    """Multi-head latent attention (arXiv:2405.04434).

    Keys and values of all heads are made of one latent vector, ``kv_rank`` wide, and
    one rotated key that the heads share. A query head is ``nope`` channels and then
    ``rope.dim`` that turn.
    """

    kind: Literal["mla"] = "mla"
    heads: PositiveInt
    nope: PositiveInt
    v_dim: PositiveInt
    q_rank: PositiveInt | None = None
    """Width of the query latent; None: queries come from the hidden state."""
    kv_rank: PositiveInt
    scale: PositiveFloat
    rope: Rope
    q_a: Projection | None = None
    q_norm: Norm | None = None
    q: Projection
    kv_a: Projection
    """Hidden state to latent and shared key."""
    kv_norm: Norm
    kv_b: Projection
    """Latent to each head's ``nope`` channels of the key, and its value."""
    o: Projection
    indexer: Indexer | Literal["shared"] | None = None
    """``shared``: sees what the last layer before it with an indexer selected."""

    @property
    def head_dim(self) -> int:
        """Width of a query and of a key."""
        return self.nope + self.rope.dim


Sublayer = Annotated[Attention | Mla | Mlp | Moe, Field(discriminator="kind")]


class Step(Node):
    """One residual step: ``x + post(op(pre(x)))``."""

    op: Sublayer
    pre: Norm | None = None
    post: Norm | None = None


class Block(Node):
    """A kind of decoder block and the layers that are of this kind."""

    name: str
    """An identifier; the emitted class is its CamelCase."""
    layers: tuple[int, ...]
    prefix: str
    """What the tensor names of a layer begin with, e.g. ``model.layers.{i}.``"""
    steps: tuple[Step, ...]


class Embedding(Node):
    """Token embedding, with learned absolute positions where a model has them."""

    weight: Weight
    positions: Weight | None = None


class Head(Node):
    """Hidden state to logits. Tied: the weight is the embedding's own tensor."""

    weight: Weight
    bias: Weight | None = None


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


class Model(Node):
    """A decoder-only language model."""

    name: str
    """An identifier for dumps and messages, e.g. ``chatglm``."""
    dtype: DType
    """The dtype the weights are published in."""
    vocab: PositiveInt
    hidden: PositiveInt
    max_positions: PositiveInt | None = None
    axes: dict[str, PositiveInt] = {}  # noqa: RUF012  (pydantic copies it)
    """Sizes of axis names in layouts beyond those the blocks define themselves."""
    embed: Embedding
    blocks: tuple[Block, ...]
    final_norm: Norm | None = None
    head: Head
    tokens: Tokens = Tokens()
    optional_prefix: str | None = None
    """Checkpoints saved from the headless model leave this prefix out of names."""
    waivers: tuple[Waiver, ...] = ()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return sum(len(block.layers) for block in self.blocks)
