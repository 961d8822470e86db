"""Rotary position embedding and the ways to stretch it."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from glmc.ir.node import Node

RopeStyle = Literal["half", "interleaved"]


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
    long_attention_factor: PositiveFloat | None = None
    """With the long divisors; None: the same as with the short ones."""


class ProportionalScaling(Node):
    """Only the ``turning`` fastest pairs of a head turn, at whole-head frequencies.

    Pair j of the ``dim / 2`` turns by ``pos · theta^(-2j/dim) / factor`` below
    ``turning`` and not at all from there on (Gemma 4). This is not a partial rope: the
    pairs that stand still lie between those that turn.
    """

    turning: NonNegativeInt
    factor: PositiveFloat = 1.0


RopeScaling = (
    LinearScaling
    | DynamicScaling
    | Llama3Scaling
    | YarnScaling
    | LongRopeScaling
    | ProportionalScaling
)


class Rope(Node):
    """Rotary position embedding on the first ``dim`` channels of each head.

    With several ``sections`` (ChatGLM-6B) these channels are cut into as many equal
    parts, and each part turns by a stream of positions of its own.
    """

    dim: PositiveInt
    theta: PositiveFloat
    style: RopeStyle
    """``half`` pairs channel j with j + dim/2, ``interleaved`` pairs 2j with 2j + 1;
    within a section, where there are several."""
    reverse: bool = False
    """Turn the other way, by negative angles."""
    scaling: RopeScaling | None = None
    sections: PositiveInt = 1
    frequencies: Literal["f32", "f16"] = "f32"
    """``f16``: frequencies are rounded to fp16, whatever the model computes in."""
