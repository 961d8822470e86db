"""Sublayers: what stands between a norm and the residual add."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from glmc.ir.activations import ActivationName
from glmc.ir.model.mixers import GatedConv, Mixer, Selective
from glmc.ir.model.pooled import PooledAttention
from glmc.ir.model.rope import Rope, RopeStyle
from glmc.ir.model.units import ChannelMix, Lru, TimeMix
from glmc.ir.model.weights import Norm, Projection, Weight
from glmc.ir.node import Node


class Alibi(Node):
    """Attention with linear biases (arXiv:2108.12409): no positions, but a penalty.

    A score falls by the head's slope for each token between query and key. Slopes are
    a geometric series that ends in ``2 ** -max_bias``, all times ``scale``.
    """

    max_bias: PositiveFloat = 8.0
    scale: PositiveFloat = 1.0


class Distances(Node):
    """A learned number for each head and each distance between query and key, which is
    added to their score (T5): one table for all layers.

    Half of the ``buckets`` are for keys after the query; of each half one half is
    exact, and the others grow as logarithms up to the ``furthest``.
    """

    weight: Weight
    """``[rows, heads]``, axes ``Bd`` and ``H``."""
    rows: PositiveInt
    buckets: Annotated[int, Field(ge=4)] = 32
    furthest: PositiveInt = 128


class QueryScale(Node):
    """Queries times ``1 + beta · log(1 + floor((pos + shift) / context))``, or with an
    exponent ``(1 + (pos + shift) / context) ** exponent``.

    Attention that stays sharp over long contexts (Llama 4, Ministral 3, Beam).
    """

    beta: PositiveFloat | None = None
    exponent: PositiveFloat | None = None
    context: PositiveInt
    shift: Literal[0, 1] = 0


class OutputGate(Node):
    """The context times ``act`` of a projection, for each channel or each head."""

    projection: Projection
    act: Literal["sigmoid", "softplus"]
    width: Literal["channel", "head"] = "channel"
    head_bias: Weight | None = None
    """A number of each head that is added to what was projected."""
    reads: Literal["hidden", "latent"] = "hidden"
    """The projection's input: the hidden state, or the query latent of :class:`Mla`."""


class Difference(Node):
    """Differential attention (arXiv:2410.05258): of two attentions the second counts
    negatively, times a learned number.

    A KV head's value is that of two: its own, counted within the first half of the
    heads, and the same one of the second half. Of the context of the first half of the
    query heads lambda times that of the second half is taken away; what is left is
    normalised, two heads wide, and multiplied by 1 - ``init``. lambda is
    exp(q1 · k1) - exp(q2 · k2) + ``init``.
    """

    init: Annotated[float, Field(ge=0, lt=1)]
    eps: PositiveFloat
    q1: Weight
    k1: Weight
    q2: Weight
    k2: Weight


class BlockIndexer(Node):
    """An indexer that selects the blocks of cached tokens a query may see (MiniMax-M3).

    Each of ``heads`` groups of query heads has a query of its own, one key serves them
    all; both are normed and turned like the attention's. A block is as good as the
    highest product of the query with its keys. The ``top_k`` best are seen, among them
    the query's own and those before it, ``local`` together.
    """

    heads: PositiveInt
    dim: PositiveInt
    block: PositiveInt
    top_k: PositiveInt
    local: NonNegativeInt = 0
    q: Projection
    k: Projection
    q_norm: Norm
    k_norm: Norm


