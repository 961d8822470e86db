"""A pickle machine with the two dozen opcodes that a state dict needs.

Python's own unpickler can be told which globals to resolve, but not which opcodes to
run, how much to allocate or what to call. This one calls `Handlers` and nothing else;
`pickletools` only decodes the stream.
"""

import pickletools
from typing import IO, Any, Protocol, cast

from .strict_json import MEGABYTE

_MAX_READ = 16 * MEGABYTE
_MAX_LINE = 1000
_MARK = object()

_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE"}
)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleFault(Exception):
    """A pickle that is refused; the message says why."""


class Handlers(Protocol):
    """The actions of the machine beside building dicts, lists and tuples."""

    def find(self, module: str, name: str) -> object:
        """Returns what stands for a global."""

    def call(self, function: object, arguments: tuple[object, ...]) -> object:
        """Calls what `find` returned, and returns the result."""

    def refer(self, pid: object) -> object:
        """Returns what stands for a persistent id."""


def load(file: IO[bytes], handlers: Handlers) -> object:
    """Reads the next value in `file`.

    Raises:
        PickleFault: when the pickle is damaged or needs more than a state dict does.
    """
    machine = _Machine(handlers)
    bounded = cast(IO[bytes], _Bounded(file))
    try:
        for opcode, argument, _ in pickletools.genops(bounded):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (ValueError, LookupError, OverflowError) as error:
        raise PickleFault(f"its pickle is damaged ({error})") from None
    raise PickleFault("its pickle has no end")


class _Bounded:
    """A file of which no single read may be huge, whatever length a pickle claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise PickleFault(f"it claims a value of {size} bytes")
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline(_MAX_LINE)


class _Machine:
    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleFault("its pickle is damaged (a mark where a value belongs)")
        return value

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def step(self, name: str, argument: Any) -> None:
        """Run one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(values[::-1]))
        elif not (self.build(name) or self.remember(name, argument)):
            self.reach_out(name, argument)

    def build(self, name: str) -> bool:
        """Runs opcodes of marks and containers; False when the opcode is another."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "APPEND":
                value = self.pop()
                self.extend([value])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                value = self.pop()
                self.update([self.pop(), value])
            case "SETITEMS":
                self.update(self.pop_to_mark())
            case "BUILD":
                self.pop()  # version metadata of a state dict, which nothing needs
            case _:
                return False
        return True

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise PickleFault("it appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if not isinstance(target, dict) or not all(isinstance(k, str) for k in keys):
            raise PickleFault("it holds more than a dict of named tensors")
        target.update(zip(keys, items[1::2], strict=True))

    def remember(self, name: str, argument: Any) -> bool:
        """Runs opcodes of the memo; False when the opcode is another."""
        match name:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def reach_out(self, name: str, argument: Any) -> None:
        """Runs the opcodes with which pickles reach the world."""
        match name:
            case "GLOBAL":
                module, _, found = argument.partition(" ")
                self.stack.append(self.handlers.find(module, found))
            case "STACK_GLOBAL":
                found, module = self.pop(), self.pop()
                self.stack.append(self.handlers.find(str(module), str(found)))
            case "REDUCE":
                arguments, function = self.pop(), self.pop()
                if not isinstance(arguments, tuple):
                    raise PickleFault("it makes a call without arguments")
                self.stack.append(self.handlers.call(function, arguments))
            case "BINPERSID":
                self.stack.append(self.handlers.refer(self.pop()))
            case _:
                raise PickleFault(f"it uses {name}, which a state dict does not need")
