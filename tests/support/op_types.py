"""Types of operands as texts, and ops made of them."""

from __future__ import annotations

import re
from typing import Any

from glmc.ir import ops
from glmc.ir.op import Op, Result
from glmc.ir.state import KvType, RowType, TokenType
from glmc.ir.types import TensorType, Type

CLASSES = {
    kind.mnemonic: kind
    for kind in vars(ops).values()
    if isinstance(kind, type) and issubclass(kind, Op) and "mnemonic" in vars(kind)
}


def type_of(text: str) -> Type:
    """``f16[B,T,4]``; states: ``kv[2,8,6]`` of heads, key, value, ``token[12]`` and
    ``token4[12]`` of one vector for a token or for 4, ``row[8,4]`` in fp32."""
    found = re.fullmatch(r"(token|[a-z]+\d*)(\d*)\[(.*)\]", text)
    assert found, text
    dims = [int(one) if one.isdigit() else one for one in found[3].split(",") if one]
    match found[1]:
        case "kv":
            kv_heads, k_dim, v_dim = map(int, dims)
            return KvType(kv_heads=kv_heads, k_dim=k_dim, v_dim=v_dim)
        case "token":
            return TokenType(sizes=tuple(map(int, dims)), every=int(found[2] or 1))
        case "row":
            return RowType(sizes=tuple(map(int, dims)), dtype="f32")
    return TensorType(dtype=found[1], dims=tuple(dims))


def types_of(texts: dict[str, str]) -> dict[str, Type]:
    """Return the types of operands."""
    return {key: type_of(text) for key, text in texts.items()}


def _op(name: str, attributes: dict[str, Any], texts: dict[str, str]) -> Op:
    return CLASSES[name](results=(), **{key: key for key in texts}, **attributes)


def inferred(name: str, attributes: dict[str, Any], texts: dict[str, str]) -> str:
    """Return what an op says that its results are."""
    made = _op(name, attributes, texts).infer(types_of(texts))
    return " ".join(map(str, made))


def with_results(name: str, attributes: dict[str, Any], texts: dict[str, str]) -> Op:
    """Return an op with its results, those that are tensors."""
    made = _op(name, attributes, texts).infer(types_of(texts))
    results = tuple(
        Result(name=f"y{at}", type=one)
        for at, one in enumerate(made)
        if isinstance(one, TensorType)
    )
    return CLASSES[name](results=results, **{key: key for key in texts}, **attributes)


def named(case: tuple[str, dict[str, Any], dict[str, str], object]) -> str:
    """Return the name of a case."""
    return f"{case[0]}-{case[3]}"
