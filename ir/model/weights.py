"""Weights: their place in a checkpoint, their storage, linear maps and norms."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from glmc.ir.leaves import Packing
from glmc.ir.node import Node


class RowQuantized(Node):
    """int8 codes with one scale per output row, as ChatGLM's ``quantization_bit``.

    With 4 bits, two codes lie in a byte, the even column in the high nibble.
    """

    bits: Literal[4, 8]
    suffix: str = "_scale"
    """The scale's name is the tensor's with this appended."""


class BlockQuantized(Node):
    """float8 (e4m3) codes with one scale per block of rows and columns, or for each
    row (``"row"``) or the whole matrix (``"matrix"``)."""

    block: tuple[PositiveInt, PositiveInt] | Literal["row", "matrix"] = (128, 128)
    suffix: str = "_scale_inv"
    """The scale's name is the tensor's with this appended, or where it begins with a
    point in the place of ``.weight``."""
    sure: bool = False
    """True where the config is right about which matrices are codes; else a matrix that
    it calls quantised may be stored as floats."""


class GroupQuantized(Node):
    """int4 or int8 codes with a scale, and with ``zeros`` a zero point, per group of
    columns of each row; see :data:`~glmc.ir.recipe.Packing` for where they lie."""

    packing: Packing
    bits: Literal[4, 8]
    group: PositiveInt | None
    """Columns that share a scale; None: all of a row's."""
    zeros: bool = False
    ordered: bool = True
    """True where the columns of a group are neighbours; else there is an index."""


class FloatQuantized(Node):
    """Floats of 4 bits (e2m1) or 8 (e4m3) with a scale per group of columns of each
    row, and maybe one more for the whole matrix: NVFP4, MXFP4 and MXFP8."""

    bits: Literal[4, 8]
    group: PositiveInt
    """Columns that share a scale."""
    powers: bool
    """Scales are bytes, two to the power of them less 127; else they are e4m3."""
    codes: str = "weight"
    """The ending of the codes' name where a module's has ``weight``; so of the scale's
    and the factor's."""
    scale: str = "weight_scale"
    factor: str | None = None
    """The scale of the whole matrix, by which the others are multiplied."""
    divided: bool = False
    """They are divided by it instead."""


class Mxfp4Quantized(Node):
    """fp4 (e2m1) codes with a shared exponent for 32 of them, as gpt-oss's experts.

    The stored matrix is the float one with its last two dimensions swapped.
    """


Storage = (
    RowQuantized | BlockQuantized | GroupQuantized | FloatQuantized | Mxfp4Quantized
)


class Weight(Node):
    """The place of a slot's weight in the checkpoint."""

    tensor: str
    """Tensor name as published; ``{i}`` stands for the layer's index."""
    layout: str | None = None
    """The stored layout, e.g. ``"[q:(H D)|k:(K D)|v:(K D)] E"``; None: as the slot
    itself is laid out."""
    part: str | None = None
    """The part of a ``[a:..|b:..]`` layout that this slot is."""
    storage: Storage | None = None
    """The format of quantised tensors; None: the tensor is stored as floats."""


class Adapter(Node):
    """A map through few channels beside a projection (LoRA, arXiv:2106.09685)."""

    rank: PositiveInt
    """Axis ``Ra``."""
    down: Weight
    up: Weight


class Projection(Node):
    """y = x W^T + b, with an adapter also + up(down(x))."""

    weight: Weight
    bias: Weight | None = None
    adapter: Adapter | None = None


class NormGate(Node):
    """A low-rank gate of a norm's result y: y times sigmoid(up(silu(down(y))))."""

    rank: PositiveInt
    """Axis ``Rg``."""
    down: Projection
    up: Projection


class Norm(Node):
    """RMSNorm or LayerNorm over the last dimension, statistics in fp32."""

    kind: Literal["rms", "layer"]
    eps: PositiveFloat
    weight: Weight | None
    """None: the norm only normalises."""
    bias: Weight | None = None
    unit_offset: bool = False
    """The stored weight w stands for 1 + w."""
    weight_in: Literal["input", "f32"] = "input"
    """RMSNorm only. ``input``: round to the input's dtype, then multiply by the weight
    (transformers). ``f32``: multiply in fp32, round once (ChatGLM's own code)."""
    gate: NormGate | None = None
