"""Chat templates of repositories, rendered where they can do nothing else.

A template is foreign text. Jinja's immutable sandbox keeps it from Python; what is
added here bounds its size, its work and its output. Messages hold foreign text too:
what looks like a special token in them is marked, and stays text when it is encoded.
"""

import datetime
import functools
import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

from .files import MAX_TEMPLATE, TokenizerError, optional

MAX_STEPS = 1 << 20
MAX_OUTPUT = 1 << 25
#: All that `~` and `+` join; a long chat is joined several times over.
MAX_JOINED = 1 << 28
#: Product of the sizes of what one operation is given: no result is larger.
MAX_PRODUCT = 1 << 29
MARK = "\ue000"


class TooMuchError(Exception):
    """The template asks for more than any chat needs."""


class TemplateRefusal(Exception):
    """The template called raise_exception."""


#: What foreign templates end in, Jinja's own errors apart.
FAILURES = (
    TooMuchError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    AttributeError,
    ValueError,
)


def render(template: str, variables: Mapping[str, object]) -> str:
    """The text that a chat template makes of `variables`, as transformers renders it.

    Raises TokenizerError where the template is not one, refuses the messages, or is
    too large or works too long.
    """
    if len(template) > MAX_TEMPLATE:
        raise TokenizerError(
            f"the chat template has {len(template)} characters; more than "
            f"{MAX_TEMPLATE} is no chat template."
        )
    jinja = optional("jinja2", "to render this repository's chat template")
    try:
        return _generate(_environment().from_string(template), variables)
    except TemplateRefusal as error:
        raise TokenizerError(
            f"the chat template of this repository refuses these messages: {error}."
        ) from error
    except (jinja.TemplateError, *FAILURES) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise TokenizerError(
            f"the chat template of this repository cannot be rendered "
            f"({type(error).__name__}: {reason}); check the messages, or give "
            "chat_template= with one of your own."
        ) from error


def _generate(compiled: Any, variables: Mapping[str, object]) -> str:
    out, size = [], 0
    for part in compiled.generate(**variables):
        out.append(part)
        size += len(part)
        if size > MAX_OUTPUT:
            raise TooMuchError(f"more than {MAX_OUTPUT} characters")
    return "".join(out)


def marked(value: Any, pattern: re.Pattern[str], mark: str) -> Any:
    """`value` with `mark` inside each special token that its strings spell."""
    if isinstance(value, str):
        return pattern.sub(lambda m: m.group()[:1] + mark + m.group()[1:], value)
    if isinstance(value, Mapping):
        return {k: marked(v, pattern, mark) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [marked(v, pattern, mark) for v in value]
    return value


def unused_mark(values: Iterable[object]) -> str:
    """A run of a private character that is longer than any in `values`."""
    longest = 0
    for text in _strings(list(values)):
        longest = max(longest, *map(len, re.findall(f"{MARK}+", text)), 0)
    return MARK * (longest + 1)


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _environment() -> Any:
    """An environment for one rendering; it counts the steps of that one."""
    budget = Budget()
    made = _sandbox(budget)(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    made.filters = {name: budget.over(f) for name, f in made.filters.items()}
    # Widths inside a format, and text at will, are sizes that nothing here weighs.
    del made.filters["format"], made.globals["lipsum"]
    made.filters |= {"tojson": _to_json}
    made.filters |= {"_counted": budget.counted, "_weighed": budget.weighed}
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return made


def _sandbox(budget: "Budget") -> Any:
    """Jinja's sandbox, in which operations, calls and loops draw on `budget`."""
    nodes = importlib.import_module("jinja2.nodes")
    sandbox = importlib.import_module("jinja2.sandbox")

    # The base is only known where jinja2 is installed, so to mypy it is Any.
    class Bounded(sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc, name-defined, unused-ignore]
        intercepted_binops = frozenset({"*", "**", "%"})

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return _watched(super()._parse(source, name, filename), nodes)

        def call(self, context: Any, function: Any, *args: Any, **named: Any) -> Any:
            budget.operation(_owner(function), *args, *named.values())
            return super().call(context, function, *args, **named)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or (operator == "%" and isinstance(left, str)):
                raise TooMuchError(f"the operator {operator} here")
            budget.operation(left, right, most=MAX_OUTPUT)
            return super().call_binop(context, operator, left, right)

    return Bounded


def _watched(tree: Any, nodes: Any) -> Any:
    """A template's tree with what it loops over and what it joins filtered."""

    def through(name: str, node: Any) -> Any:
        return nodes.Filter(node, name, [], [], None, None)

    for loop in tree.find_all(nodes.For):
        loop.iter = through("_counted", loop.iter)
    for joined in tree.find_all(nodes.Concat):
        joined.nodes = [through("_weighed", part) for part in joined.nodes]
    for added in tree.find_all(nodes.Add):
        added.left = through("_weighed", added.left)
        added.right = through("_weighed", added.right)
    return tree


class Budget:
    """Counts a rendering's steps and weighs what its operations are given."""

    def __init__(self) -> None:
        self.steps = 0
        self.joined = 0

    def step(self) -> None:
        """One round of a loop, one call, one operation."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooMuchError(f"more than {MAX_STEPS} steps")

    def operation(self, *operands: object, most: int = MAX_PRODUCT) -> None:
        """One operation; its result is at most the product of what it is given."""
        self.step()
        product = 1
        for operand in operands:
            product *= 1 + _weight(operand)
        if product > most:
            raise TooMuchError("an operation on values that large")

    def counted(self, values: Iterable[object]) -> Iterable[object]:
        """The values of a loop, each a step."""
        if not isinstance(values, Sized):
            return self._each(values)
        self.steps += len(values)
        self.step()
        return values

    def weighed(self, value: object) -> object:
        """An operand of `~` or `+`, which can double a text over and over."""
        self.step()
        self.joined += 0 if isinstance(value, int) else _weight(value)
        if self.joined > MAX_JOINED:
            raise TooMuchError(f"more than {MAX_JOINED} characters joined")
        return value

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is an operation."""

        @functools.wraps(function)
        def bounded(*args: Any, **named: Any) -> Any:
            self.operation(*args, *named.values())
            return function(*args, **named)

        return bounded

    def _each(self, values: Iterable[object]) -> Iterable[object]:
        for value in values:
            self.step()
            yield value


def _owner(function: object) -> object:
    """What a method is of. A format with a large width in it is refused."""
    method = getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", "")
    if name.startswith("format") and re.search(r"[0-9]{6}", str(owner)):
        raise TooMuchError("a format that wide")
    return owner


def _weight(value: object) -> int:
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(1 + _weight(v) for v in value)
    return 0


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 16:
        raise TooMuchError(f"an indent of {indent}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> None:
    raise TemplateRefusal(str(message)[:400].strip().rstrip("."))


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
