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

from glmc.ir.text.lexer import Cursor
from glmc.ir.types import CacheType, TensorType, Type

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
    """One op line."""
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
    """The name of a reference with this sigil."""
    if not (cursor.sees("ref") and cursor.now.text[0] == sigil):
        found = cursor.now.text or "the end of the text"
        raise cursor.error(f"expected a {sigil}name, found {found!r}")
    return cursor.take("ref")[1:]


def type_(cursor: Cursor) -> Type:
    """``bf16[B,T,4096]``, ``kv[2,128,128]`` or ``kv[2,128,128,64]``."""
    at, dtype = cursor.now.at, cursor.take("name")
    dims = tuple(_dim(cursor) for _ in _items(cursor, "[", "]"))
    if dtype != "kv":
        return TensorType(dtype=dtype, dims=dims)
    sizes = [dim for dim in dims if isinstance(dim, int)]
    if len(sizes) not in (3, 4):
        takes = "heads, key width, value width, and perhaps an indexer's key width"
        raise cursor.error(f"kv takes three or four sizes: {takes}", at)
    return CacheType.of(*sizes)


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
    """``name(...)``."""
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
    """Any argument; bare names are strings, except true, false and none."""
    token = cursor.now
    if token.kind == "ref":
        name = cursor.take("ref")
        return Ref(name[0], name[1:], cursor.accept("mark", "?") is not None)
    if token.kind == "number":
        text = cursor.take("number")
        return int(text) if text.lstrip("-").isdigit() else float(text)
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
    """``"text"``, or the stored tensor ``"name"[4096,4096]`` with what follows it."""
    at, text = cursor.now.at, cursor.string()
    if not cursor.sees("mark", "["):
        return text
    shape = tuple([cursor.whole() for _ in _items(cursor, "[", "]")])
    return postfix(cursor, Call("tensor", (text, shape), {}, at))


def postfix(cursor: Cursor, inner: Call) -> Call:
    """``x.slice(...)`` is ``slice(x, ...)``."""
    while cursor.accept("mark", "."):
        step = call(cursor)
        inner = Call(step.name, (inner, *step.args), step.kwargs, step.at)
    return inner
