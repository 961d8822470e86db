"""Positions of tokens: rotary embedding, biases by distance, fixed tables."""

from typing import Literal

from glmc.frontends.language.derived import Makes
from glmc.frontends.language.kinds import Flag, Formula, Number
from glmc.frontends.language.sections import Section
from glmc.ir import model as m


class LongRopeFactors(Section):
    """Factors of cos and sin of longrope, within and beyond the original context."""

    short: Number | None
    long: Number | None


class RopeSpec(Section, makes=Makes(m.Rope, left=("theta", "scaling"))):
    """Rotary embedding: ``params`` as the function ``rope()`` gives them.

    Layers for which ``when`` is false have none. ``long_factors`` replace, where they
    are not null, the factor that longrope has by itself.
    """

    params: Formula
    when: Flag = True
    long_factors: LongRopeFactors | None = None


class AlibiSpec(Section, makes=Makes(m.Alibi)):
    """Biases by distance instead of positions, where ``when`` is true."""

    when: Flag = True


class SinusoidsSpec(Section, makes=Makes(m.Sinusoids)):
    """Fixed positions instead of a learned table."""


class PositionsSpec(Section, makes=Makes(m.GlmPositions)):
    """Positions of the first GLM models, by the ids they are read from."""

    kind: Literal["glm"]
