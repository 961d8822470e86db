"""Parse the text form: raw statements become typed nodes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from glmc.ir import leaves
from glmc.ir import model as model_nodes
from glmc.ir import recipe as recipes
from glmc.ir.graph import Graph, Input, Parameter, Program
from glmc.ir.model import Model
from glmc.ir.node import Node
from glmc.ir.op import Op, Result, registry
from glmc.ir.placement import Cut
from glmc.ir.recipe import Recipe
from glmc.ir.state import State, StateType
from glmc.ir.text.lexer import Cursor
from glmc.ir.text.printer import node_name
from glmc.ir.text.syntax import (
    Call,
    Ref,
    Statement,
    call,
    ref,
    statement,
    type_,
    value,
)
from glmc.ir.types import TensorType
from glmc.ir.wording import meant


def parse_model(text: str) -> Model:
    """Read what :func:`print_model` wrote.

    Raises:
        IRSyntaxError: with line and column, when the text is not a model.
    """
    cursor = Cursor(text)
    with _shallow(cursor):
        got = _node(cursor, value(cursor))
    cursor.take("end")
    if not isinstance(got, Model):
        raise cursor.error("expected model(...)", 0)
    return got


@contextmanager
def _shallow(cursor: Cursor) -> Iterator[None]:
    """Tell where a dump is nested deeper than Python can call."""
    try:
        yield
    except RecursionError:
        raise cursor.error("the dump is nested too deeply") from None


_MAX_LAYERS = 100_000
_MAX_RANKS = 100_000

_NODES: Mapping[str, type[Node]] = {
    node_name(cls): cls
    for cls in vars(model_nodes).values()
    if isinstance(cls, type) and issubclass(cls, Node) and cls is not Node
}


def _node(cursor: Cursor, raw: Any) -> Any:
    """Turn the calls within a raw value into records."""
    if isinstance(raw, tuple):
        return tuple(_node(cursor, item) for item in raw)
    if isinstance(raw, dict):
        return {key: _node(cursor, item) for key, item in raw.items()}
    if not isinstance(raw, Call):
        return raw
    if raw.name not in _NODES or raw.args:
        raise cursor.error(
            f"{raw.name}(...) is not a record of the Model level", raw.at
        )
    fields = {key: _node(cursor, item) for key, item in raw.kwargs.items()}
    return _build(cursor, _NODES[raw.name], fields, raw.at)


def _build(cursor: Cursor, cls: type[Any], fields: Mapping[str, Any], at: int) -> Any:
    try:
        return cls(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise cursor.error(f"{where}: {first['msg']}", at) from None


def parse_program(text: str) -> Program:
    """Read what :func:`print_program` wrote.

    Raises:
        IRSyntaxError: with line and column, when the text is not a program.
    """
    cursor = Cursor(text)
    with _shallow(cursor):
        return _program(cursor)


def _program(cursor: Cursor) -> Program:
    cursor.take("name", "program")
    name, dtype = ref(cursor, "@"), cursor.take("name")
    ranks = 1
    if cursor.accept("name", "on"):
        ranks = cursor.whole(_MAX_RANKS)
        cursor.take("name", "ranks")
    stages: tuple[int, ...] = ()
    if cursor.accept("name", "in"):
        cursor.take("name", "stages")
        stages = _layers(cursor)
    params = _params(cursor, "")
    encoder = None
    if cursor.accept("name", "prefix_encoder"):
        encoder = _graph(cursor, "prefix_encoder")
    cursor.take("name", "stem")
    stem = _graph(cursor, "stem")
    blocks = []
    while cursor.accept("name", "block"):
        block_name = ref(cursor, "@")
        layers = _layers(cursor)
        numbers = _layers(cursor) if cursor.accept("name", "as") else None
        prefix = cursor.string()
        block = _graph(cursor, block_name, layers, prefix)
        blocks.append(block.replace(numbers=numbers))
    cursor.take("name", "head")
    head = _graph(cursor, "head")
    cursor.take("end")
    return Program(
        name=name,
        dtype=dtype,
        ranks=ranks,
        stages=stages,
        params=params,
        prefix_encoder=encoder,
        stem=stem,
        blocks=tuple(blocks),
        head=head,
    )


def _layers(cursor: Cursor) -> tuple[int, ...]:
    cursor.take("mark", "[")
    layers: list[int] = []
    while True:
        start = cursor.whole(_MAX_LAYERS)
        stop = cursor.whole(_MAX_LAYERS) if cursor.accept("mark", ":") else start + 1
        layers += range(start, stop)
        if not cursor.accept("mark", ","):
            break
    cursor.take("mark", "]")
    return tuple(layers)


def _states(cursor: Cursor, layers: int) -> tuple[State, ...]:
    """Parse the states that a block declares."""
    states = []
    while cursor.accept("name", "state"):
        name = ref(cursor, "%")
        cursor.take("mark", ":")
        at, kept = cursor.now.at, type_(cursor)
        if not isinstance(kept, StateType):
            raise cursor.error(f"state %{name} must be kept per token or per row", at)
        owners = _owners(cursor, layers)
        states.append(State(name=name, type=kept, owners=owners))
    return tuple(states)


def _owners(cursor: Cursor, layers: int) -> tuple[int, ...]:
    """Parse whose state each layer reads; one number stands for all layers."""
    if not cursor.accept("name", "from"):
        return ()
    at, owners = cursor.now.at, _layers(cursor)
    if len(owners) not in (1, layers):
        raise cursor.error(f"from must have 1 or {layers} numbers", at)
    return owners * layers if len(owners) == 1 else owners


def _graph(
    cursor: Cursor, name: str, layers: tuple[int, ...] = (), prefix: str = ""
) -> Graph:
    inputs = _inputs(cursor)
    states = _states(cursor, len(layers))
    params = _params(cursor, prefix)
    ops = []
    while not cursor.accept("name", "return"):
        ops.append(build_op(cursor, statement(cursor)))
    returns = [ref(cursor, "%")]
    while cursor.accept("mark", ","):
        returns.append(ref(cursor, "%"))
    return Graph(
        name=name,
        inputs=inputs,
        states=states,
        params=params,
        ops=tuple(ops),
        returns=tuple(returns),
        layers=layers,
        prefix=prefix,
    )


def _inputs(cursor: Cursor) -> tuple[Input, ...]:
    cursor.take("mark", "(")
    inputs: list[Input] = []
    while not cursor.accept("mark", ")"):
        if inputs:
            cursor.take("mark", ",")
        name = ref(cursor, "%")
        cursor.take("mark", ":")
        at, type_of = cursor.now.at, type_(cursor)
        if not isinstance(type_of, TensorType):
            raise cursor.error(f"input %{name} must be a tensor", at)
        whole = ref(cursor, "%") if cursor.accept("name", "of") else None
        inputs.append(Input(name=name, type=type_of, each_of=whole))
    return tuple(inputs)


def _params(cursor: Cursor, prefix: str) -> tuple[Parameter, ...]:
    params = []
    while cursor.sees("ref") and cursor.now.text[0] == "@":
        name = ref(cursor, "@")
        cursor.take("mark", ":")
        at, type_of = cursor.now.at, type_(cursor)
        cuts = _cuts(cursor)
        cursor.take("mark", "=")
        recipe = _recipe(cursor, value(cursor), prefix)
        if not isinstance(type_of, TensorType):
            raise cursor.error(f"parameter @{name} must be a tensor", at)
        params.append(Parameter(name=name, type=type_of, recipe=recipe, cuts=cuts))
    return tuple(params)


def _cuts(cursor: Cursor) -> tuple[Cut, ...]:
    """Parse the ways a parameter may be dealt to ranks: ``cut(heads, 0, 32)``."""
    cuts = []
    while cursor.sees("name", "cut"):
        raw = call(cursor)
        flags = {name: True for name in ("repeats", "pads") if name in raw.args}
        args = [one for one in raw.args if one not in flags]
        if len(args) != 3:
            raise cursor.error("cut takes what, a dimension, and how many", raw.at)
        fields = {"what": args[0], "dim": args[1], "units": args[2], **flags}
        cuts.append(_build(cursor, Cut, {**fields, **raw.kwargs}, raw.at))
    return tuple(cuts)


_DEQUANT: Mapping[str, type[leaves.Dequant]] = {
    "dequant_rows": leaves.DequantRows,
    "dequant_blocks": leaves.DequantBlocks,
    "dequant_groups": leaves.DequantGroups,
    "dequant_floats": leaves.DequantFloats,
    "rounded_groups": leaves.RoundedGroups,
}


_PARTS = ("codes", "scale", "zeros", "factor")
_STEPS = ("cat", "slice", "view", "permute", "stack", "shard", "on_first")


def _recipe(cursor: Cursor, raw: Any, prefix: str) -> Recipe:
    if not isinstance(raw, Call):
        raise cursor.error('expected a recipe such as "name.weight"[4096,4096]')
    try:
        return _recipe_node(cursor, raw, prefix)
    except (ValidationError, TypeError, IndexError) as error:
        raise cursor.error(f"bad recipe {raw.name}(...): {error}", raw.at) from None


def _recipe_node(cursor: Cursor, raw: Call, prefix: str) -> Recipe:
    if raw.name == "tensor":
        name, stored = raw.args
        full = name[1:] if name.startswith("/") and prefix else prefix + name
        return leaves.Tensor(name=full, stored=stored)
    if raw.name == "cat":
        parts = tuple(_recipe(cursor, part, prefix) for part in raw.args)
        return recipes.Cat(parts=parts, **raw.kwargs)
    if raw.name in _DEQUANT:
        first = [_recipe(cursor, part, prefix) for part in raw.args]
        more = {
            name: _recipe(cursor, item, prefix) if isinstance(item, Call) else item
            for name, item in raw.kwargs.items()
        }
        fields = {**dict(zip(("codes", "scale"), first, strict=False)), **more}
        return _DEQUANT[raw.name].model_validate(fields)
    of, *numbers = raw.args
    inner = _recipe(cursor, of, prefix)
    match raw.name, numbers:
        case "slice", [dim, start, stop]:
            return recipes.Slice(of=inner, dim=dim, start=start, stop=stop)
        case "view", _:
            return recipes.View(of=inner, to=tuple(numbers))
        case "permute", _:
            return recipes.Permute(of=inner, dims=tuple(numbers))
        case "stack", [count]:
            return recipes.Stack(of=inner, count=count)
        case "shard", [dim, ranks]:
            return recipes.Shard(of=inner, dim=dim, ranks=ranks, **raw.kwargs)
        case "on_first", []:
            return recipes.OnFirst(of=inner)
        case (("codes" | "scale" | "zeros" | "factor"), []):
            return recipes.Repacked.model_validate({"of": inner, "part": raw.name})
    hint = meant(raw.name, (*_STEPS, *_PARTS, *_DEQUANT))
    raise cursor.error(f"{raw.name} is not a step of a recipe{hint}", raw.at)


def build_op(cursor: Cursor, raw: Statement) -> Op:
    """Make a typed op from its line."""
    cls = registry().get(raw.call.name)
    if cls is None:
        hint = meant(raw.call.name, registry())
        raise cursor.error(f"there is no op {raw.call.name}{hint}", raw.call.at)
    results = []
    for name, type_of in raw.results:
        if type_of is None:
            raise cursor.error(f"%{name} has no type", raw.at)
        results.append(Result(name=name, type=type_of))
    fields = bind_arguments(cursor, cls, raw.call)
    named = {key: _operand(cursor, cls, key, item, raw) for key, item in fields.items()}
    return _build(cursor, cls, {**named, "results": tuple(results)}, raw.at)  # type: ignore[no-any-return]


def bind_arguments(cursor: Cursor, cls: type[Op], call: Call) -> dict[str, Any]:
    """Map fields to raw arguments: required operands by position, the rest by name."""
    required = [field for field, (_, must) in cls.operand_fields().items() if must]
    if len(call.args) != len(required):
        wants = ", ".join(required)
        raise cursor.error(f"{call.name} takes {wants} by position", call.at)
    known = [*cls.operand_fields(), *cls.attribute_fields()]
    for key in call.kwargs:
        if key not in known or key in required:
            hint = meant(key, set(known) - set(required))
            raise cursor.error(f"{call.name} has no argument {key}={hint}", call.at)
    return {**dict(zip(required, call.args, strict=True)), **call.kwargs}


def _operand(cursor: Cursor, cls: type[Op], key: str, item: Any, raw: Statement) -> Any:
    """Check a reference's sigil and return its name; attributes pass."""
    operand = cls.operand_fields().get(key)
    if operand is None:
        return item
    if not isinstance(item, Ref) or item.sigil != operand[0]:
        message = f"{raw.call.name}: {key} must be a {operand[0]}name"
        raise cursor.error(message, raw.call.at)
    return item.name