class Router(Node):
    """The choice of experts for each token, and their weights; all in fp32.

    The router reads ``pre_scale · norm(x)``, x being what the mixture is given. An
    expert's score is the softmax, the sigmoid or the root of the softplus of its logit,
    or the logit itself. The ``top_k`` experts with the highest score plus
    ``correction`` are taken, and weigh as their scores alone.
    """

    weight: Weight
    bias: Weight | None = None
    softcap: PositiveFloat | None = None
    """Logits become ``softcap · tanh(logit / softcap)``."""
    score: Literal["softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer"]
    jitter: PositiveFloat | None = None
    """For ``sparsemixer`` (arXiv:2409.12136): experts are chosen one after the other,
    and each weighs as its share in a softmax over those that are not chosen yet and
    whose logit is at most twice this, relatively, below the highest."""
    after: Literal["softmax", "sigmoid"] | None = None
    """Turns the chosen experts' logits into weights, where ``score`` is ``logit``."""
    correction: Weight | None = None
    """A bias of each expert that counts for the choice only (arXiv:2408.15664)."""
    groups: PositiveInt = 1
    """Experts stand in this many equal groups."""
    top_groups: PositiveInt = 1
    """Only experts of this many best groups are eligible."""
    group_score: Literal["top2", "max"] = "top2"
    """A group is as good as its two best experts together, or as its best one."""
    ineligible: Literal["never", "zero"] = "never"
    """Experts of other groups are never chosen, or compete with the score 0 and so come
    before eligible ones below it."""
    renormalise: bool = False
    """The weights of the chosen experts are divided by their sum."""
    least_sum: PositiveFloat | None = None
    """The least value of that sum."""
    sum_eps: PositiveFloat | None = None
    """A number added to that sum instead of the 1e-20 of most models."""
    scale: PositiveFloat = 1.0
    """The weights are multiplied by this at last."""
    norm: Norm | None = None
    pre_scale: PositiveFloat = 1.0
    expert_scale: Weight | None = None
    """A factor of each expert, which its weights are multiplied by at last."""
    table: Weight | None = None
    """The experts of each token id, ``[V, top_k]`` (axis ``Tk``), which then are not
    chosen by their scores."""


class HeadExperts(Node):
    """A mixture of attention heads (arXiv:2210.05144): chosen experts make a token's
    queries and read its context.

    An expert has a query for each KV head, and there are ``top_k`` query heads for each
    of these. ``Attention.q`` is a stack ``[experts, K·D, E]`` then, and ``Attention.o``
    one ``[experts, E, K·D]`` whose results are added up by the router's weights.
    """

    experts: PositiveInt
    top_k: PositiveInt
    router: Router


class Attention(Node):
    """Self-attention with grouped key/value heads.

    Without ``v`` the values are what ``k`` makes, before its norm and rope. Without
    ``k`` too, keys and values are those that an earlier layer has cached, and
    :attr:`Block.kv_from` says which.
    """

    kind: Literal["attention"] = "attention"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    width: PositiveInt | None = None
    """Width of what queries, keys and values are made of, axis ``Ea``; None: that of
    the hidden state."""
    v_dim: PositiveInt | None = None
    """Width of a value, axis ``Dv``; None: that of a key, axis ``D``."""
    v_scale: PositiveFloat = 1.0
    """A factor of the values."""
    scale: PositiveFloat
    window: PositiveInt | None = None
    """A query sees itself and the ``window - 1`` tokens before it; with the mask
    ``full`` also as many after it."""
    mask: Literal["causal", "prefix", "full"] = "causal"
    """The tokens that a query sees, padding aside. ``causal``: those up to its own.
    ``prefix``: also all before the generated text, which see each other (a prefix
    LM); where that part ends, :attr:`Model.positions` says. ``full``: all of them."""
    chunk: PositiveInt | None = None
    """A query sees tokens of its own chunk only: positions 0 to ``chunk - 1``, …"""
    softcap: PositiveFloat | None = None
    """Scores become ``softcap · tanh(score / softcap)``."""
    clip: PositiveFloat | None = None
    """q, k and v are clamped to ± this before anything else."""
    rope: Rope | None = None
    alibi: Alibi | None = None
    distances: Distances | None = None
    """With the mask ``full`` only."""
    q: Projection
    k: Projection | None = None
    v: Projection | None = None
    o: Projection
    experts: HeadExperts | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_norm: Norm | None = None
    """Norm of each value head."""
    qk_norm_scope: Literal["head", "heads", "full"] = "head"
    """The channels of a norm of q or k. ``head``: each head, with one weight for all;
    ``heads``: each head, with a row of the weight each; ``full``: all heads at once."""
    qk_norm_after_rope: bool = False
    q_scale: QueryScale | None = None
    sinks: Weight | None = None
    """A logit of each head that takes part in the softmax and has no value."""
    gate: OutputGate | None = None
    difference: Difference | None = None
    indexer: BlockIndexer | None = None
    sub_norm: Norm | None = None
    """Norm of the context before the output projection."""


