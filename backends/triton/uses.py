"""The uses that a model makes of an op: all that the choice of kernels looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from glmc.ir.errors import GlmcError, KernelShapeError


@dataclass(frozen=True)
class OpUse:
    """One op of a model, as one of its layers uses it.

    name      the op's mnemonic, e.g. "add_rms_norm"
    attrs     its attributes; one that is absent has the default of the op's signature
    operands  the optional operands that are given, e.g. {"bias"}; others may be named
    once      whether it is in no layer, and so runs once a call
    shapes    operand -> dims, symbols as strings; ``kv`` -> (kv_heads, k_dim, v_dim)
    """

    name: str
    attrs: Mapping[str, object] = field(default_factory=dict)
    operands: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    once: bool = False

    def text(self, attr: str, default: str | None = None) -> str:
        """Return a string attribute. Raises GlmcError where it is absent or not a
        string."""
        value = self.attrs.get(attr, default)
        if not isinstance(value, str):
            raise self._error(f"attribute {attr} must be a string, not {value!r}")
        return value

    def whole(self, attr: str, default: int | None = None) -> int:
        """Return an integer attribute. Raises GlmcError where it is absent or not
        one."""
        value = self.attrs.get(attr, default)
        if not isinstance(value, int):
            raise self._error(f"attribute {attr} must be an integer, not {value!r}")
        return value

    def real(self, attr: str, default: float | None = None) -> float:
        """Return a number attribute, as float. Raises GlmcError where it is absent."""
        value = self.attrs.get(attr, default)
        if not isinstance(value, int | float):
            raise self._error(f"attribute {attr} must be a number, not {value!r}")
        return float(value)

    def optional(self, attr: str) -> float | None:
        """Return a number attribute, None where it is absent or None."""
        return None if self.attrs.get(attr) is None else self.real(attr)

    def optional_whole(self, attr: str) -> int | None:
        """Return an integer attribute, None where it is absent or None."""
        return None if self.attrs.get(attr) is None else self.whole(attr)

    def flag(self, attr: str) -> bool:
        """Return a boolean attribute, false where it is absent."""
        return self.attrs.get(attr, False) is True

    def window(self) -> int | None:
        """Return the sliding window, None for a layer that sees everything before
        it."""
        return self.optional_whole("window")

    def size(self, operand: str, dim: int = -1) -> int:
        """Return a known size of an operand. Raises GlmcError where it is unknown."""
        shape = self.shapes.get(operand)
        size = shape[dim] if shape else None
        if not isinstance(size, int):
            raise self._error(
                f"dimension {dim} of {operand} must be known, not {size!r}"
            )
        return size

    def sizes(self, operand: str) -> tuple[int, ...]:
        """Return all sizes of a parameter. Raises GlmcError where one is unknown."""
        shape = self.shapes.get(operand, ())
        return tuple(self.size(operand, dim) for dim in range(len(shape)))

    def _error(self, reason: str) -> GlmcError:
        return KernelShapeError(
            f"The Triton backend cannot specialise {self.name}: {reason}. This is a"
            " mistake in what glmc told its backend about the model; please report it."
        )
