"""Norms: the one that a name stands for, and the differences of single ones."""

from typing import Annotated

from pydantic import BeforeValidator

from glmc.frontends.language.derived import SECTIONS, Makes
from glmc.frontends.language.kinds import Flag, Text
from glmc.frontends.language.sections import Section, from_name
from glmc.ir import model as m


class NormSpec(Section, makes=Makes(m.Norm, left=("gate",))):
    """The norm that names in ``block`` and ``qk_norm`` stand for."""

    weight: Flag = True
    bias: Flag = False


class NormGateSpec(Section, makes=Makes(m.NormGate)):
    """A low-rank gate of a norm's result y: y times sigmoid(up(silu(down(y)))),
    ``rank`` wide between; ``down`` and ``up`` are names of modules."""

    down: Text
    up: Text
    when: Flag = True


class NormRef(Section, makes=Makes(m.Norm, partial=True)):
    """One norm: its name, null for none, and its differences from ``norm``."""

    name: Text | None = None
    weight: Flag | None = None
    bias: Flag | None = None
    bare: bool | None = None
    """The weight is called as the norm, without ``.weight``."""


NormUse = Annotated[NormRef, BeforeValidator(from_name)]
SECTIONS[m.Norm] = NormUse
