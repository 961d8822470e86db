"""Where tokens stand: rotary embedding, biases by distance, fixed tables."""

from typing import Literal

from glmc.frontends.sections import Flag, Formula, Integer, Number, Section, Text


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


class SinusoidsSpec(Section):
    """Fixed positions instead of a learned table."""

    inclusive: bool = False
    offset: int = 0


class PositionsSpec(Section):
    """Positions of the first GLM models, by the ids they are read from."""

    kind: Literal["glm"]
    gmask: Integer
    mask: Integer
    sop: Integer
