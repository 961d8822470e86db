"""Weights: their place in a checkpoint, and their storage."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from glmc.frontends.language.kinds import Flag, Formula, Integer, Name, Text
from glmc.frontends.language.sections import Section, from_name


class AdapterSpec(Section):
    """A map through few channels beside a slot's own: the names of its two matrices,
    ``layout`` being that of the second."""

    rank: Integer
    down: Text
    up: Text
    layout: Text | None = None
    when: Flag = True


class WeightSpec(Section):
    """The place of a slot: module name, stored layout, presence of a bias.

    A bias that is not its module's ``.bias`` has ``bias_name``, the tensor's own. A
    name that begins with ``/`` is no layer's own: layers may share what it names.
    """

    name: Text
    layout: Text | None = None
    bias: Flag = False
    bias_name: Text | None = None
    bare: bool = False
    """The tensor is called as its module, without ``.weight``."""
    adapter: AdapterSpec | None = None


WeightUse = Annotated[WeightSpec, BeforeValidator(from_name)]


class RowQuantization(Section):
    """ChatGLM's weight-only format: int8 or int4 codes, one scale per row.

    ``bits`` is 4 or 8, or 0 or null for floats; ``embeddings`` tells whether embedding
    and head are quantised too, and not the layers alone.
    """

    format: Literal["rows"]
    bits: Formula
    embeddings: Flag = False


class PublishedQuantization(Section):
    """Any format that a ``quantization_config`` describes, and glmc reads.

    ``config`` is that object, or null for floats.
    """

    format: Literal["published"]
    config: Formula
    scale: Name | None = None
    """The name of float8 blocks' scales, where a module's matrix is called ``weight``;
    null: ``weight_scale_inv``."""
    experts: Formula | None = None
    """The format of experts, where another key says it: ``fp4``, with scales that are
    powers of two for 32 columns, or ``fp8`` or null for what ``config`` says."""
    called: dict[Name, Name] = {}  # noqa: RUF012  (pydantic copies it)
    """Endings of modules' names to what lists of modules in ``config`` have for
    them."""


Quantization = Annotated[
    RowQuantization | PublishedQuantization, Field(discriminator="format")
]
