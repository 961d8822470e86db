"""Evaluating an expression: total, bounded in time and space, without side effects.

Values are JSON's: null, booleans, numbers, strings, lists and objects.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glmc.frontends.language.expressions import Expression
from glmc.frontends.wording import nearest, show
from glmc.ir.errors import ExpressionValueError

Value = object
Function = Callable[..., Value]

# A list of the modules that a quantiser left out has some ten thousand characters.
_MAX_SIZE = 200_000
_MAX_NUMBER = 2**63
_CONSTANTS = {"true": True, "false": False, "null": None}

_ARITHMETIC: dict[type[ast.operator], Callable[..., Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_ORDER: dict[type[ast.cmpop], Callable[..., Value]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class _Fault(Exception):
    """A failed evaluation; the evaluator adds the expression and the values."""


@dataclass(frozen=True)
class Scope:
    """The names an expression can use: config keys, variables and functions."""

    config: Mapping[str, Value]
    variables: Mapping[str, Value] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)

    def bind(self, **variables: Value) -> "Scope":
        """Return the same scope with more variables."""
        return Scope(self.config, {**self.variables, **variables}, self.functions)


def evaluate(expression: Expression, scope: Scope) -> Value:
    """Evaluate an expression.

    Raises:
        GlmcError: when it has none; shows the expression and the values it saw. What
            a function of the scope raises passes through: it names config keys.
    """
    run = _Evaluation(scope)
    try:
        return run.value(expression.tree)
    except _Fault as fault:
        reason = str(fault)
    except RecursionError:
        reason = "it is nested too deeply"
    told = f"{expression.where}: `{expression}` has no value: {reason}"
    raise ExpressionValueError(told + _in_brackets(run.seen))


def seen_values(expression: Expression, scope: Scope) -> str:
    """Return `` (a = 1, b = 2)``, what an evaluable expression read; empty if
    nothing."""
    run = _Evaluation(scope)
    run.value(expression.tree)
    return _in_brackets(run.seen)


def _in_brackets(seen: Mapping[str, Value]) -> str:
    told = ", ".join(f"{name} = {show(value)}" for name, value in seen.items())
    return f" ({told})" if told else ""


class _Evaluation:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.seen: dict[str, Value] = {}

    def value(self, node: ast.expr) -> Value:
        method = getattr(self, f"_{type(node).__name__}")
        return _bounded(method(node))

    def _Constant(self, node: ast.Constant) -> Value:
        return node.value

    def _Name(self, node: ast.Name) -> Value:
        variables = self.scope.variables
        if node.id in variables:
            self.seen[node.id] = variables[node.id]
            return variables[node.id]
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if node.id == "c":
            raise _Fault("`c` is the config; write `c.key`")
        raise _Fault(f"unknown name {_unknown(node.id, variables)}")

    def _Attribute(self, node: ast.Attribute) -> Value:
        if isinstance(node.value, ast.Name) and node.value.id == "c":
            value = self.scope.config.get(node.attr)
        else:
            value = _member(self.value(node.value), node.attr)
        if _is_path(node):
            self.seen[ast.unparse(node)] = value
        return value

    def _List(self, node: ast.List) -> Value:
        return [self.value(element) for element in node.elts]

    def _Dict(self, node: ast.Dict) -> Value:
        keys = [k.value for k in node.keys if isinstance(k, ast.Constant)]
        return dict(zip(keys, map(self.value, node.values), strict=True))

    def _IfExp(self, node: ast.IfExp) -> Value:
        return self.value(node.body if self.truth(node.test) else node.orelse)

    def _BoolOp(self, node: ast.BoolOp) -> Value:
        stop = isinstance(node.op, ast.Or)
        return stop if any(self.truth(v) is stop for v in node.values) else not stop

    def _UnaryOp(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return not self.truth(node.operand)
        number = _number(self.value(node.operand))
        return -number if isinstance(node.op, ast.USub) else number

    def _BinOp(self, node: ast.BinOp) -> Value:
        left = self.value(node.left)
        if isinstance(node.op, ast.BitOr):
            return self.value(node.right) if left is None else left
        return _arithmetic(node.op, left, self.value(node.right))

    def _Compare(self, node: ast.Compare) -> Value:
        left = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if not _compare(op, left, right):
                return False
            left = right
        return True

    def _Subscript(self, node: ast.Subscript) -> Value:
        return _item(self.value(node.value), self.value(node.slice))

    def _Call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)
        functions = {**FUNCTIONS, **self.scope.functions}
        function = functions.get(node.func.id)
        if function is None:
            raise _Fault(f"unknown function {_unknown(node.func.id, functions)}")
        arguments = [self.value(argument) for argument in node.args]
        try:
            return function(*arguments)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            call = f"{node.func.id}({', '.join(map(show, arguments))})"
            raise _Fault(f"{call} is not possible: {error}") from None

    def truth(self, node: ast.expr) -> bool:
        value = self.value(node)
        if isinstance(value, bool) or value is None:
            return bool(value)
        raise _Fault(f"`{_source(node)}` is {show(value)}, not true, false or null")


def _source(node: ast.expr) -> str:
    return ast.unparse(node).replace(" | ", " ?? ")


def _is_path(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) or (isinstance(node, ast.Call) and not node.args)


def _member(value: Value, key: str) -> Value:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return value.get(key)
    raise _Fault(f"{show(value)} has no member {key!r}; it is not an object")


def _item(value: Value, key: Value) -> Value:
    if isinstance(value, Mapping) and isinstance(key, str):
        if key not in value:
            raise _Fault(f"there is no entry {show(key)} in {show(value)}")
        return value[key]
    counted = isinstance(key, int) and not isinstance(key, bool)
    if isinstance(value, list | str) and isinstance(key, int) and counted:
        if not -len(value) <= key < len(value):
            kind = "a list" if isinstance(value, list) else "a text"
            raise _Fault(f"index {key} is outside {kind} of {len(value)}")
        return value[key]
    raise _Fault(f"{show(value)} cannot be indexed with {show(key)}")


def _arithmetic(op: ast.operator, left: Value, right: Value) -> Value:
    match op, left, right:
        case ast.Add(), str() | list(), _ if type(left) is type(right):
            # Two strings or two lists, which the guard says and mypy cannot read.
            return left + right  # type: ignore[operator]
        case ast.Mult(), str() | list(), int() if not isinstance(right, bool):
            if right * _size(left) > _MAX_SIZE:
                raise _Fault(f"repeating {right} times is more than {_MAX_SIZE} values")
            return left * right
    a, b = _number(left), _number(right)
    if isinstance(op, ast.Pow) and abs(b) > 64:
        raise _Fault(f"the exponent {b} is larger than 64")
    try:
        result = _ARITHMETIC[type(op)](a, b)
    except (ZeroDivisionError, OverflowError) as error:
        raise _Fault(str(error)) from None
    if isinstance(result, complex):
        raise _Fault(f"{a} ** {b} is not a real number")
    return result


def _compare(op: ast.cmpop, left: Value, right: Value) -> bool:
    match op:
        case ast.Eq() | ast.Is():
            return same(left, right)
        case ast.NotEq() | ast.IsNot():
            return not same(left, right)
        case ast.In():
            return _contains(right, left)
        case ast.NotIn():
            return not _contains(right, left)
    if isinstance(left, str) and isinstance(right, str):
        return bool(_ORDER[type(op)](left, right))
    return bool(_ORDER[type(op)](_number(left), _number(right)))


def same(left: Value, right: Value) -> bool:
    """Compare as JSON: 1 equals 1.0 and is not true."""
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    return left == right


def _contains(container: Value, value: Value) -> bool:
    if isinstance(container, str) and isinstance(value, str):
        return value in container
    if isinstance(container, Mapping):
        return isinstance(value, str) and value in container
    if isinstance(container, list):
        return any(same(value, element) for element in container)
    raise _Fault(f"`in` needs a list, an object or a string, found {show(container)}")


def _number(value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Fault(f"expected a number, found {show(value)}")
    return value


def _bounded(value: Value) -> Value:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        if not -_MAX_NUMBER < value < _MAX_NUMBER:
            raise _Fault(f"a number beyond {_MAX_NUMBER}")
    elif _size(value) > _MAX_SIZE:
        raise _Fault(f"a value of more than {_MAX_SIZE} elements")
    return value


def _size(value: Value) -> int:
    """Count characters and elements, nested ones too; counting stops past the bound."""
    total, rest = 0, [value]
    while rest and total <= _MAX_SIZE:
        match rest.pop():
            case str(text):
                total += max(len(text), 1)
            case list(elements):
                total += 1 + _texts(elements)
                rest += [e for e in elements[:_MAX_SIZE] if type(e) is not str]
            case Mapping() as entries:
                total += 1
                rest += list(entries.values())[:_MAX_SIZE]
            case _:
                total += 1
    return total


def _texts(elements: list[Value]) -> int:
    """Return the size of a list's strings, in one go: a list with one kind per layer is
    read once per layer."""
    texts = [e for e in elements if type(e) is str]
    return len("".join(texts)) + texts.count("")


def _unknown(name: str, known: Mapping[str, object]) -> str:
    meant = nearest(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
    return f"{name!r}; {hint}"


def _integer(value: Value) -> int:
    return int(_number(value))


def _length(value: Value) -> int:
    if isinstance(value, str | list | Mapping):
        return len(value)
    raise TypeError(f"{show(value)} has no length")


def _text(value: Value) -> str:
    """Print a whole number in decimal, for a name that holds one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{show(value)} is not a whole number")
    return str(value)


