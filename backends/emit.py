"""Emit a program as Python source: the statements of a build.

One op of the IR is one line of an emitted ``forward``; the helpers here write those
lines. Names come from the IR, values only through ``repr``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from glmc.backends.layout import bracketed, call
from glmc.ir.graph import Graph, Parameter
from glmc.ir.op import Op
from glmc.ir.recipe import stored_dtype

STATE = "state"
"""The argument of a layer that holds what it keeps, each under its name."""


def class_name(graph: Graph) -> str:
    """Return the class name of a block: ``sliding_layer`` becomes ``SlidingLayer``."""
    return "".join(part.capitalize() for part in graph.name.split("_"))


def lines(
    graph: Graph, indent: int, arguments: Mapping[tuple[int, str], str] | None = None
) -> list[str]:
    """Emit the statements of a graph's ops. ``arguments`` names the attributes of ops,
    by the op's place and the field, that an attribute of the module gives."""
    read = set(graph.returns) | {name for op in graph.ops for name in op.values}
    kept = {state.name: f"{STATE}.{state.name}" for state in graph.states}
    own: list[dict[str, str]] = [{} for _ in graph.ops]
    for (at, attribute), name in (arguments or {}).items():
        own[at][attribute] = f"self.{name}"
    return [
        call(
            _target(op, read),
            f"ops.{op.mnemonic}",
            _arguments(op, kept, own[at], indent),
            indent,
        )
        for at, op in enumerate(graph.ops)
    ]


def _target(op: Op, read: set[str]) -> str:
    """Return the result names; a result that nothing reads is ``_``."""
    return ", ".join(name if name in read else "_" for name in op.outs)


def _arguments(
    op: Op, kept: Mapping[str, str], own: Mapping[str, str], indent: int
) -> list[str]:
    """Return the arguments of an op's call; a tuple that is too long is broken already.
    ``kept`` maps the states of a layer to expressions, ``own`` some attributes."""
    required = op.operand_fields()
    arguments = []
    for field, sigil, name in op.operands():
        actual = f"self.{name}" if sigil == "@" else kept.get(name, name)
        arguments.append(actual if required[field][1] else f"{field}={actual}")
    said = op.attributes()
    for key in op.attribute_fields():
        value = said.get(key)
        if key in own:
            arguments.append(f"{key}={own[key]}")
        elif key not in said:
            continue
        elif isinstance(value, tuple) and len(value) > 1:
            row = bracketed(f"{key}=(", list(map(literal, value)), "),", indent + 4)
            arguments.append(row[:-1])
        else:
            arguments.append(f"{key}={literal(value)}")
    return arguments


def literal(value: Any) -> str:
    """Return a Python literal with double quotes, as ruff writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," * (len(value) == 1)) + ")"
    return repr(value)


def quoted(text: str) -> str:
    """Return a string literal, in double quotes unless the text holds some."""
    literal = repr(text)
    return literal if '"' in literal else f'"{literal[1:-1]}"'


def parameters(params: Iterable[Parameter], kept: Mapping[str, str]) -> list[str]:
    """Emit ``self.qkv = parameter(4608, 4096)`` for each; see :func:`own_dtypes`."""
    found = []
    for param in params:
        arguments = [str(size) for size in param.type.dims]
        own = kept.get(param.name)
        arguments += [f"dtype={_TORCH_NAMES[own]}"] if own else []
        found.append(call(f"self.{param.name}", "parameter", arguments, 8))
    return found


def own_dtypes(params: Iterable[Parameter], graphs: Iterable[Graph]) -> dict[str, str]:
    """Map the parameters that keep their dtype whatever the model is loaded in to it,
    by safetensors' name: codes, indices, and operands that some op reads in fp32."""
    exact = {
        name
        for graph in graphs
        for op in graph.ops
        for field, _, name in op.operands()
        if field in op.exact
    }
    stored = {param.name: _own(param) for param in params}
    kept = {name: _STORED[dtype] for name, dtype in stored.items() if dtype}
    return kept | dict.fromkeys(sorted(exact), "F32")


def _own(param: Parameter) -> str | None:
    whole = param.type.dtype if param.type.dtype in ("i8", "i64") else None
    return whole or stored_dtype(param.recipe)


_STORED = {"i8": "I8", "i64": "I64", "u8": "U8", "f8": "F8_E4M3", "f32": "F32"}
"""Dtypes of codes, what goes with them, and tables, by safetensors' names."""
_TORCH_NAMES = {
    "F32": "torch.float32",
    "I8": "torch.int8",
    "I64": "torch.int64",
    "U8": "torch.uint8",
    "F8_E4M3": "torch.float8_e4m3fn",
}
