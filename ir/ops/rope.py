"""Rotary position embedding (arXiv:2104.09864): tables of angles, and the rotation.

A table is computed once per call from the positions and shared by all layers. Each
scaling is an op of its own, so that an emitted model holds the one formula it needs.
"""

from typing import Literal

from glmc.ir.cost import Call
from glmc.ir.op import Op, Types, Value, expect
from glmc.ir.placing import Pointwise
from glmc.ir.types import TensorType

RopeStyle = Literal["half", "interleaved"]


class RopeTable(Op):
    """cos and sin of pos · theta^(-2j/dim), in fp32."""

    mnemonic = "rope_table"
    pos: Value
    dim: int
    theta: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        pos = types["pos"]
        expect(pos.dtype == "i64", f"positions must be i64, not {pos}")
        expect(self.dim % 2 == 0, f"rotary dim {self.dim} is odd")
        table = TensorType(dtype="f32", dims=(*pos.dims, self.dim // 2))
        return (table, table)

    def flops(self, types: Types, call: Call) -> int:
        """Count an angle, its cosine and its sine, each as one operation."""
        return 3 * call.size(self.results[0].type.dims)


class RopeTableLinear(RopeTable):
    """Position interpolation (arXiv:2306.15595): frequencies divided by factor."""

    mnemonic = "rope_table_linear"
    factor: float


class RopeTableDynamic(RopeTable):
    """NTK-aware: theta grows once the longest sequence passes max_positions."""

    mnemonic = "rope_table_dynamic"
    steady_until = "max_positions"
    factor: float
    max_positions: int


class RopeTableLlama3(RopeTable):
    """Llama 3.1: long wavelengths interpolated, short ones kept, a ramp between."""

    mnemonic = "rope_table_llama3"
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


class RopeTableYarn(RopeTable):
    """YaRN (arXiv:2309.00071): interpolation by parts; cos and sin scaled."""

    mnemonic = "rope_table_yarn"
    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    attention_factor: float
    truncate: bool


class RopeTableLongRope(RopeTable):
    """LongRoPE (arXiv:2402.13753): one divisor per frequency, short or long.

    The tables carry ``attention_factor``, or with the long divisors
    ``long_attention_factor`` where there is one.
    """

    mnemonic = "rope_table_longrope"
    steady_until = "original_max_positions"
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    attention_factor: float
    long_attention_factor: float | None = None


class RopeTableProportional(RopeTable):
    """The first ``turning`` frequencies, over factor; the other pairs stand still."""

    mnemonic = "rope_table_proportional"
    turning: int
    factor: float = 1.0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        fits = 0 <= self.turning <= self.dim // 2
        expect(fits, f"{self.turning} of {self.dim // 2} pairs cannot turn")
        return super().infer(types)


class RopeTableSections(RopeTable):
    """One table for several streams of positions ``[B,S,T]``, side by side.

    Each stream has ``dim / S`` of the channels and frequencies theta^(-2j/(dim/S)),
    rounded to fp16 where ``frequencies`` says so (ChatGLM-6B keeps them in a buffer
    that is fp16 even when the model computes in fp32).
    """

    mnemonic = "rope_table_sections"
    frequencies: Literal["f32", "f16"] = "f32"

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        pos = types["pos"]
        expect(pos.dtype == "i64", f"positions must be i64, not {pos}")
        expect(len(pos.dims) == 3, f"positions must be [B,S,T], not {pos}")
        batch, sections, tokens = pos.dims
        fits = self.dim % (2 * int(sections)) == 0
        expect(fits, f"rotary dim {self.dim} does not make {sections} sections")
        table = TensorType(dtype="f32", dims=(batch, tokens, self.dim // 2))
        return (table, table)


class Rope(Op):
    """Rotate ``2 · cos.shape[-1]`` channels of each head from ``first`` on.

    The other channels pass through.

    ``half`` pairs channel j with j + dim/2, ``interleaved`` pairs 2j with 2j + 1. With
    several ``sections`` these channels are that many equal parts, paired each within
    itself, and the table is cut likewise. ``reverse`` turns by negative angles.
    """

    mnemonic = "rope"
    placing = Pointwise(linear="first")
    x: Value
    cos: Value
    sin: Value
    style: RopeStyle
    sections: int = 1
    first: int = 0
    reverse: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, cos, sin = types["x"], types["cos"], types["sin"]
        expect(len(x.dims) == 4, f"rope takes [B,T,heads,width], not {x}")
        expect(cos == sin, f"cos {cos} is not sin {sin}")
        fits = self.first + 2 * int(cos.dims[-1]) <= int(x.dims[-1])
        expect(fits, f"table {cos} is wider than the heads of {x}")
        check_sections(cos, self.sections)
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count four products and two sums for each pair of channels of each head."""
        return 6 * call.size(types["cos"].dims) * int(types["x"].dims[2])


def check_sections(table: TensorType, sections: int) -> None:
    """Refuse a table that does not cut into equal sections."""
    fits = sections > 0 and int(table.dims[-1]) % sections == 0
    expect(fits, f"table {table} does not make {sections} sections")