class Xielu(Node):
    """xIELU (arXiv:2411.13010), quadratic above 0 and exponential below.

    ``alpha_p`` and ``alpha_n`` are learned and stored before their softplus.
    """

    alpha_p: Weight
    alpha_n: Weight
    beta: PositiveFloat = 0.5
    eps: float = -1e-6


class ClampedGlu(Node):
    """A clamped gated activation, in the place of ``act(gate) * up``.

    With ``alpha`` gate · sigmoid(alpha · gate) · (up + 1), gate cut off above ``limit``
    before, and up beyond ± ``limit`` (gpt-oss). Without it act(gate) · up, act(gate)
    cut off above ``limit`` (Step 3.7), or with ``cut`` gate itself (DeepSeek-V4), and
    up beyond ± ``limit``.
    """

    alpha: PositiveFloat | None = None
    limit: PositiveFloat
    cut: Literal["activated", "gate"] = "activated"
    soft: PositiveFloat | None = None
    """soft · tanh(gate / soft) · sigmoid(gate) · limit · tanh(up / limit), all in fp32:
    a silu whose factors are bounded softly (Kimi K3's situ)."""


class Mlp(Node):
    """``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` without a gate."""

    kind: Literal["mlp"] = "mlp"
    act: ActivationName | Xielu
    ff: PositiveInt
    gate: Projection | None = None
    gate_scale: PositiveFloat = 1.0
    """A factor of the projected gate, before the activation."""
    up: Projection
    glu: ClampedGlu | None = None
    sub_norm: Norm | None = None
    """Norm of the input of ``down``."""
    down: Projection
    cutoff: float | None = None
    """The projected gate g becomes max(0, g - mean(g) - cutoff · std(g)) before the
    activation."""


class LowRank(Node):
    """``x + norm(up(down(x)))``: LAuReL (arXiv:2411.07501) beside an attention."""

    kind: Literal["low_rank"] = "low_rank"
    rank: PositiveInt
    """Axis ``Rl``."""
    down: Projection
    up: Projection
    norm: Norm | None = None


class Affine(Node):
    """``y = W x + b`` in the place of an attention or a feed-forward (DeciLM)."""

    kind: Literal["affine"] = "affine"
    map: Projection


class PerLayerInput(Node):
    """``down(act(gate(x)) * e)``, e the layer's part of :class:`PerLayerEmbedding`."""

    kind: Literal["per_layer_input"] = "per_layer_input"
    act: ActivationName
    gate: Projection
    """From the hidden state to the width of e."""
    down: Projection


class ExpertLatents(Node):
    """Experts that read ``down(x)``, few channels of the hidden state, and whose sum
    goes through ``up``; the router and the shared MLP read the hidden state itself."""

    width: PositiveInt
    """Axis ``El``."""
    down: Projection
    norm: Norm | None = None
    """Norm of the experts' sum, before ``up``."""
    up: Projection


class Moe(Node):
    """A mixture of MLPs: each token goes to ``top_k`` of ``experts``.

    Without ``gate`` they have two matrices, as :class:`Mlp` without one. The weights of
    experts are stacks ``[experts, out, in]``, or one matrix for each expert where
    ``{x}``, the expert's index, stands in the tensor's name.
    """

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    top_k: PositiveInt
    act: ActivationName
    ff: PositiveInt
    router: Router
    zero_experts: NonNegativeInt = 0
    """Experts after the others that give back what they read; the router has rows for
    them, and no other weight is theirs."""
    norm: Norm | None = None
    """Norm of what the experts read; the router is given it without."""
    latents: ExpertLatents | None = None
    gate: Weight | None = None
    up: Weight
    down: Weight
    gate_bias: Weight | None = None
    up_bias: Weight | None = None
    down_bias: Weight | None = None
    bias: Weight | None = None
    """A vector that is added to the sum of the experts."""
    glu: ClampedGlu | None = None
    weigh: Literal["output", "input"] = "output"
    """An expert's weight multiplies its output, or its input."""
    shared: Mlp | None = None
    """An MLP that every token goes through besides its experts."""
    shared_gate: Weight | None = None
    """A row whose product with the token, through a sigmoid, scales ``shared``."""
    averaged: bool = False
    """The experts and the shared MLP count half each, instead of their sum."""


