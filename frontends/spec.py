"""What a spec may say: the sections of an architecture's YAML file.

Their attributes are literals or expressions; :mod:`glmc.frontends.builder` evaluates
them against a config.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from glmc.frontends.expressions import Expression
from glmc.frontends.sections import (
    Flag,
    Formula,
    Integer,
    Name,
    Number,
    Section,
    Text,
)


class Match(Section):
    """Which configs a spec is for; ``any_key`` tells namesakes apart by their keys.

    ``borrowed_architectures``: classes of other specs that its configs may name too.
    ``text_model_type``: those of the text part, where namesakes differ in it.
    """

    model_type: tuple[Name, ...] = ()
    architectures: tuple[Name, ...] = ()
    borrowed_architectures: tuple[Name, ...] = ()
    any_key: tuple[Name, ...] = ()
    text_model_type: tuple[Name, ...] = ()


class Refusal(Section):
    """Configs that match but mean something else; looked at before all else."""

    when: Formula
    because: Name


class Check(Section):
    """What must hold of sizes that contradict each other otherwise."""

    that: Formula
    otherwise: Name


class Expectation(Section):
    """A config key of which only some values are supported. Null stands for absent."""

    values: tuple[Any, ...]
    otherwise: Name = "other values are not supported"


class PerLayer(Section):
    """A value that depends on the layer ``i``, one of ``one_of`` if that is given."""

    value: Formula
    one_of: tuple[Name, ...] | None = None


class NormSpec(Section):
    """The norm that names in ``block`` and ``qk_norm`` stand for."""

    kind: Literal["rms", "layer"]
    eps: Number
    weight: Flag = True
    bias: Flag = False
    unit_offset: Flag = False
    weight_in: Literal["input", "f32"] = "input"


class NormRef(Section):
    """One norm: its name, null for none, and how it differs from ``norm``."""

    name: Text | None = None
    kind: Literal["rms", "layer"] | None = None
    eps: Number | None = None
    weight: Flag | None = None
    bias: Flag | None = None
    unit_offset: Flag | None = None
    weight_in: Literal["input", "f32"] | None = None
    bare: bool | None = None
    """The weight is called as the norm, without ``.weight``."""


def _norm_ref(value: object) -> object:
    return {"name": value} if isinstance(value, str | Expression) else value


NormUse = Annotated[NormRef, BeforeValidator(_norm_ref)]


class LongRopeFactors(Section):
    """Factors of cos and sin of longrope, within and beyond the original context."""

    short: Number | None
    long: Number | None


class RopeSpec(Section):
    """Rotary embedding: ``params`` as the function ``rope()`` gives them.

    Layers for which ``when`` is false have none. ``long_factors`` replace, where they
    are not null, the factor that longrope has by itself.
    """

    params: Formula
    dim: Integer
    style: Text
    sections: Integer = 1
    frequencies: Literal["f32", "f16"] = "f32"
    reverse: Flag = False
    when: Flag = True
    long_factors: LongRopeFactors | None = None


class AlibiSpec(Section):
    """Biases by distance instead of positions, where ``when`` is true."""

    max_bias: Number = 8.0
    scale: Number = 1.0
    when: Flag = True


class QueryScaleSpec(Section):
    """Queries times 1 + beta · log(1 + floor((pos + shift) / context))."""

    beta: Number
    context: Integer
    shift: Literal[0, 1] = 0
    when: Flag = True


class GateSpec(Section):
    """The slot ``attn_gate``: the context times act of it."""

    act: Literal["sigmoid", "softplus"]
    width: Text = "channel"
    when: Flag = True


class QkNorm(Section):
    """Norms of queries and keys: over what, and on which side of rope."""

    q: NormUse
    k: NormUse
    scope: Literal["head", "heads", "full"] = "head"
    after_rope: Flag = False


class BlockIndexerSpec(Section):
    """What selects the blocks of tokens that a query may see, where ``when`` is true;
    slots ``iq`` and ``ik``."""

    heads: Integer
    dim: Integer
    block: Integer
    top_k: Integer
    local: Integer = 0
    q_norm: NormUse
    k_norm: NormUse
    when: Flag = True


class AttentionSpec(Section):
    """Grouped-query attention.

    ``kv_from`` is the number of the earlier layer whose keys and values a layer attends
    to instead of its own, or null; with ``kv_equal`` values are the keys, before norm
    and rope.
    """

    kind: Literal["attention"]
    heads: Integer
    kv_heads: Integer
    head_dim: Integer
    v_dim: Integer | None = None
    v_scale: Number = 1.0
    scale: Number
    window: Integer | None = None
    mask: Literal["causal", "prefix", "full"] = "causal"
    chunk: Integer | None = None
    softcap: Number | None = None
    clip: Number | None = None
    rope: RopeSpec | None = None
    alibi: AlibiSpec | None = None
    qk_norm: QkNorm | None = None
    v_norm: NormUse | None = None
    q_scale: QueryScaleSpec | None = None
    gate: GateSpec | None = None
    indexer: BlockIndexerSpec | None = None
    sub_norm: NormUse | None = None
    kv_from: Integer | None = None
    kv_equal: Flag = False


class ClampedGluSpec(Section):
    """gate · sigmoid(alpha · gate) · (up + 1), both clamped, or without alpha
    act(gate) · up, both clamped; a ``limit`` of null is neither."""

    alpha: Number | None = None
    limit: Number | None


class MlpSpec(Section):
    """A feed-forward layer, with or without a gate."""

    kind: Literal["mlp"]
    act: Text
    ff: Integer
    gated: Flag = True
    glu: ClampedGluSpec | None = None
    sub_norm: NormUse | None = None


class SharedSpec(Section):
    """The gated MLP that all tokens of a mixture share, where ``when`` is true.

    With ``gate`` the slot ``shared_gate``, a row, scales it by the sigmoid of its
    product with the token. ``averaged`` takes the mean of it and the experts.
    """

    ff: Integer
    gate: Flag = False
    averaged: Flag = False
    glu: ClampedGluSpec | None = None
    when: Flag = True


class MoeSpec(Section):
    """A mixture of gated MLPs; ``ff`` is the width of one expert.

    ``norm`` is of what the experts read, and the router is given it without; it reads
    ``router_scale`` · ``router_norm`` of that.
    """

    kind: Literal["moe"]
    act: Text
    experts: Integer
    zero_experts: Integer = 0
    top_k: Integer
    ff: Integer
    softcap: Number | None = None
    score: Literal["softmax", "sigmoid", "logit", "sparsemixer"]
    jitter: Number | None = None
    after: Text | None = None
    groups: Integer = 1
    top_groups: Integer = 1
    group_score: Literal["top2", "max"] = "top2"
    renormalise: Flag = False
    least_sum: Number | None = None
    scale: Number = 1.0
    glu: ClampedGluSpec | None = None
    weigh: Literal["output", "input"] = "output"
    shared: SharedSpec | None = None
    norm: NormUse | None = None
    router_norm: NormUse | None = None
    router_scale: Number = 1.0


class PerLayerInputSpec(Section):
    """down(act(gate(x)) · e): e is the layer's part of ``embed.per_layer``."""

    kind: Literal["per_layer_input"]
    act: Text


