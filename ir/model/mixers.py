"""Mixers: layers that carry a state of fixed size from token to token instead of
keys."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from glmc.ir.activations import ActivationName
from glmc.ir.model.weights import Norm, Projection, Weight
from glmc.ir.node import Node


class ShortConv(Node):
    """A causal convolution of each channel over its newest ``width`` tokens.

    Of what is convolved, the weight of ``q``, ``k`` or ``v`` has a row of ``width``
    numbers for each channel (axis ``Wc``), the last for the newest token.
    """

    width: Annotated[int, Field(ge=2)]
    act: ActivationName | None = None
    """The activation after the convolution and its bias."""
    q: Projection | None = None
    k: Projection | None = None
    v: Projection | None = None


class Decay(Node):
    """The decay of a state: a token leaves
    ``exp(-exp(a_log) · step)`` of it, step being ``softplus(project(x) + bias)``.

    With a ``floor`` it leaves ``exp(floor · sigmoid(exp(a_log) · (project(x) +
    bias)))``, never less than ``exp(floor)``.
    """

    of: Literal["head", "key"] = "head"
    """One decay for each head, or one for each channel of its keys."""
    floor: Annotated[float, Field(lt=0)] | None = None
    rank: PositiveInt | None = None
    """``project`` reads ``down(x)``, this wide (axis ``Rd``), where it is given."""
    down: Projection | None = None
    project: Projection
    scale: PositiveFloat = 1.0
    """A factor of what is projected."""
    bias: Weight | None = None
    a_log: Weight
    low: Annotated[float, Field(ge=0)] = 0.0
    """The least step."""
    high: PositiveFloat | None = None
    """The largest step; None: it has no bound."""
    steps: bool = False
    """True: values are multiplied by the step, as in Mamba-2."""


class SteadyDecay(Node):
    """A decay that no token changes (lightning attention, arXiv:2401.04658): a token
    leaves ``exp(-scale · 2^(-reach · (h + 1) / heads))`` of the state of head h."""

    reach: PositiveFloat = 8.0
    scale: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    """One number, or one for each of the block's layers."""


class Memory(Node):
    """Gates that are exponential (mLSTM, arXiv:2405.04517): a token leaves
    ``sigmoid(forget(x))`` of the state, adds ``exp(input(x))`` times its value at its
    key, and what is read is divided by what the same sum of keys alone would be, or 1.
    """

    input: Projection
    forget: Projection
    """Each a number for each head."""
    cap: PositiveFloat | None = None
    """Both become ``cap · tanh(x / cap)``."""
    eps: Annotated[float, Field(ge=0)] = 0.0
    """A number added to what is divided by."""


class MixerNorm(Node):
    """An RMSNorm of what a scan makes, with a gate ``act(project(x))``.

    ``norm_first`` gates what was normed, ``gate_first`` norms what was gated. Without
    an ``eps`` and a weight there is no norm, only the gate.
    """

    eps: PositiveFloat | None
    weight: Weight | None
    """A number for each channel of the part that is normed, or of all parts."""
    of: Literal["head", "group", "all"] = "head"
    """The parts that are normed by themselves: a head, the heads that share a key, or
    all."""
    act: Literal["silu", "sigmoid"]
    order: Literal["norm_first", "gate_first"] = "norm_first"
    centred: bool = False
    """True for a LayerNorm: the mean is taken off first."""
    weight_in: Literal["input", "f32"] = "input"
    """``input``: the normed value is rounded to the model's dtype before the weight."""
    rank: PositiveInt | None = None
    """``gate`` reads ``down(x)``, this wide (axis ``Rz``), where it is given."""
    down: Projection | None = None
    gate: Projection
    gate_scale: PositiveFloat = 1.0
    """A factor of what the gate's projection makes."""


class Mixer(Node):
    """A scan over tokens: each head has a matrix ``[key_dim, value_dim]`` in fp32.

    It decays, the token's value is written at its key, and it is read by the query.
    With ``beta`` the value replaces what is kept at that key, by this much: the gated
    delta rule (arXiv:2412.06464); without, it is added: Mamba-2 (arXiv:2405.21060),
    where a query is called C, a key B, a value x. ``groups`` heads have keys and
    queries of their own, which ``heads / groups`` heads in turn share.
    """

    kind: Literal["mixer"] = "mixer"
    heads: PositiveInt
    """Axis ``Hm``."""
    groups: PositiveInt
    """Axis ``Gm``; ``heads / groups`` is axis ``Rm``."""
    key_dim: PositiveInt
    """Axis ``Dk``."""
    value_dim: PositiveInt
    """Axis ``Dv``."""
    scale: PositiveFloat = 1.0
    """A factor of the scan's result."""
    l2_eps: PositiveFloat | None = None
    """Queries and keys are divided by their length, ``sqrt(Σ x² + l2_eps)``."""
    q: Projection
    k: Projection
    v: Projection
    q_scale: PositiveFloat = 1.0
    """A factor of queries before their convolution; so too ``k_scale``, ``v_scale``."""
    k_scale: PositiveFloat = 1.0
    v_scale: PositiveFloat = 1.0
    act: ActivationName | None = None
    """The activation of queries, keys and values where nothing is convolved."""
    conv: ShortConv | None = None
    decay: Decay | None = None
    """None: there is a ``steady`` decay, or a ``memory``."""
    steady: SteadyDecay | None = None
    memory: Memory | None = None
    beta: Projection | None = None
    """A number of each head, through a sigmoid."""
    beta_scale: PositiveFloat = 1.0
    """A factor after the sigmoid."""
    skip: Weight | None = None
    """A number of each head: so much of the value is added to the result."""
    norm: MixerNorm
    o: Projection


class GatedConv(Node):
    """``o(q(x) · conv(k(x) · v(x)))``: a short convolution between two gates (LFM2).

    All are as wide as the hidden state, here axis ``Ec``; what is convolved has the
    weight ``conv.v``.
    """

    kind: Literal["gated_conv"] = "gated_conv"
    q: Projection
    k: Projection
    v: Projection
    conv: ShortConv
    o: Projection


class Selective(Node):
    """A scan of channels, each of which keeps ``state`` numbers that decay by
    themselves: Mamba (arXiv:2312.00752).

    Of ``v``, projected and convolved, all else is made: the keys and queries that the
    channels share, and through few channels each channel's step s. A token leaves
    ``exp(-exp(a_log) · s)`` of what is kept. What is read, and ``skip · v``, goes
    through a gate ``act(gate(x))``.
    """

    kind: Literal["selective"] = "selective"
    channels: PositiveInt
    """Axis ``Ic``."""
    state: PositiveInt
    """Axis ``Ns``; keys (B) and queries (C) are as wide."""
    rank: PositiveInt
    """The width of what steps are made of, axis ``Rd``."""
    heads: PositiveInt = 1
    """Equal parts of the channels, each with keys, queries and steps made of itself
    alone: stacks of matrices, ``[Hb, out, in]``, a part being ``Bi`` wide."""
    v: Projection
    conv: ShortConv
    step_down: Projection
    step: Projection
    k: Projection
    q: Projection
    step_norm: Norm | None = None
    """Norm of what steps are made of."""
    k_norm: Norm | None = None
    q_norm: Norm | None = None
    a_log: Weight
    """A number for each channel and each number it keeps."""
    skip: Weight
    """A number for each channel."""
    act: ActivationName
    gate: Projection
    o: Projection
