"""What stands before the first layer and after the last."""

from typing import Literal

from glmc.frontends.sections import Flag, Integer, Number, Section, Text
from glmc.frontends.spec.norms import NormUse
from glmc.frontends.spec.positions import SinusoidsSpec


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


class StreamsSpec(Section):
    """Several residual streams (AltUp); slots ``streams_spread``, ``streams_gather``,
    and of each layer ``altup_router``, ``altup_predict``, ``altup_correct`` and
    ``altup_scale``."""

    count: Integer
    active: Integer = 0
    router_norm: NormUse
    router_scale: Number = 1.0


class EmbedSpec(Section):
    """What happens to a token's vector before the first layer."""

    scale: Number | None = None
    scale_rounded: Flag = False
    sinusoids: SinusoidsSpec | None = None
    per_layer: PerLayerEmbedSpec | None = None


class PrefixEncoderSpec(Section):
    """Learned keys and values before every sequence, where ``length`` is not null."""

    length: Integer
    projection: Flag = False
    row: Literal["states", "hidden"] = "states"


class TransformSpec(Section):
    """norm(act(dense(x))) before the logits; the slot ``transform`` is the dense."""

    act: Text
    norm: NormUse


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


class TokensSpec(Section):
    """Special tokens of configs that leave them out."""

    bos: Integer | None = None
    eos: Integer | None = None
    pad: Integer | None = None