class BranchSpec(Section):
    """post(op(pre(x))); ``op`` is an ``mlp`` or a ``moe``."""

    op: Text
    pre: NormUse | None = None
    post: NormUse | None = None


class BranchesSpec(Section):
    """The sum of feed-forwards that read the same x."""

    kind: Literal["branches"]
    of: tuple[BranchSpec, ...]


class IndexerSpec(Section):
    """What selects the tokens that an MLA query may see."""

    heads: Integer
    dim: Integer
    top_k: Integer
    style: Text
    k_norm: Text
    norm: NormSpec
    shared: Flag = False
    """Whether the layer has none and sees what the last one before it selected."""


class MlaSpec(Section):
    """Multi-head latent attention; a ``q_rank`` of null is no query latent."""

    kind: Literal["mla"]
    heads: Integer
    nope: Integer
    v_dim: Integer
    q_rank: Integer | None = None
    kv_rank: Integer
    scale: Number
    rope: RopeSpec
    q_scale: QueryScaleSpec | None = None
    q_norm: Text
    kv_norm: Text
    kv_scale: Number = 1.0
    norm: NormSpec
    """What the norms of the latents are."""
    indexer: IndexerSpec | None = None


class AffineSpec(Section):
    """One matrix in the place of attention or of a feed-forward."""

    kind: Literal["affine"]
    slot: Literal["affine_attn", "affine_ff"]


OpSpec = Annotated[
    AttentionSpec
    | MlpSpec
    | MoeSpec
    | MlaSpec
    | AffineSpec
    | PerLayerInputSpec
    | BranchesSpec,
    Field(discriminator="kind"),
]


class StepSpec(Section):
    """after(residual_scale · r + scale · post(op(pre(x)))).

    r is x, or with residual normed pre(x); a parallel step reads the x of the last.
    Layers for which ``when`` is false leave the step out.
    """

    op: Text
    when: Flag = True
    pre: NormUse | None = None
    post: NormUse | None = None
    after: NormUse | None = None
    residual: Literal["stream", "normed"] = "stream"
    residual_scale: Number = 1.0
    scale: Number = 1.0
    parallel: Flag = False
    shortcut: Text | None = None
    """``begin``: handed to the next layer, not added; ``end``: that is added, too."""


class SinusoidsSpec(Section):
    """Fixed positions instead of a learned table."""

    inclusive: bool = False
    offset: int = 0


class PerLayerEmbedSpec(Section):
    """sum_scale · (scale · token + norm(project_scale · project(x))) for every layer.

    ``width`` is that of a layer's part, null for none; ``vocab`` the table's rows.
    """

    width: Integer | None
    vocab: Integer
    scale: Number = 1.0
    scale_rounded: Flag = False
    project_scale: Number = 1.0
    norm: NormUse | None = None
    sum_scale: Number = 1.0


