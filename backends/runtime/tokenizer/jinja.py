"""Render chat templates of repositories where they can do nothing else.

A template is foreign text. Jinja's immutable sandbox keeps it from Python; `budget`
bounds its time, its memory and its output; and whatever it ends in becomes one error
that names the template and the line.
"""

import datetime
import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sized
from types import BuiltinMethodType
from typing import Any

from .budget import CURRENT, Budget, TooMuchError, words
from .files import MAX_TEMPLATE, TokenizerError, optional
from .growth import LAZY, binary, foresee
from .watching import watched

#: What foreign text ends in cannot be listed: Python's compiler has its say, too.
ANYTHING = Exception
MAX_OUTPUT = 1 << 25
#: Of one format for strftime, and of one indent or separator in JSON.
MAX_PATTERN, MAX_INDENT = 256, 16
#: Tests that look at what a value is, and not into it.
GLANCES = words(
    "boolean callable defined escaped false filter float integer iterable mapping "
    "none number sameas sequence string test true undefined"
)


class TemplateRefusal(Exception):
    """The template called raise_exception."""


def render(
    template: str,
    variables: Mapping[str, object],
    name: str = "chat_template=",
    spans: list[tuple[int, int]] | None = None,
) -> str:
    """Renders a chat template with `variables`, as transformers does.

    `name` says in errors where the template is from. `spans` receives the first
    character of each block `{% generation %}` and the one after its last. Raises
    TokenizerError where the template is not one, refuses the messages, fails, is too
    large, or asks for more than a chat needs.
    """
    if len(template) > MAX_TEMPLATE:
        raise TokenizerError(
            f"the chat template ({name}) has {len(template)} characters; more than "
            f"{MAX_TEMPLATE} is no chat template."
        )
    optional("jinja2", "to render this repository's chat template")
    budget = Budget()
    running = CURRENT.set(budget)
    try:
        text = _generate(_compiled(template), variables, budget)
    except TemplateRefusal as error:
        raise TokenizerError(
            f"the chat template ({_place(name, error)}) refuses these messages: "
            f"{error}."
        ) from error
    except ANYTHING as error:
        reason = str(error).strip().partition("\n")[0][:200]
        kind = type(error).__name__
        # The trace holds what the template made, which may be all it was allowed to.
        raise TokenizerError(
            f"the chat template ({_place(name, error)}) cannot be rendered "
            f"({kind}: {reason}); check the messages, or give chat_template= with "
            "one of your own."
        ) from None
    finally:
        CURRENT.reset(running)
    if spans is not None:
        spans += budget.spans
    return text


def _generate(compiled: Any, variables: Mapping[str, object], budget: Budget) -> str:
    out = []
    for part in compiled.generate(**variables):
        out.append(part)
        budget.written += len(part)
        if budget.written > MAX_OUTPUT:
            raise TooMuchError(f"more than {MAX_OUTPUT} characters")
    return "".join(out)


def _place(name: str, error: Exception) -> str:
    """Returns the template and, where it is known, the line that an error is from."""
    line = getattr(error, "lineno", None) if hasattr(error, "source") else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{name}, line {line}" if line else name


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """Compiles a template in an environment of its own; it draws on the rendering's
    budget."""
    extension = importlib.import_module("jinja2.ext")
    made = _environment_class()(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation_class(), extension.loopcontrols],
    )
    pass_context = importlib.import_module("jinja2").pass_context
    made.filters |= {"tojson": _to_json}
    made.filters = {n: pass_context(_filter(n, f)) for n, f in made.filters.items()}
    made.tests = {n: _test(n, f) for n, f in made.tests.items()}
    made.filters |= {n: pass_context(f) for n, f in _WATCHERS.items()}
    # Text at will; no template asks for it.
    del made.globals["lipsum"]
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return made.from_string(template)


