"""Print the IR as text: one line an op, ``=`` aligned within a graph."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.leaves import Quantized, Tensor
from glmc.ir.model import Model
from glmc.ir.node import Node
from glmc.ir.op import Op
from glmc.ir.recipe import (
    Cat,
    OnFirst,
    Permute,
    Recipe,
    Repacked,
    Shard,
    Slice,
    Stack,
    View,
)
from glmc.ir.state import State

WIDTH = 96
_ALIGN = 44


def print_program(program: Program) -> str:
    """Print a program; :func:`glmc.ir.text.parse_program` reads it back."""
    ranks = f" on {program.ranks} ranks" if program.ranks > 1 else ""
    stages = f" in stages [{print_layers(program.stages)}]" if program.stages else ""
    lines = [f"program @{program.name} {program.dtype}{ranks}{stages}"]
    lines += _param_lines(program.params, "")
    for graph, head in zip(program.graphs, _headers(program), strict=True):
        lines += ["", head, *_graph_lines(graph)]
    return "\n".join(lines) + "\n"


def _headers(program: Program) -> list[str]:
    heads = ["stem", *map(_block_header, program.blocks), "head"]
    if program.prefix_encoder:
        heads.insert(0, "prefix_encoder")
    return [
        f"{head} ({', '.join(map(str, graph.inputs))})"
        for head, graph in zip(heads, program.graphs, strict=True)
    ]


def _block_header(block: Graph) -> str:
    head = f"block @{block.name}[{print_layers(block.layers)}]"
    numbers = f" as [{print_layers(block.numbers)}]" if block.numbers else ""
    return f"{head}{numbers} {json.dumps(block.prefix)}"


def print_state(state: State) -> str:
    """Print ``state %kv: kv[2,128,128] per token``, and the owners if it is another
    layer's: `` from [13]`` for all layers, else one number for each."""
    told = state.owners[:1] if len(set(state.owners)) == 1 else state.owners
    source = f" from [{print_layers(told)}]" if told else ""
    return f"state %{state.name}: {state.type}{source}"


def print_layers(layers: Sequence[int]) -> str:
    """Print layer numbers as ``0:28`` or ``0,2,4:8``."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1]:
            spans[-1][1] += 1
        else:
            spans.append([layer, layer + 1])
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in spans)


def _graph_lines(graph: Graph) -> list[str]:
    states = [f"  {print_state(state)}" for state in graph.states]
    params = _param_lines(graph.params, graph.prefix)
    ops = _aligned((_results(op), print_call(op)) for op in graph.ops)
    returns = ", ".join(f"%{name}" for name in graph.returns)
    return [*states, *params, *ops, f"  return {returns}"]


def _param_lines(params: Iterable[Parameter], prefix: str) -> list[str]:
    return _aligned(
        (
            " ".join([f"@{param.name}: {param.type}", *map(str, param.cuts)]),
            print_recipe(param.recipe, prefix),
        )
        for param in params
    )


def _aligned(lines: Iterable[tuple[str, str]]) -> list[str]:
    pairs = list(lines)
    fitting = [len(left) for left, _ in pairs if len(left) <= _ALIGN]
    width = max(fitting, default=0)
    return [f"  {left:<{width}} = {right}" for left, right in pairs]


def _results(op: Op) -> str:
    return ", ".join(map(str, op.results))


def print_call(op: Op) -> str:
    """Print the right-hand side of an op's line."""
    return f"{op.mnemonic}({', '.join(_arguments(op))})"


def _arguments(op: Op) -> Iterable[str]:
    required = op.operand_fields()
    for field, sigil, name in op.operands():
        yield f"{sigil}{name}" if required[field][1] else f"{field}={sigil}{name}"
    for field, value in op.attributes().items():
        yield f"{field}={print_value(value, is_enum(type(op), field))}"


