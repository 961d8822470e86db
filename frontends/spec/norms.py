"""Norms: the one that a name stands for, and how single ones differ."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from glmc.frontends.sections import Flag, Integer, Number, Section, Text, from_name


class NormSpec(Section):
    """The norm that names in ``block`` and ``qk_norm`` stand for."""

    kind: Literal["rms", "layer"]
    eps: Number
    weight: Flag = True
    bias: Flag = False
    unit_offset: Flag = False
    weight_in: Literal["input", "f32"] = "input"


class NormGateSpec(Section):
    """What a norm gives times sigmoid(up(silu(down of it))), ``rank`` wide between."""

    rank: Integer
    down: Text
    up: Text
    when: Flag = True


class NormRef(Section):
    """One norm: its name, null for none, and how it differs from ``norm``."""

    name: Text | None = None
    kind: Literal["rms", "layer"] | None = None
    eps: Number | None = None
    weight: Flag | None = None
    bias: Flag | None = None
    unit_offset: Flag | None = None
    weight_in: Literal["input", "f32"] | None = None
    bare: bool | None = None
    """The weight is called as the norm, without ``.weight``."""
    gate: NormGateSpec | None = None


NormUse = Annotated[NormRef, BeforeValidator(from_name)]
