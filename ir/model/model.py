"""The model around its sublayers: steps, blocks, embedding, head, prefix encoder."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from glmc.ir.activations import ActivationName
from glmc.ir.model.sublayers import Attention, Chain, Mla, Sublayer
from glmc.ir.model.weights import Norm, Projection, Weight
from glmc.ir.node import Node

DType = Literal["f32", "f16", "bf16"]


class HyperMaps(Node):
    """The maps of all streams of a token to the coefficients of hyper-connections, in
    fp32: ``fn · x · scale + base``, x over its root mean square."""

    fn: Weight
    """``[coefficients, streams · hidden]``, axes ``Nc`` and ``Nh E``."""
    base: Weight
    """A number for each coefficient."""
    scale: Weight
    """A number for each kind of coefficient, axis ``Ns``."""


class ResidualMix(Node):
    """A mixture of the residual stream and its snapshots, in fp32: by the softmax over
    them of ``project · rms_norm(row)``."""

    norm: Weight
    project: Weight
    """A row, ``[1, hidden]``."""
    eps: PositiveFloat


class ResidualHistory(Node):
    """Snapshots of the residual stream, of which every sublayer and the head read a
    mixture (attention residuals, Kimi K3)."""

    head: ResidualMix


class Step(Node):
    """One residual step: ``after(residual_scale · r + scale · post(op(pre(x))))``; what
    is None is left out."""

    op: Sublayer
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    """Norm of the sum: the "post-norm" of the first Transformer (arXiv:1706.03762)."""
    residual: Literal["stream", "normed"] = "stream"
    """The summand r: ``stream`` is x, ``normed`` is pre(x)."""
    residual_scale: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    """One number, or one for each of the block's layers; so too ``scale``."""
    scale: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    parallel: bool = False
    """Reads the x that the step before it read, and is added to that step's sum."""
    shortcut: Literal["begin", "end"] | None = None
    """``begin``: what the step makes is not added, but handed to the next layer.
    ``end``: what the layer before handed on is added after this step's sum."""
    aside: Chain | None = None
    """A chain whose result is added to what ``pre`` reads, and not to the stream."""
    hyper: HyperMaps | None = None
    """Given where the model has :class:`HyperStreams`."""
    mix: ResidualMix | None = None
    """Given where the model has a :class:`ResidualHistory`."""
    snapshot: bool = False
    """The stream is kept as a snapshot once the step has read its mixture, and begins
    anew with what the step makes."""
    others: bool = False
    """With :class:`AltUp`: reads the corrected stream, times ``AltUp.scale``, and is
    added to all streams but the first. Such steps are the last."""


class AltUp(Node):
    """The maps by which a block works on one of several residual streams
    (arXiv:2301.13310).

    Before its steps every stream becomes a mixture of all, and afterwards each follows
    the change that the steps made to the active one. The coefficients are linear maps
    of tanh(router(router_scale · router_norm(x))), x being the active stream.
    """

    router: Projection
    """From the hidden state to the number of streams, axis ``N``."""
    router_norm: Norm
    router_scale: PositiveFloat = 1.0
    predict: Projection
    """From N to a matrix of N by N, axis ``NN``."""
    correct: Projection
    scale: Weight | None = None
    """A factor for each channel that steps for the ``others`` read."""


class Block(Node):
    """A kind of decoder block and the layers that are of this kind."""

    name: str
    """An identifier; the emitted class is its CamelCase."""
    layers: tuple[int, ...]
    prefix: str
    """The prefix of a layer's tensor names, e.g. ``model.layers.{i}.``"""
    steps: tuple[Step, ...]
    numbers: tuple[int, ...] | None = None
    """The number that ``{i}`` stands for in each of the layers; None: their own."""
    kv_from: tuple[NonNegativeInt, ...] = ()
    """For each of the layers the earlier one whose keys and values it attends to; empty
    where layers have their own."""
    scalar: Weight | None = None
    """A learned number, by which the hidden state is multiplied at last."""
    altup: AltUp | None = None
    """Given where the model has :class:`Streams`."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of its steps."""
        found = (one for step in self.steps for one in (step.op, step.aside))
        return tuple(one for one in found if isinstance(one, Chain))

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """The sublayers of its steps, and those that chains are made of."""
        linked = (link.op for chain in self.chains for link in chain.links)
        return (*(step.op for step in self.steps), *linked)


class Sinusoids(Node):
    """Fixed positions (arXiv:1706.03762): sines of all frequencies, then cosines.

    Frequencies fall from 1 to 1/10000, which is the last one itself if ``inclusive``
    and else would be the next. Position p is in row ``p + offset``.
    """

    inclusive: bool = False
    offset: NonNegativeInt = 0


class PerLayerEmbedding(Node):
    """A second embedding of the tokens, with a part for every layer (Gemma 3n, 4).

    ``sum_scale · (scale · token + norm(project_scale · project(x)))``, x being what the
    first layer reads. The token's row and the projection are cut into as many parts of
    ``width`` as there are layers (axes ``L Ep``), and the norm is of each part.
    """

    width: PositiveInt
    vocab: PositiveInt
    """Rows of the table, axis ``Vp``; tokens beyond it have row 0."""
    weight: Weight
    scale: PositiveFloat = 1.0
    scale_rounded: bool = False
    """The factor is rounded to the dtype of the embedding first."""
    project: Projection
    project_scale: PositiveFloat = 1.0
    norm: Norm | None = None
    sum_scale: PositiveFloat = 1.0