def print_recipe(recipe: Recipe, prefix: str = "") -> str:
    """Print ``cat("q_proj.weight"[4096,4096], ...)``; names are relative to
    ``prefix``."""
    match recipe:
        case Tensor(name=name, stored=stored):
            short = name.removeprefix(prefix) if prefix else name
            if prefix and short == name:
                short = "/" + name
            return f"{json.dumps(short)}[{','.join(map(str, stored))}]"
        case Slice(of=of, dim=dim, start=start, stop=stop):
            return f"{print_recipe(of, prefix)}.slice({dim}, {start}, {stop})"
        case View(of=of, to=to):
            return f"{print_recipe(of, prefix)}.view({', '.join(map(str, to))})"
        case Permute(of=of, dims=dims):
            return f"{print_recipe(of, prefix)}.permute({', '.join(map(str, dims))})"
        case Cat(parts=parts, dim=dim):
            inner = [print_recipe(part, prefix) for part in parts]
            return f"cat({', '.join([*inner, *([f'dim={dim}'] if dim else [])])})"
        case Stack(of=of, count=count):
            return f"stack({print_recipe(of, prefix)}, {count})"
        case Shard(of=of, dim=dim, ranks=ranks, copies=copies):
            more = f", copies={copies}" if copies != 1 else ""
            return f"{print_recipe(of, prefix)}.shard({dim}, {ranks}{more})"
        case OnFirst(of=of):
            return f"{print_recipe(of, prefix)}.on_first()"
        case Repacked(of=of, part=part):
            return f"{print_recipe(of, prefix)}.{part}()"
        case Quantized():
            held = recipe.parts()
            first = [held[name] for name in ("codes", "scale") if name in held]
            inner = [print_recipe(tensor, prefix) for tensor in first]
            for name, value in recipe:
                if isinstance(value, Tensor) and name not in ("codes", "scale"):
                    inner.append(f"{name}={print_recipe(value, prefix)}")
                elif value not in (None, False) and not isinstance(value, Tensor):
                    enum = is_enum(type(recipe), name)
                    inner.append(f"{name}={print_value(value, enum)}")
            return f"{node_name(type(recipe))}({', '.join(inner)})"


def print_model(model: Model) -> str:
    """Print a model as nested records, one field a line where one line is too long."""
    return print_value(model) + "\n"


def print_value(value: Any, enum: bool = False, indent: int = 0) -> str:
    """Print the value of an attribute; ``enum`` strings are bare names."""
    if isinstance(value, str):
        return value if enum else json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        inner = [f"{key}: {print_value(item)}" for key, item in value.items()]
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, Node):
        opening = node_name(type(value)) + "("
        return _bracket(opening, _fields(value, indent), ")", indent)
    inner = [print_value(item, enum, indent + 2) for item in value]
    if all(isinstance(item, (int, float)) for item in value):
        return f"[{', '.join(inner)}]"
    return _bracket("[", inner, "]", indent)


def _fields(node: Node, indent: int) -> list[str]:
    lines = []
    for name, field in type(node).model_fields.items():
        value = getattr(node, name)
        if not field.is_required() and value == field.default:
            continue
        text = print_value(value, is_enum(type(node), name), indent + 2)
        lines.append(f"{name}={text}")
    return lines


def _bracket(opening: str, items: list[str], closing: str, indent: int) -> str:
    line = opening + ", ".join(items) + closing
    if len(line) + indent <= WIDTH and "\n" not in line:
        return line
    pad = " " * indent
    body = "".join(f"\n{pad}  {item}," for item in items)
    return f"{opening}{body}\n{pad}{closing}"


@cache
def node_name(cls: type[Node]) -> str:
    """Return the name in text: ``LinearScaling`` is written ``linear_scaling``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


@cache
def is_enum(cls: type[Node], field: str) -> bool:
    """Tell whether a field's strings come from a fixed set."""
    annotation = cls.model_fields[field].annotation
    options = [annotation, *get_args(annotation)]
    return any(get_origin(option) is Literal for option in options)
