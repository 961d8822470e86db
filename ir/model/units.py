"""Recurrent units of channels: what they keep are vectors, not matrices."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from glmc.ir.activations import ActivationName
from glmc.ir.model.mixers import ShortConv
from glmc.ir.model.weights import Projection, Weight
from glmc.ir.node import Node


class Lru(Node):
    """A gated linear recurrent unit (RG-LRU, arXiv:2402.19427) beside a gate
    ``act(gate(x))``.

    Of ``v``, projected and convolved, its two gates are made, by a matrix for each of
    ``heads`` equal parts. A token leaves ``exp(-power · sigmoid(r) · softplus(rate))``
    of what a channel keeps.
    """

    kind: Literal["lru"] = "lru"
    channels: PositiveInt
    """Axis ``Ic``."""
    heads: PositiveInt
    """Axis ``Hb``; a part is ``channels / heads`` wide, axes ``Bi`` and ``Bo``."""
    power: PositiveFloat = 8.0
    v: Projection
    conv: ShortConv
    input: Projection
    """A stack ``[Hb, Bi, Bo]``, as published; its bias has a row for each part."""
    recurrence: Projection
    rate: Weight
    """A number for each channel."""
    act: ActivationName
    gate: Projection
    o: Projection


class TimeMix(Node):
    """A mean of values that favours near tokens, of each channel, behind a gate
    (RWKV-4, arXiv:2305.13048).

    Keys, values and the gate are made of a token blended with the one before it, each
    with weights of its own.
    """

    kind: Literal["time_mix"] = "time_mix"
    channels: PositiveInt
    """Axis ``Ic``."""
    k_blend: Weight
    v_blend: Weight
    gate_blend: Weight
    k: Projection
    v: Projection
    gate: Projection
    rate: Weight
    """The logarithm of how fast a token's weight falls, for each channel."""
    first: Weight
    """A bonus for the exponent of a token's own weight, for each channel."""
    o: Projection


class ChannelMix(Node):
    """``sigmoid(gate(y)) · down(act(up(x)))``, x and y being blends of a token with the
    one before it (RWKV-4)."""

    kind: Literal["channel_mix"] = "channel_mix"
    ff: PositiveInt
    act: ActivationName
    up_blend: Weight
    gate_blend: Weight
    gate: Projection
    up: Projection
    down: Projection