class Branch(Node):
    """``post(op(pre(x)))``, one of several that read the same x."""

    op: Annotated[Mlp | Moe, Field(discriminator="kind")]
    pre: Norm | None = None
    post: Norm | None = None


class Branches(Node):
    """The sum of several feed-forwards side by side, each between norms of its own."""

    kind: Literal["branches"] = "branches"
    branches: tuple[Branch, ...]


class Link(Node):
    """``op(pre(x))``, one of several that read what the one before them makes."""

    op: Annotated[Attention | Mlp | Affine, Field(discriminator="kind")]
    pre: Norm | None = None


class Chain(Node):
    """Sublayers one after the other, without sums between them.

    With ``beside`` the first reads x and then what was embedded, side by side: twice
    the channels, as its ``Attention.width`` says.
    """

    kind: Literal["chain"] = "chain"
    links: tuple[Link, ...]
    beside: bool = False


class Indexer(Node):
    """An indexer that selects the cached tokens a query may see: DeepSeek's sparse
    attention.

    A token's score is the sum over ``heads`` of weight · relu(q · k · dim^-0.5), with
    weights ``linear(x) · heads^-0.5``; the ``top_k`` highest are seen. One key serves
    all heads. Queries come from the query latent, and the first or last channels of
    queries and keys turn by the rope of the attention.
    """

    heads: PositiveInt
    dim: PositiveInt
    top_k: PositiveInt
    style: RopeStyle
    """The pairing of channels for rope."""
    turns: Literal["first", "last"] = "first"
    """The channels of queries and keys that turn."""
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
    rope: Rope | None
    """None: nothing turns, and the shared key is ``shared`` wide."""
    shared: PositiveInt | None = None
    """Given where there is no rope."""
    window: PositiveInt | None = None
    """A query sees itself and the ``window - 1`` tokens before it."""
    q_scale: QueryScale | None = None
    q_a: Projection | None = None
    q_norm: Norm | None = None
    q_reads: Literal["normed", "both"] = "normed"
    """``both``: queries are made of the normed latent and then the latent as it was,
    axis ``Lqq``."""
    q: Projection
    kv_a: Projection
    """Hidden state to latent and shared key."""
    k_norm: Norm | None = None
    """Norm of the shared key before it turns."""
    kv_norm: Norm
    kv_scale: PositiveFloat = 1.0
    """A factor of the normed latent."""
    kv_b: Projection
    """Latent to each head's ``nope`` channels of the key, and its value."""
    gate: OutputGate | None = None
    sinks: Weight | None = None
    """A logit of each head that takes part in the softmax and has no value."""
    o: Projection
    indexer: Indexer | Literal["shared"] | None = None
    """``shared``: sees what the last layer before it with an indexer selected."""

    @property
    def head_dim(self) -> int:
        """Width of a query and of a key."""
        return self.nope + self.shared_dim

    @property
    def shared_dim(self) -> int:
        """Width of the shared key."""
        width = self.rope.dim if self.rope else self.shared
        assert width, "an attention over latents has a rope, or the width of its key"
        return width


Sublayer = Annotated[
    Attention
    | Mla
    | PooledAttention
    | Mixer
    | Selective
    | GatedConv
    | Lru
    | TimeMix
    | ChannelMix
    | Mlp
    | Moe
    | Affine
    | LowRank
    | PerLayerInput
    | Branches
    | Chain,
    Field(discriminator="kind"),
]