class HyperStreams(Node):
    """Several residual streams that hyper-connections mix (arXiv:2409.19606).

    All begin as what was embedded. Each step reads a mixture of them, by sigmoids plus
    ``eps``, and hands what it makes out to all, times ``reach`` · sigmoid + ``floor``;
    with ``iterations`` streams are mixed among one another, too, by a matrix that so
    many of Sinkhorn's iterations make doubly stochastic. The head reads a mixture, or
    without maps of its own the mean.
    """

    count: Annotated[int, Field(ge=2)]
    """Axis ``Nh``."""
    eps: PositiveFloat
    norm_eps: PositiveFloat
    iterations: NonNegativeInt = 0
    reach: PositiveFloat = 2.0
    floor: float = 0.0
    head: HyperMaps | None = None


class Streams(Node):
    """Several residual streams side by side (AltUp, Gemma 3n).

    The first is what was embedded, the others linear maps of it that are as long. The
    head reads the mean of the first and of linear maps of the others, as long again.
    """

    count: Annotated[int, Field(ge=2)]
    active: NonNegativeInt = 0
    """The stream that layers work on."""
    spread: Weight
    """A matrix for each stream but the first; ``{x}`` in a name is its index."""
    gather: Weight


AnyStreams = Streams | HyperStreams | ResidualHistory


class Embedding(Node):
    """The embedding of token ids: ``norm(scale · token + type + place)``."""

    weight: Weight
    scale: PositiveFloat | None = None
    scale_rounded: bool = False
    """The factor is rounded to the dtype of the embedding first."""
    project: Projection | None = None
    """From the embedding's own width, axis ``W``, to the hidden state's."""
    positions: Weight | Sinusoids | None = None
    """Absolute positions, learned or computed."""
    padding: NonNegativeInt | None = None
    """The id of padding, which is its place too; other tokens are counted from the next
    place (RoBERTa). None: all tokens are counted, from 0. Encoders only."""
    types: Weight | None = None
    """Learned token types (segments), ``Model.type_vocab`` of them."""
    norm: Norm | None = None
    per_layer: PerLayerEmbedding | None = None
    """The embedding of which :class:`PerLayerInput` of each layer reads its part."""


class Transform(Node):
    """``norm(act(dense(x)))``: the layer before the logits of a masked language
    model."""

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
    """The width of a row: that of the keys and values of all layers together (axis
    ``S``), or that of a hidden state (``E``), which needs a projection."""
    up: Projection | None = None
    """To a hidden state."""
    down: Projection | None = None
    """From a hidden state to keys and values."""


class Head(Node):
    """Hidden state to logits. Tied: the weight is the embedding's own tensor."""

    weight: Weight
    labels: PositiveInt | None = None
    """Classes of a sequence in the place of tokens, axis ``Cl``: a model that scores
    texts and generates none."""
    bias: Weight | None = None
    transform: Transform | None = None
    project: Projection | None = None
    """To the embedding's own width, axis ``W``, before the logits."""
    normalised: bool = False
    """Rows of the weight are divided by their length."""
    pre_scale: PositiveFloat = 1.0
    """A factor of the hidden state."""
    scale: PositiveFloat = 1.0
    """A factor of the logits."""
    softcap: PositiveFloat | None = None
    """Logits become ``softcap · tanh(logit / softcap)``."""


class Pooler(Node):
    """``act(dense(x[0]))``: one vector for a sequence, from its first token."""

    dense: Projection
    act: ActivationName


class Classifier(Node):
    """``score(norm(act(dense(x[0]))))``: a number for each class of a sequence, from
    its first token."""

    labels: PositiveInt
    """The classes, axis ``Cl``."""
    dense: Projection
    act: ActivationName
    norm: Norm | None = None
    score: Projection
    """To the classes."""


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


class Expected(Node):
    """Values that checkpoint tensors are assumed to have; ``load`` checks them."""

    pattern: str
    """A glob over tensor names."""
    kind: Literal["all", "order", "same", "below"]
    """``all`` elements have the value; columns are in ``order``, in groups of so many;
    the tensor is the ``same`` as the one of that name; all are from 0 on and ``below``
    the value."""
    value: float | str
    otherwise: str
    """The consequence where they have other values, and what to do."""
    bound: bool = False
    """True where the model reads these tensors; else it waives them."""


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
    head: Head | Pooler | Classifier | None
    """None: the model answers with the last hidden state."""
    streams: AnyStreams | None = None
    """None: there is one residual stream."""
    positions: GlmPositions | None = None
    """The rule that derives positions from the ids; None: tokens are counted."""
    prefix_encoder: PrefixEncoder | None = None
    tokens: Tokens = Tokens()
    tokenizer: Literal["glm"] | None = None
    """The reader of its vocabulary besides tokenizer.json: that of the published GLM
    code, with its formats, variants and chats."""
    optional_prefix: str | None = None
    """Checkpoints saved from the headless model leave this prefix out of names."""
    old_names: tuple[OldName, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    expected: tuple[Expected, ...] = ()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(len(block.layers) for block in self.blocks)

    @property
    def scores(self) -> bool:
        """True of a decoder that answers classes of a sequence, and no tokens."""
        return isinstance(self.head, Head) and self.head.labels is not None

    @property
    def is_encoder(self) -> bool:
        """True where every token sees every other: no cache, no generation."""
        steps = [op for block in self.blocks for op in block.sublayers]
        attending = [op for op in steps if isinstance(op, Attention | Mla)]
        full = [isinstance(op, Attention) and op.mask == "full" for op in attending]
        return bool(full) and all(full)