def _last(values: Value, value: Value, before: Value) -> Value:
    """Return the index of the last element equal to ``value`` among the first
    ``before``."""
    if not isinstance(values, list):
        raise TypeError(f"{show(values)} is not a list")
    first = values[: max(_integer(before), 0)]
    found = [at for at, element in enumerate(first) if same(element, value)]
    if not found:
        raise ValueError(f"none of the first {len(first)} is {show(value)}")
    return found[-1]


def _count(values: Value, value: Value, before: Value) -> Value:
    """Count the elements equal to ``value`` among the first ``before``."""
    if not isinstance(values, list):
        raise TypeError(f"{show(values)} is not a list")
    return sum(same(one, value) for one in values[: max(_integer(before), 0)])


def _place(values: Value, value: Value, number: Value) -> Value:
    """Return the index of the element with that number, from 0, among those equal to
    ``value``."""
    if not isinstance(values, list):
        raise TypeError(f"{show(values)} is not a list")
    found = [at for at, element in enumerate(values) if same(element, value)]
    at = _integer(number)
    if not 0 <= at < len(found):
        raise ValueError(f"{len(found)} are {show(value)}, and none is number {at}")
    return found[at]


def _entry(entries: Value, key: Value, known: Value) -> Value:
    """Look up a key or a number in an object, whose entries may have ``known`` keys
    only; null where there is none. transformers writes the numbers of layers with
    leading zeros, so that names of 5 and 11 sort as the numbers do."""
    if entries is None:
        return None
    if not isinstance(entries, Mapping):
        raise TypeError(f"{show(entries)} is not an object")
    names = [name for name in entries if _number_of(name) == str(key)]
    if len(names) > 1:
        raise ValueError(f"{show(names[0])} and {show(names[1])} are one number")
    entry = entries[names[0]] if names else None
    for name in entry if isinstance(entry, Mapping) else ():
        if not _contains(known, name):
            raise ValueError(f"its key {show(name)} is not supported")
    return entry


def _number_of(name: str) -> str:
    """Spell a number without leading zeros; any other name stays as it is."""
    return name.lstrip("0") or "0" if name.isascii() and name.isdigit() else name


def _each(value: Value, at: Value) -> Value:
    """Return an element of a list, or a value that is the same for all."""
    return _item(value, at) if isinstance(value, list) else value


def _numeric(function: Callable[..., Value]) -> Function:
    return lambda *arguments: function(*map(_number, arguments))


FUNCTIONS: Mapping[str, Function] = {
    "min": _numeric(min),
    "max": _numeric(max),
    "abs": _numeric(abs),
    "sqrt": _numeric(math.sqrt),
    "exp": _numeric(math.exp),
    "log": _numeric(math.log),
    "floor": _numeric(math.floor),
    "ceil": _numeric(math.ceil),
    "int": _integer,
    "len": _length,
    "str": _text,
    "last": _last,
    "count": _count,
    "place": _place,
    "entry": _entry,
    "each": _each,
}
