"""The parts of a model outside its layers: embedding, streams, prefix encoder, head."""

from typing import Literal

from glmc.frontends.language.derived import Makes, Slot
from glmc.frontends.language.kinds import Flag, Integer, Text
from glmc.frontends.language.sections import Section
from glmc.frontends.spec.positions import SinusoidsSpec
from glmc.ir import model as m

_PER_LAYER = Makes(
    m.PerLayerEmbedding, {"weight": "layer_embed", "project": "layer_embed_proj"}
)


class PerLayerEmbedSpec(Section, makes=_PER_LAYER, unless_null="width"):
    """sum_scale · (scale · token + norm(project_scale · project(x))) for every layer.

    ``width`` is that of a layer's part, null for none; ``vocab`` the table's rows.
    """


_STREAMS = Makes(m.Streams, {"spread": "streams_spread", "gather": "streams_gather"})
_ALTUP = Makes(
    m.AltUp,
    slots={
        "router": "altup_router",
        "predict": "altup_predict",
        "correct": "altup_correct",
        "scale": "altup_scale",
    },
)


class StreamsSpec(Section, makes=(_STREAMS, _ALTUP)):
    """Several residual streams (AltUp); slots ``streams_spread``, ``streams_gather``,
    and of each layer ``altup_router``, ``altup_predict``, ``altup_correct`` and
    ``altup_scale``."""


_EMBED = Makes(
    m.Embedding,
    slots={"weight": "embed", "project": "embed_proj"},
    left=("norm",),
)


class EmbedSpec(Section, makes=_EMBED):
    """The embedding: all that is done to a token's vector before the first layer."""

    sinusoids: SinusoidsSpec | None = None


_PROJECTED = {
    "table": "prefix",
    "up": Slot("prefix_up", when="projection"),
    "down": Slot("prefix_down", when="projection"),
}


class PrefixEncoderSpec(
    Section, makes=Makes(m.PrefixEncoder, _PROJECTED), unless_null="length"
):
    """Learned keys and values before every sequence, where ``length`` is not null."""

    projection: Flag = False


class TransformSpec(Section, makes=Makes(m.Transform, {"dense": "transform"})):
    """norm(act(dense(x))) before the logits; the slot ``transform`` is the dense."""


_HEAD = Makes(
    m.Head, {"bias": Slot("head", bias=True), "project": "head_proj"}, left=("weight",)
)
_POOLER = Makes(m.Pooler, {"dense": "pooler"})
_CLASSIFIER = Makes(m.Classifier, {"dense": "pooler", "score": "score"})


class HeadSpec(Section, makes=(_HEAD, _POOLER, _CLASSIFIER)):
    """Hidden state to logits (``lm``), to one vector (``pooler``), to a number for each
    class of a sequence (``classifier``, slots ``pooler`` and ``score``), or left as it
    is."""

    kind: Literal["lm", "pooler", "classifier", "none"] = "lm"
    tied: Flag = False
    act: Text = "tanh"
    labels: Integer | None = None


class TokensSpec(Section):
    """Special tokens of configs that leave them out."""

    bos: Integer | None = None
    eos: Integer | None = None
    pad: Integer | None = None
