"""Build the embedding, the head and the other parts outside the layers."""

from glmc.frontends.build.making import Maker, builds
from glmc.frontends.spec import (
    EmbedSpec,
    HeadSpec,
    PositionsSpec,
    PrefixEncoderSpec,
    StreamsSpec,
    TokensSpec,
)
from glmc.ir import model as m


def embedding(make: Maker, spec: EmbedSpec) -> m.Embedding:
    """Make the embedding; positions are computed or learned, or there are none."""
    known = (
        {}
        if spec.sinusoids is None
        else {"positions": make.part("embed.sinusoids", spec.sinusoids)}
    )
    norm = make.norm("embed_norm", make.spec.embed_norm)
    return make.node(m.Embedding, "embed", spec, norm=norm, **known)


def head(make: Maker, spec: HeadSpec) -> m.Head | m.Pooler | m.Classifier | None:
    """Make the head, the pooler or the classifier; None where the model answers with
    hidden states."""
    if spec.kind == "none":
        return None
    if spec.kind == "pooler":
        return make.node(m.Pooler, "head", spec)
    if spec.kind == "classifier":
        return make.node(m.Classifier, "head", spec)
    slot = "embed" if tied(make) else "head"
    return make.node(m.Head, "head", spec, weight=make.slots.weight(slot))


def tied(make: Maker) -> bool:
    """Tell whether the head's weight is the embedding's, which has words and no
    classes."""
    shared = make.resolve.flag("head.tied", make.spec.head.tied)
    return shared and make.resolve.value(make.spec.head.labels) is None


@builds(PositionsSpec)
def positions(make: Maker, what: str, spec: PositionsSpec) -> m.GlmPositions:
    """Make the token ids that positions are counted from."""
    made = make.node(m.GlmPositions, what, spec)
    for name, value in made:
        _check_token(make, f"{what}.{name}", getattr(spec, name), value)
    return made


@builds(PrefixEncoderSpec)
def prefix_encoder(make: Maker, what: str, spec: PrefixEncoderSpec) -> m.PrefixEncoder:
    """Make the prefix encoder; without a projection its rows are keys and values."""
    projected = make.resolve.flag(f"{what}.projection", spec.projection)
    known = {} if projected else {"row": "states"}
    return make.node(m.PrefixEncoder, what, spec, **known)


@builds(StreamsSpec)
def streams(make: Maker, what: str, spec: StreamsSpec) -> m.Streams:
    """Make the residual streams, one of which layers work on."""
    made = make.node(m.Streams, what, spec)
    if made.active >= made.count:
        expected = f"must be at most {made.count - 1}"
        raise make.refusal(what, spec, "active", expected, made.active)
    return made


def tokens(make: Maker, spec: TokensSpec, read: m.Tokens) -> m.Tokens:
    """Complete the token ids that were read by the spec's."""
    found: dict[str, int | tuple[int, ...]] = {}
    for name, given in spec:
        if getattr(read, name) in (None, ()) and make.resolve.value(given):
            value = make.resolve.size(f"tokens.{name}", given)
            _check_token(make, f"tokens.{name}", given, value)
            found[name] = (value,) if name == "eos" else value
    return read.model_copy(update=found)


def _check_token(make: Maker, what: str, given: object, value: int) -> None:
    """Refuse an id that the model has no embedding for."""
    vocab = make.resolve.scope.variables["V"]
    assert isinstance(vocab, int)
    if value >= vocab:
        expected = f"must be below the vocabulary's size, {vocab}"
        raise make.resolve.error(what, given, expected, value)
