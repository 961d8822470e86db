"""The grammar: tokens to raw statements, before names and types mean anything.

::

    statement := results "=" call
    results   := %name [":" type] ("," %name [":" type])*
    call      := name "(" [argument ("," argument)*] ")"
    argument  := value | name "=" value
    value     := ref ["?"] | number | string | name | call | "[" values "]"
               | "{" name ":" value, ... "}"
"""

from dataclasses import dataclass, field
from typing import Any

from glmc.ir.placement import PARTIAL, REPLICATED, Placement, shard
from glmc.ir.state import KEPT, KvType, RowType, StateType, TokenType
from glmc.ir.text.lexer import Cursor
from glmc.ir.types import BYTES, TensorType, Type, placed

CONSTANTS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Ref:
    """``%value``, ``@param`` or a pattern's ``$attribute``; ``?`` marks optional."""

    sigil: str
    name: str
    optional: bool = False


@dataclass(frozen=True)
class Call:
    """``name(args, key=value)`` and where it stands."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    at: int = field(compare=False)


@dataclass(frozen=True)
class Statement:
    """``%a: type, %b: type = call``; the types are optional in patterns."""

    results: tuple[tuple[str, Type | None], ...]
    call: Call
    at: int = field(compare=False)


def statement(cursor: Cursor) -> Statement:
    """Parse one op line."""
    at = cursor.now.at
    results = [_result(cursor)]
    while cursor.accept("mark", ","):
        results.append(_result(cursor))
    cursor.take("mark", "=")
    return Statement(tuple(results), call(cursor), at)


def _result(cursor: Cursor) -> tuple[str, Type | None]:
    name = ref(cursor, "%")
    return name, (type_(cursor) if cursor.accept("mark", ":") else None)


def ref(cursor: Cursor, sigil: str) -> str:
    """Parse a reference with this sigil; return its name."""
    if not (cursor.sees("ref") and cursor.now.text[0] == sigil):
        found = cursor.now.text or "the end of the text"
        raise cursor.error(f"expected a {sigil}name, found {found!r}")
    return cursor.take("ref")[1:]


def type_(cursor: Cursor) -> Type:
    """Parse a type: ``bf16[B,T,4096]``, or a state's such as ``kv[2,128,128] per
    token``, ``[576] per token`` and ``f32[64,64,128] per row``."""
    at, dtype = cursor.now.at, cursor.accept("name")
    if dtype is None and not cursor.sees("mark", "["):
        found = cursor.now.text or "the end of the text"
        raise cursor.error(f"expected a type, found {found!r}")
    dims = tuple([_dim(cursor) for _ in _items(cursor, "[", "]")])
    if cursor.accept("name", "per"):
        return placed(_kept(cursor, dtype, dims, at), _placement(cursor))
    if dtype is None or dtype == "kv":
        raise cursor.error("what is kept says if it is per token or per row", at)
    if dtype not in BYTES:
        known = ", ".join(BYTES)
        raise cursor.error(f"{dtype} is no type of numbers; they are {known}", at)
    return TensorType(dtype=dtype, dims=dims, placement=_placement(cursor))


def _placement(cursor: Cursor) -> Placement:
    """Parse where a tensor lies: ``shard(2)``, ``partial``, or nothing."""
    if cursor.accept("name", "partial"):
        return PARTIAL
    if not cursor.accept("name", "shard"):
        return REPLICATED
    cursor.take("mark", "(")
    axis = cursor.whole()
    cursor.take("mark", ")")
    return shard(axis)


def _kept(
    cursor: Cursor, dtype: str | None, dims: tuple[int | str, ...], at: int
) -> StateType:
    """Parse the rest of a state's type, after ``per``."""
    every = cursor.whole() if cursor.sees("number") else 1
    per = cursor.take("name")
    known = ("token", "row") if every == 1 else ("tokens",) if every > 1 else ()
    if per not in known:
        many = f"{every} " * (every != 1)
        raise cursor.error(
            "a state is kept per token, per 4 tokens (of 2 or more) or per row, not per"
            f" {many}{per}"
        )
    sizes = tuple([dim for dim in dims if isinstance(dim, int)])
    if sizes != dims or not all(sizes):
        raise cursor.error("a state has sizes only, none of them 0", at)
    if dtype == "kv":
        if len(sizes) != 3 or per != "token":
            takes = "heads, channels of a key, channels of a value"
            raise cursor.error(f"kv takes three sizes per token: {takes}", at)
        return KvType(kv_heads=sizes[0], k_dim=sizes[1], v_dim=sizes[2])
    if not sizes or dtype not in (None, *KEPT):
        raise cursor.error(f"a state has sizes, and of dtypes {', '.join(KEPT)}", at)
    if per == "row":
        return RowType(dtype=dtype, sizes=sizes)
    return TokenType(dtype=dtype, sizes=sizes, every=every)


