"""The machine that carries a text out: frames, calls, conditions, refusals."""

import ast
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from glmc.frontends.code import attributes, calling, plain, tensors
from glmc.frontends.code.limits import Limits, Meter
from glmc.frontends.code.records import Records
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Class,
    Instance,
    Module,
    Opaque,
    Raised,
    Returned,
    Scope,
)
from glmc.frontends.code.values import Iterator as Members
from glmc.ir.errors import TextBudgetError, TextFailedError, TextRefusedError

Statement = Callable[["Machine", Any, Scope], Any]

_HOST_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


class Frame:
    """A call that has not come back: whose text runs, and at which node of it."""

    __slots__ = ("module", "node", "trying")

    def __init__(self, module: Module) -> None:
        self.module = module
        self.node: ast.stmt | ast.expr | None = None
        self.trying = 0

    @property
    def line(self) -> int:
        """The line of the node; 0 before the first."""
        return self.node.lineno if self.node else 0

    @property
    def column(self) -> int:
        """The end of the node in its line: calls in a chain begin all together."""
        return (self.node.end_col_offset or 0) if self.node else 0


class Machine:
    """Carries texts out, within limits, and notes what they do.

    ``importer`` gives what ``import NAME`` stands for. Statements and expressions are
    tables from the type of a node to the function that carries it out.
    """

    statements: Mapping[type, Statement] = {}
    expressions: Mapping[type, Statement] = {}

    def __init__(self, limits: Limits) -> None:
        self.meter = Meter(limits)
        self.limits = limits
        self.records = Records()
        self.frames: list[Frame] = []
        self.builtins: dict[str, Any] = {}
        self.importer: Callable[[str], Any] = lambda name: Absent(name)
        self.watching: dict[int, Callable[[Any], None]] = {}
        """Instances (by ``id``) whose results are shown to somebody."""

    # -- where and why

    def place(self) -> str:
        """``file:line`` of the text, which may be waiting for a contract."""
        for frame in reversed(self.frames):
            if not frame.module.contract:
                return f"{frame.module.file}:{frame.line}"
        last = self.frames[-1:]
        return f"{last[0].module.file}:{last[0].line}" if last else "the reader"

    def refuse(self, reason: str) -> NoReturn:
        """Stop with a sentence that no ``except`` of the text sees."""
        raise TextRefusedError(f"{self.place()}: {reason}.")

    def error(self, kind: str, message: str) -> Raised:
        """Make an exception of the text, to be raised."""
        cls = self.builtins.get(kind) or self.builtins["RuntimeError"]
        value = Instance(cls, {"args": (message,)})
        return Raised(value, self.place())

    def host(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call a function of ours or of torch; what it raises, the text raises."""
        try:
            return function(*given, **named)
        except RecursionError:
            raise
        except _HOST_ERRORS as error:
            kinds = [cls.__name__ for cls in type(error).__mro__]
            kind = next((k for k in kinds if k in self.builtins), "RuntimeError")
            message = " ".join(str(error).split())[:300]
            if "can't allocate memory" in message:
                raise TextBudgetError("more memory than there is") from None
            raise self.error(kind, message) from None

    # -- in and out

    def run(self, function: Any, *given: Any, **named: Any) -> Any:
        """Call something of a text from outside; its errors become ours.

        Raises:
            GlmcError: refused, over the budget, or raised by the text itself.
        """
        with self.answering():
            return self.call(function, given, named)

    @contextmanager
    def answering(self) -> Generator[None]:
        """Turn what stops a text into errors with a file and a line."""
        try:
            with torch.no_grad():
                yield
        except TextBudgetError as error:
            raise error.within(self.place()) from None
        except (RecursionError, MemoryError):
            raise TextBudgetError(f"{self.place()}: nested too deeply.") from None
        except Raised as raised:
            raise TextFailedError(self.told(raised)) from None
        finally:
            self.frames.clear()

    def told(self, raised: Raised) -> str:
        """Return the sentence for an exception that the text does not catch."""
        args = raised.value.names.get("args", ())
        what = plain.render(self, args[0]) if args else ""
        return f"{raised.place}: the text raised {raised.value.cls.name}: {what[:400]}"

    def enter(self, module: Module) -> Frame:
        """Begin a call or a module."""
        frame = Frame(module)
        self.frames.append(frame)
        if len(self.frames) > self.limits.depth:
            raise TextBudgetError(f"more than {self.limits.depth} calls within calls")
        return frame

    # -- nodes

    def evaluate(self, node: ast.expr, scope: Scope) -> Any:
        """Evaluate an expression."""
        meter = self.meter
        meter.steps -= 1
        if meter.steps < 0:
            meter.step()
        self.frames[-1].node = node
        handler = self.expressions.get(type(node))
        if handler is None:
            self.refuse(f"`{type(node).__name__.lower()}` is not read")
        return handler(self, node, scope)

    def execute(self, body: Sequence[ast.stmt], scope: Scope) -> Any:
        """Carry statements out; gives what ends them early, or None."""
        meter, frame = self.meter, self.frames[-1]
        seen = None
        if not frame.module.contract:
            seen = self.records.lines.setdefault(frame.module.file, set())
        for node in body:
            meter.step()
            frame.node = node
            if seen is not None:
                seen.add(node.lineno)
            handler = self.statements.get(type(node))
            if handler is None:
                self.refuse(f"`{type(node).__name__.lower()}` is not read")
            signal = handler(self, node, scope)
            if signal is not None:
                return signal
        return None

    # -- values

    def call(
        self, function: Any, given: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        """Call whatever can be called."""
        return calling.call(self, function, given, named)

    def get(self, value: Any, name: str) -> Any:
        """Return an attribute, or raise the text's AttributeError."""
        found = attributes.find(self, value, name)
        if found is MISSING:
            kind = plain.type_name(value)
            raise self.error("AttributeError", f"{kind!r} has no attribute {name!r}")
        return found

    def truth(self, value: Any, node: ast.expr | None = None) -> bool:
        """Tell whether a condition holds; noted where the text has it."""
        if isinstance(value, torch.Tensor):
            self.from_data("condition", node)
            outcome = bool(self.host(bool, value))
        elif isinstance(value, Absent | Opaque):
            self.refuse(f"a condition on {value.name}, which the reader does not have")
        elif isinstance(value, Instance):
            outcome = self._instance_truth(value)
        else:
            outcome = bool(value)
        if node is not None:
            self.decided(node, outcome)
        return outcome

    def _instance_truth(self, value: Instance) -> bool:
        for name in ("__bool__", "__len__"):
            if value.cls.find(name) is not MISSING:
                return self.truth(self.call(self.get(value, name), (), {}))
        return True

    def decided(self, node: ast.expr, outcome: bool) -> None:
        """Note a decision of the text."""
        module = self.frames[-1].module
        if not module.contract:
            place = (module.file, node.lineno, node.col_offset)
            self.records.decide(place, outcome)

    def from_data(self, how: str, node: ast.expr | None = None) -> None:
        """Note that the values of a tensor decide something."""
        frame = self.frames[-1]
        if not frame.module.contract:
            line, column = (node.lineno, node.col_offset) if node else (frame.line, 0)
            self.records.data.setdefault((frame.module.file, line, column), how)

    def bounded(self, sides: set[bool]) -> None:
        """Note the sides of a bound that the members of a tensor are on."""
        if not sides:
            return
        own = next((f for f in reversed(self.frames) if not f.module.contract), None)
        if own is not None:
            last = self.frames[-1]
            # One line may hold several, and a contract is called from several places.
            within = 0 if last is own else 1000 * last.line + last.column
            place = (own.module.file, own.line, 1000 * within + own.column)
            self.records.bounds.setdefault(place, set()).update(sides)

    def iterate(self, value: Any) -> Iterator[Any]:
        """Yield the members of something, each of them counted."""
        meter = self.meter
        for item in self.members(value):
            meter.steps -= 1
            if meter.steps < 0:
                meter.step()
            yield item

    def members(self, value: Any) -> Iterable[Any]:
        """Return the members that a ``for`` goes through."""
        if isinstance(value, list | tuple | dict | set | frozenset | str | range):
            return value
        if isinstance(value, Members):
            return value.members  # type: ignore[no-any-return]
        if isinstance(value, torch.Tensor):
            unbound: Iterable[Any] = tensors.apply(self, "unbind", (value,), {})
            return unbound
        if isinstance(value, plain.VIEWS):
            view: Iterable[Any] = value
            return view
        if isinstance(value, Instance) and value.cls.find("__iter__") is not MISSING:
            return self.members(self.call(self.get(value, "__iter__"), (), {}))
        if isinstance(value, Absent | Opaque):
            self.refuse(f"a loop over {value.name}, which the reader does not have")
        raise self.error("TypeError", f"{plain.type_name(value)!r} is not iterable")

    def is_instance(self, value: Any, cls: Class) -> bool:
        """Tell whether a value is an object of a class of the text."""
        return isinstance(value, Instance) and value.cls.derives(cls)

    def body(self, statements: Sequence[ast.stmt], scope: Scope) -> Any:
        """Carry the body of a function out; gives what it returns."""
        signal = self.execute(statements, scope)
        return signal.value if isinstance(signal, Returned) else None
