"""A toy op that keeps one state for each row, and what holds it to its prompt.

To import this registers the op, which tests that enumerate ops do not expect: so
``checks.py`` is run in a process of its own, by ``tests/test_row_state.py``.
"""

from __future__ import annotations

from typing import Any

from glmc.backends.torch import ops, select
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, Writes, expect
from glmc.ir.state import RowType
from glmc.ir.types import Type

from . import running


class Running(Op):
    """h = decay · h + x, token by token, in fp32; y is every h on the way."""

    mnemonic = "running"
    exact = ("decay",)
    x: Value
    decay: Param
    h: Writes

    def infer(self, types: Types) -> tuple[Type, ...]:
        x, h = types["x"], types["h"]
        expect(isinstance(h, RowType), f"h must be kept per row, not {h}")
        expect(h.dims == x.dims[2:] == types["decay"].dims, f"{h} does not fit {x}")
        return (x, h)

    def nbytes(self, types: Types, call: Call) -> int:
        """The operands, the results, and the state read and written once."""
        state: Any = types["h"]
        return super().nbytes(types, call) + 2 * call.kept(state, types["x"].dtype)


# Where the reference ops are looked up: in the executor, and as text for a build.
ops.running = running.running  # type: ignore[attr-defined]
_FILES: Any = (*select.FILES, running.__file__.removesuffix(".py"))
select.FILES = _FILES