class EmbedSpec(Section):
    """What happens to a token's vector before the first layer."""

    scale: Number | None = None
    scale_rounded: Flag = False
    sinusoids: SinusoidsSpec | None = None
    per_layer: PerLayerEmbedSpec | None = None


class TransformSpec(Section):
    """norm(act(dense(x))) before the logits; the slot ``transform`` is the dense."""

    act: Text
    norm: NormUse


class PositionsSpec(Section):
    """Positions of the first GLM models, by the ids they are read from."""

    kind: Literal["glm"]
    gmask: Integer
    mask: Integer
    sop: Integer


class PrefixEncoderSpec(Section):
    """Learned keys and values before every sequence, where ``length`` is not null."""

    length: Integer
    projection: Flag = False
    row: Literal["states", "hidden"] = "states"


class TokensSpec(Section):
    """Special tokens of configs that leave them out."""

    bos: Integer | None = None
    eos: Integer | None = None
    pad: Integer | None = None


class HeadSpec(Section):
    """Hidden state to logits (``lm``), to one vector (``pooler``), or left as it is."""

    kind: Literal["lm", "pooler", "none"] = "lm"
    tied: Flag = False
    transform: TransformSpec | None = None
    act: Text = "tanh"
    normalised: Flag = False
    pre_scale: Number = 1.0
    scale: Number = 1.0
    softcap: Number | None = None


class WeightSpec(Section):
    """Where a slot lies: module name, stored layout, whether it has a bias.

    A bias that is not its module's ``.bias`` has ``bias_name``, the tensor's own.
    """

    name: Text
    layout: Text | None = None
    bias: Flag = False
    bias_name: Text | None = None
    bare: bool = False
    """The tensor is called as its module, without ``.weight``."""


class RowQuantization(Section):
    """ChatGLM's weight-only format: int8 or int4 codes, one scale per row.

    ``bits`` is 4 or 8, or 0 or null for floats; ``embeddings`` tells whether embedding
    and head are quantised too, and not the layers alone.
    """

    format: Literal["rows"]
    bits: Formula
    embeddings: Flag = False


class PublishedQuantization(Section):
    """Any format that a ``quantization_config`` describes, and glmc reads.

    ``config`` is that object, or null for floats.
    """

    format: Literal["published"]
    config: Formula


Quantization = Annotated[
    RowQuantization | PublishedQuantization, Field(discriminator="format")
]


def _weight(value: object) -> object:
    return {"name": value} if isinstance(value, str | Expression) else value


def _per_layer(value: object) -> object:
    return {"value": value} if isinstance(value, Expression) else value


def _expectation(value: object) -> object:
    return {"values": value} if isinstance(value, list) else value


class Spec(Section):
    """One architecture, after inheritance and with its variant chosen."""

    arch: Name
    verified: Name | Literal[False] = False
    """What tests compare its logits with: ``transformers``, or ``golden`` vectors."""
    caveat: Name | None = None
    """What a user of a spec that is not verified should know."""
    match: Match = Match()
    text_in: Name | None = None
    """The config key that may hold the keys of the text model."""
    tensor_prefix: Name = ""
    """What the names of all tensors begin with."""
    defaults: dict[Name, Any] = {}
    aliases: dict[Name, Name] = {}
    ignore: dict[Name, Name] = {}
    expect: dict[Name, Annotated[Expectation, BeforeValidator(_expectation)]] = {}
    refuse: dict[Name, Refusal] = {}
    checks: dict[Name, Check] = {}
    dims: dict[Name, Integer]
    let: dict[Name, Formula] = {}
    layers: Integer
    max_positions: Integer | None = None
    type_vocab: Integer | None = None
    per_layer: dict[Name, Annotated[PerLayer, BeforeValidator(_per_layer)]] = {}
    skip: Refusal | None = None
    """Layers that do nothing in this model, and why; their tensors are waived."""
    layer_number: Integer | None = None
    """What ``{i}`` is in the tensor names of layer ``i``, where that is not ``i``."""
    norm: NormSpec
    block: tuple[StepSpec, ...]
    ops: dict[Name, OpSpec]
    embed: EmbedSpec = EmbedSpec()
    embed_norm: NormUse | None = None
    final_norm: NormUse | None = None
    head: HeadSpec = HeadSpec()
    positions: PositionsSpec | None = None
    prefix_encoder: PrefixEncoderSpec | None = None
    tokens: TokensSpec = TokensSpec()
    layer_prefix: Name
    optional_prefix: Name | None = None
    old_names: dict[Name, Name] = {}
    weights: dict[Name, Annotated[WeightSpec, BeforeValidator(_weight)]]
    waive: dict[Name, Name] = {}
    beyond_layers: Name | None = None
    """Why a checkpoint may hold layers after the last one of the model."""
    quantization: Quantization | None = None

    @property
    def layer_root(self) -> str:
        """What the names of a layer's tensors begin with."""
        return self.tensor_prefix + self.layer_prefix


class Variant(Section):
    """A named overlay, taken when ``when`` holds or the user asks for it."""

    about: Name
    when: Formula | None = None
    spec: dict[Name, Any] = {}
