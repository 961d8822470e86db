"""The base class of ops, from whose fields everything else derives.

A subclass declares its operands, attributes and result types; printer, parser,
verifier, emitted calls and documentation read the fields::

    class RmsNorm(Op):
        \"\"\"y = x / sqrt(mean(x²) + eps) · w.\"\"\"

        mnemonic = "rms_norm"
        x: Value
        weight: Param
        eps: float

        def infer(self, types: Types) -> tuple[Type, ...]:
            return (types["x"],)

Operand fields are those annotated ``Value`` or ``Param``, or for what a layer keeps
``Reads`` or ``Writes`` (or any of them ``| None``, with default None); every other
field is an attribute. Required operands are positional in text and in emitted code,
optional ones and attributes are keywords.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, get_args

from pydantic.fields import FieldInfo

from glmc.ir.cost import Call, Cost, dtype_of
from glmc.ir.node import Node
from glmc.ir.placing import WHOLE, Rule
from glmc.ir.state import Access, StateType
from glmc.ir.types import TensorType, Type


class _Operand:
    def __init__(self, sigil: str, access: Access | None = None) -> None:
        self.sigil = sigil
        self.access = access


Value = Annotated[str, _Operand("%")]
"""The name of an SSA value."""
Reads = Annotated[str, _Operand("%", "read")]
"""The name of a state that is read."""
Writes = Annotated[str, _Operand("%", "write")]
"""The name of a state that is written, and perhaps read before."""
Param = Annotated[str, _Operand("@")]
"""The name of a parameter."""

Types = Mapping[str, TensorType]
"""Operand field name to type; absent optional operands are missing."""


class Result(Node):
    """A named, typed result of an op."""

    name: str
    type: TensorType | Any

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


class OpTypeError(Exception):
    """Operand types that an op does not take; the verifier adds where."""


class Op(Node):
    """One operation of a graph."""

    mnemonic: ClassVar[str]
    is_view: ClassVar[bool] = False
    """True where the results are views of an operand: nothing moves."""
    multiplies: ClassVar[bool] = False
    """True where most of its work is matrix products, which machines have units for."""
    exact: ClassVar[tuple[str, ...]] = ()
    """Parameter operands that are fp32 whatever dtype the model is loaded in."""

    between: ClassVar[tuple[str, ...]] = ()
    """Operands of each of which it makes a value of the same size, which it writes
    and reads again."""

    placing: ClassVar[Rule] = WHOLE
    """The way of placements through it, where several ranks compute one model."""
    ranked: ClassVar[bool] = False
    """True where ranks compute other things of the same operands, or communicate."""

    steady_until: ClassVar[str | None] = None
    """The attribute that holds how many positions have results which do not depend on
    the other tokens of the call; None: all positions have."""

    results: tuple[Result, ...]

    def infer(self, types: Any) -> tuple[Type, ...]:
        """Infer the result types from the operand types.

        Raises:
            OpTypeError: when the operands do not fit; the message says how.
        """
        raise NotImplementedError

    def flops(self, types: Any, call: Call) -> int:
        """Count the operations of a call; here one for each element of the results."""
        return sum(call.size(result.type.dims) for result in self.tensors)

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the bytes a call moves; here each operand read and each result written,
        once, and what lies ``between`` twice.

        States are left out: how much of one is touched, the op must say.
        """
        made = sum(call.nbytes(result.type) for result in self.tensors)
        made += 2 * sum(call.nbytes(types[field]) for field in self.between)
        return made + sum(call.nbytes(type_of) for type_of in types.values())

    def sent(self, types: Any, call: Call, ranks: int) -> int:
        """Count the bytes that one of so many ranks sends to others, at the least."""
        return 0

    def cost(self, types: Mapping[str, Type], call: Call) -> Cost:
        """Return a lower bound on the cost of a call, given the operands' types; views
        cost nothing."""
        if self.is_view:
            return Cost()
        return Cost(
            nbytes=self.nbytes(types, call),
            flops=self.flops(types, call),
            dtype=dtype_of(types.values()) if self.multiplies else "f32",
        )

    @property
    def tensors(self) -> tuple[Result, ...]:
        """The results that are no states."""
        return tuple(r for r in self.results if not isinstance(r.type, StateType))

    @classmethod
    def operand_fields(cls) -> Mapping[str, tuple[str, bool]]:
        """Map operand fields to (sigil, required): those that may be left out come
        last, each kind in declared order."""
        return _operand_fields(cls)

    @classmethod
    def attribute_fields(cls) -> tuple[str, ...]:
        """Return the names of the attribute fields, in declared order."""
        return _attribute_fields(cls)

    @classmethod
    def state_fields(cls) -> Mapping[str, Access]:
        """Map the operand fields that take a state to what the op does to it."""
        return _state_fields(cls)

    def states(self) -> Iterator[tuple[str, Access, str]]:
        """Yield (field, access, name) of every state operand that is present."""
        for field, access in self.state_fields().items():
            name = getattr(self, field)
            if name is not None:
                yield field, access, name

    def operands(self) -> Iterator[tuple[str, str, str]]:
        """Yield (field, sigil, name) of every operand that is present."""
        for field, (sigil, _) in self.operand_fields().items():
            name = getattr(self, field)
            if name is not None:
                yield field, sigil, name

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that differ from their defaults, or have none."""
        fields = type(self).model_fields
        found = {name: getattr(self, name) for name in self.attribute_fields()}
        return {
            name: value
            for name, value in found.items()
            if fields[name].is_required() or value != fields[name].default
        }

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the SSA values read."""
        return tuple(name for _, sigil, name in self.operands() if sigil == "%")

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters read."""
        return tuple(name for _, sigil, name in self.operands() if sigil == "@")

    @property
    def outs(self) -> tuple[str, ...]:
        """Names of the results."""
        return tuple(result.name for result in self.results)


@cache
def _operand_fields(cls: type[Op]) -> Mapping[str, tuple[str, bool]]:
    fields = sorted(cls.model_fields.items(), key=lambda one: not one[1].is_required())
    marks = ((name, _mark(field), field.is_required()) for name, field in fields)
    return {name: (mark.sigil, required) for name, mark, required in marks if mark}


@cache
def _state_fields(cls: type[Op]) -> Mapping[str, Access]:
    marks = ((name, _mark(field)) for name, field in cls.model_fields.items())
    return {name: mark.access for name, mark in marks if mark and mark.access}


def _mark(field: FieldInfo) -> _Operand | None:
    """Return the operand mark of a field's annotation; None for an attribute."""
    marks = [*field.metadata]
    for option in get_args(field.annotation):
        marks += getattr(option, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, _Operand)), None)


@cache
def _attribute_fields(cls: type[Op]) -> tuple[str, ...]:
    operands = cls.operand_fields()
    return tuple(n for n in cls.model_fields if n != "results" and n not in operands)


def registry() -> Mapping[str, type[Op]]:
    """Map mnemonics to op classes."""
    import_module("glmc.ir.ops")  # to be defined is to be registered
    return _registered(len(Op.__subclasses__()))


@cache
def _registered(_subclasses: int) -> Mapping[str, type[Op]]:
    return {cls.mnemonic: cls for cls in _leaves(Op)}


def _leaves(cls: type[Op]) -> Iterator[type[Op]]:
    for sub in cls.__subclasses__():
        if "mnemonic" in sub.__dict__:
            yield sub
        yield from _leaves(sub)


def expect(condition: bool, message: str) -> None:
    """Raise :class:`OpTypeError` unless ``condition`` holds."""
    if not condition:
        raise OpTypeError(message)