def _dim(cursor: Cursor) -> int | str:
    return cursor.accept("name") or cursor.whole()


def _items(cursor: Cursor, opening: str, closing: str) -> Any:
    """Step through a comma-separated list; the caller takes each item."""
    cursor.take("mark", opening)
    while not cursor.sees("mark", closing):
        yield
        if not cursor.accept("mark", ","):
            break
    cursor.take("mark", closing)


def call(cursor: Cursor) -> Call:
    """Parse ``name(...)``."""
    at, name = cursor.now.at, cursor.take("name")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for _ in _items(cursor, "(", ")"):
        start = cursor.now.at
        got = value(cursor)
        if isinstance(got, str) and cursor.accept("mark", "="):
            if got in kwargs:
                raise cursor.error(f"{got} is given twice", start)
            kwargs[got] = value(cursor)
        elif kwargs:
            raise cursor.error("a positional argument after a keyword", start)
        else:
            args.append(got)
    return Call(name, tuple(args), kwargs, at)


def value(cursor: Cursor) -> Any:
    """Parse any argument; bare names are strings, except true, false and none."""
    token = cursor.now
    if token.kind == "ref":
        name = cursor.take("ref")
        return Ref(name[0], name[1:], cursor.accept("mark", "?") is not None)
    if token.kind == "number":
        text = cursor.take("number")
        number = int(text) if text.lstrip("-").isdigit() else float(text)
        if not abs(number) < float("inf"):
            raise cursor.error(f"the number {text} is too large", token.at)
        return number
    if token.kind == "string":
        return recipe_or_string(cursor)
    if cursor.sees("mark", "["):
        return tuple([value(cursor) for _ in _items(cursor, "[", "]")])
    if cursor.sees("mark", "{"):
        return dict([_entry(cursor) for _ in _items(cursor, "{", "}")])
    if token.kind == "name":
        if cursor.tokens[cursor.index + 1].text == "(":
            return postfix(cursor, call(cursor))
        name = cursor.take("name")
        return CONSTANTS.get(name, name)
    raise cursor.error(f"expected a value, found {token.text or 'the end'!r}")


def _entry(cursor: Cursor) -> tuple[str, Any]:
    key = cursor.take("name")
    cursor.take("mark", ":")
    return key, value(cursor)


def recipe_or_string(cursor: Cursor) -> Any:
    """Parse ``"text"``, or a stored tensor ``"name"[4096,4096]`` and the steps after
    it."""
    at, text = cursor.now.at, cursor.string()
    if not cursor.sees("mark", "["):
        return text
    shape = tuple([cursor.whole() for _ in _items(cursor, "[", "]")])
    return postfix(cursor, Call("tensor", (text, shape), {}, at))


def postfix(cursor: Cursor, inner: Call) -> Call:
    """Parse postfix calls: ``x.slice(...)`` is ``slice(x, ...)``."""
    while cursor.accept("mark", "."):
        step = call(cursor)
        inner = Call(step.name, (inner, *step.args), step.kwargs, step.at)
    return inner