@functools.cache
def _environment_class() -> Any:
    """Returns Jinja's sandbox, in which every operation draws on the rendering's
    budget."""
    nodes = importlib.import_module("jinja2.nodes")
    sandbox = importlib.import_module("jinja2.sandbox")

    # The base is only known where jinja2 is installed, so to mypy it is Any.
    class Bounded(sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc, name-defined, unused-ignore]
        intercepted_binops = words("+ - * / // % **")

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return watched(super()._parse(source, name, filename), nodes)

        def call(self, context: Any, function: Any, *args: Any, **named: Any) -> Any:
            budget = CURRENT.get()
            budget.step()
            args = tuple(map(budget.hold, args))
            named = {key: budget.hold(value) for key, value in named.items()}
            given = [*args, *named.values()]
            method = getattr(function, "__wrapped__", function)
            if isinstance(method, BuiltinMethodType):
                foresee(budget, method.__name__, method.__self__, given)
            elif type(function).__name__ == "Macro":
                budget.step(len(given))
            else:
                budget.make(256 + budget.walk(given))
            return budget.keep(super().call(context, function, *args, **named))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            budget = CURRENT.get()
            binary(budget, operator, left, right)
            return budget.keep(super().call_binop(context, operator, left, right))

    return Bounded


@functools.cache
def _generation_class() -> Any:
    """Returns the block `{% generation %}`, which marks what an assistant says."""
    nodes = importlib.import_module("jinja2.nodes")
    extension = importlib.import_module("jinja2.ext")

    class Generation(extension.Extension):  # type: ignore[misc, name-defined, unused-ignore]
        tags = frozenset(("generation",))

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_said")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _said(self, caller: Callable[[], str]) -> str:
            """Returns the text in the block, its place noted as transformers notes
            it."""
            text, budget = caller(), CURRENT.get()
            budget.spans.append((budget.written, budget.written + len(text)))
            return text

    return Generation


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a filter so that it pays for what it does; `map` and its like pay item by
    item."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    def bounded(context: Any, value: Any, *args: Any, **named: Any) -> Any:
        budget = CURRENT.get()
        budget.step()
        value = value if name in LAZY else budget.hold(value)
        args = tuple(map(budget.hold, args))
        foresee(budget, name, value, [*args, *named.values()])
        first = {
            "context": (context,),
            "eval_context": (getattr(context, "eval_ctx", None),),
            "environment": (getattr(context, "environment", None),),
        }.get(passed, ())
        return budget.keep(function(*first, value, *args, **named))

    return bounded


def _test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a test so that it pays for what it compares."""

    @functools.wraps(function)
    def bounded(*args: Any, **named: Any) -> Any:
        budget = CURRENT.get()
        budget.step()
        if name not in GLANCES:
            budget.walk([*args, *named.values()])
        return function(*args, **named)

    return bounded


def _spent(_: object, steps: int, size: int) -> str:
    """Pays for one round of a body: its nodes, and what they make."""
    budget = CURRENT.get()
    budget.step(steps)
    budget.make(size)
    return ""


def _counted(_: object, values: Any) -> Any:
    """Passes the values of a loop; what is no list pays as it goes."""
    budget = CURRENT.get()
    return values if isinstance(values, Sized) else budget.each(values)


def _walked(_: object, value: Any) -> Any:
    """Pays for a value that is compared or hashed."""
    CURRENT.get().walk(value)
    return value


def _printed(_: object, value: Any) -> Any:
    """Pays for a value that is written or joined."""
    budget = CURRENT.get()
    cells = budget.walk(value)
    if isinstance(value, str):
        budget.make(sys.getsizeof(value))
    else:
        budget.room(40 * cells)
        budget.make(4 * cells)
    return value


def _sliced(_: object, value: Any) -> Any:
    """Pays for a value that is sliced; the slice may be all of it."""
    budget = CURRENT.get()
    count = budget.pass_over(value)
    budget.make(sys.getsizeof(value) if isinstance(value, str) else 56 + 8 * count)
    return value


_WATCHERS: dict[str, Callable[..., Any]] = {
    "_spent": _spent,
    "_counted": _counted,
    "_walked": _walked,
    "_printed": _printed,
    "_sliced": _sliced,
}


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON without the escapes that Jinja's own filter makes for HTML."""
    width = indent if isinstance(indent, int) else len(indent or "")
    if width > MAX_INDENT or any(len(part) > MAX_INDENT for part in separators or ()):
        raise TooMuchError(f"an indent or a separator longer than {MAX_INDENT}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    if indent is None:
        return encoder.encode(value)
    parts = []
    for part in encoder.iterencode(value):
        CURRENT.get().make(len(part))
        parts.append(part)
    return "".join(parts)


def _refuse(message: object) -> None:
    raise TemplateRefusal(str(message)[:400].strip().rstrip("."))


def _now(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN:
        raise TooMuchError("a format of the time that long")
    return datetime.datetime.now().strftime(pattern)
