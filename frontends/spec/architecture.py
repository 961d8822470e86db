"""One architecture: the sections together."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from glmc.frontends.language.derived import Makes
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.kinds import Constant, Flag, Formula, Integer, Name, Text
from glmc.frontends.language.sections import Section
from glmc.frontends.spec.attention import AttentionSpec, MlaSpec
from glmc.frontends.spec.ends import (
    EmbedSpec,
    HeadSpec,
    PrefixEncoderSpec,
    StreamsSpec,
    TokensSpec,
)
from glmc.frontends.spec.feedforward import (
    BranchesSpec,
    ChainSpec,
    LowRankSpec,
    MlpSpec,
    MoeSpec,
    PerLayerInputSpec,
)
from glmc.frontends.spec.matching import Check, Expectation, Match, Refusal
from glmc.frontends.spec.mixers import (
    ChannelMixSpec,
    GatedConvSpec,
    LruSpec,
    MixerSpec,
    SelectiveSpec,
    TimeMixSpec,
)
from glmc.frontends.spec.norms import NormSpec, NormUse
from glmc.frontends.spec.pooled import HistorySpec, HyperSpec, PooledAttentionSpec
from glmc.frontends.spec.positions import PositionsSpec
from glmc.frontends.spec.weights import Quantization, WeightUse
from glmc.ir import model as m


class PerLayer(Section):
    """A value that depends on the layer ``i``, one of ``one_of`` if that is given."""

    value: Formula
    one_of: tuple[Name, ...] | None = None


def _per_layer(value: object) -> object:
    return {"value": value} if isinstance(value, Expression) else value


def _expectation(value: object) -> object:
    return {"values": value} if isinstance(value, list) else value


class AffineSpec(Section):
    """One matrix in the place of attention or of a feed-forward."""

    kind: Literal["affine"]
    slot: Literal["affine_attn", "affine_ff"]


OpSpec = Annotated[
    AttentionSpec
    | MlpSpec
    | MoeSpec
    | MlaSpec
    | PooledAttentionSpec
    | MixerSpec
    | SelectiveSpec
    | GatedConvSpec
    | LruSpec
    | TimeMixSpec
    | ChannelMixSpec
    | AffineSpec
    | LowRankSpec
    | PerLayerInputSpec
    | BranchesSpec
    | ChainSpec,
    Field(discriminator="kind"),
]


class StepSpec(Section, makes=Makes(m.Step)):
    """after(residual_scale · r + scale · post(op(pre(x)))).

    r is x, or with residual normed pre(x); a parallel step reads the x of the last.
    Layers for which ``when`` is false leave the step out. With hyper-connections
    ``hyper`` begins the names of the maps ``fn``, ``base`` and ``scale``, with a
    history ``mix`` those of ``norm.weight`` and ``proj.weight``.
    """

    op: Text
    aside: Text | None = None
    """The name of an op of kind ``chain``, or null: what it makes is added to what
    ``pre`` reads, and not to the stream."""
    hyper: Text | None = None
    mix: Text | None = None
    when: Flag = True


class Spec(Section):
    """One architecture, after inheritance and with its variant chosen."""

    arch: Name
    verified: Name | Literal[False] = False
    """The reference that tests compare its logits with: ``transformers``, ``golden``
    vectors, or published code that was read as ``text``."""
    caveat: Name | None = None
    """A warning for users: why a spec is not verified, or what it does not do."""
    # Defaults are constructed unchecked: to check one, its schema would be built twice.
    match: Match = Match.model_construct()
    text_in: Name | None = None
    """The config key that may hold the keys of the text model."""
    tensor_prefix: Name = ""
    """The prefix of all tensor names."""
    defaults: dict[Name, Constant] = {}
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
    """The number that ``{i}`` stands for in the tensor names of layer ``i``, where it
    is not ``i``."""
    norm: NormSpec
    block: tuple[StepSpec, ...]
    ops: dict[Name, OpSpec]
    embed: EmbedSpec = EmbedSpec.model_construct()
    embed_norm: NormUse | None = None
    streams: StreamsSpec | None = None
    hyper: HyperSpec | None = None
    history: HistorySpec | None = None
    final_norm: NormUse | None = None
    head: HeadSpec = HeadSpec.model_construct()
    positions: PositionsSpec | None = None
    prefix_encoder: PrefixEncoderSpec | None = None
    tokens: TokensSpec = TokensSpec.model_construct()
    tokenizer: Literal["glm"] | None = None
    """The formats a build reads besides tokenizer.json: vocabularies, variants and
    chats of the published GLM code."""
    layer_prefix: Name
    optional_prefix: Name | None = None
    old_names: dict[Name, Name] = {}
    weights: dict[Name, WeightUse]
    waive: dict[Name, Name] = {}
    constants: dict[Name, float] = {}
    """Waived tensors, by glob pattern, to the value that all their elements have."""
    beyond_layers: Name | None = None
    """The reason why a checkpoint may hold layers after the last one of the model."""
    quantization: Quantization | None = None

    @property
    def layer_root(self) -> str:
        """The prefix of the names of a layer's tensors."""
        return self.tensor_prefix + self.layer_prefix


class Variant(Section):
    """A named overlay, taken when ``when`` holds or the user asks for it."""

    about: Name
    when: Formula | None = None
    spec: dict[Name, Any] = {}
