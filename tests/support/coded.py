"""Uses of ops whose weights are codes of experts, or small floats."""

from __future__ import annotations

from typing import Any, NamedTuple

from glmc.backends.triton.uses import OpUse
from support.kernels import coded_use

EXPERTS, TOP_K, WIDTH, FF = 3, 2, 64, 32


class Kind(NamedTuple):
    """Codes of weights: integers or small floats, in groups of some columns."""

    bits: int
    group: int
    floats: str | None = None
    zeros: bool = False
    divided: bool = False

    @property
    def told(self) -> dict[str, Any]:
        return {"bits": self.bits, "floats": self.floats, "divided": self.divided}

    @property
    def operands(self) -> tuple[str, ...]:
        """Endings of a stack's name for what goes with its codes and scales."""
        given = {"_zeros": self.zeros, "_factor": self.floats == "nvfp4"}
        return tuple(name for name, there in given.items() if there)


KINDS = {
    "int4": Kind(4, 32),
    "int4-zeros": Kind(4, 32, zeros=True),
    "int8": Kind(8, 32),
    "fp8": Kind(8, 32, "fp8"),
    "mxfp4": Kind(4, 32, "mx"),
    "nvfp4": Kind(4, 16, "nvfp4"),
    "nvfp4-divided": Kind(4, 16, "nvfp4", divided=True),
}


def experts_use(kind: Kind, *biases: str, **attrs: object) -> OpUse:
    """quantized_experts with stacks of a kind."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", WIDTH),
        "experts": ("B", "T", TOP_K),
    }
    for name, rows, width in (("gate_up", 2 * FF, WIDTH), ("down", WIDTH, FF)):
        groups = (EXPERTS, rows, width // kind.group)
        shapes[name] = (EXPERTS, rows, width * kind.bits // 8)
        shapes[f"{name}_scale"] = groups
        beside = {"_zeros": groups, "_factor": groups[:2]}
        shapes |= {name + of: beside[of] for of in kind.operands}
    operands = [name + of for name in ("gate_up", "down") for of in kind.operands]
    told = {"fn": "silu", **kind.told, **attrs}
    return OpUse("quantized_experts", told, frozenset([*biases, *operands]), shapes)


def floats_use(name: str, kind: Kind, *operands: str, **attrs: object) -> OpUse:
    """A product whose weight is small floats of a kind, in its groups, or by row."""
    given = [of.removeprefix("_") for of in kind.operands]
    told = {"floats": kind.floats, "divided": kind.divided, **attrs}
    return coded_use(
        name, kind.bits, 48, 64, *given, *operands, group=kind.group, **told
    )
