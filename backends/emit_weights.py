"""Make the variables of weights.py.j2: the table of parameters and their recipes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from textwrap import wrap

from glmc.backends.emit import literal, own_dtypes, quoted
from glmc.backends.layout import WIDTH, bracketed, item
from glmc.ir.graph import Parameter, Program
from glmc.ir.leaves import Dequant, Quantized, Tensor
from glmc.ir.model import Expected, Model
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
from glmc.ir.text.printer import node_name

# Of kinds of layers that take turns; what is longer is listed.
LONGEST_PERIOD = 8
# Of numbers that are listed.
SHORTEST_RANGE = 3


def weights_view(model: Model, program: Program) -> Mapping[str, object]:
    """Return the variables of weights.py.j2."""
    kept = own_dtypes(program.params, program.graphs)
    rows = [binding(p.name, p, None, kept.get(p.name)) for p in program.params]
    rows += [row.text() for row in _layer_rows(program)]
    prefix = model.optional_prefix
    return {
        "constructors": constructors(program, STEPS),
        "codes": constructors(program, CODES),
        "ranked": constructors(program, RANKED),
        "rows": rows,
        "optional_prefix": quoted(prefix) if prefix else "None",
        "old_names": _pairs("OLD_NAMES", [(n.old, n.new) for n in model.old_names]),
        "expected": _rows("EXPECTED", model.expected),
        "waived": _pairs("WAIVED", [(w.pattern, w.reason) for w in model.waivers]),
    }


@dataclass
class _Row:
    """A parameter that some layers have;
    ``numbers`` maps each layer to the number that ``{i}`` stands for."""

    param: Parameter
    own: str | None
    numbers: dict[int, int]

    def text(self) -> str:
        layers = tuple(sorted(self.numbers))
        numbers = tuple(self.numbers[layer] for layer in layers)
        return binding(
            f"layers.{{i}}.{self.param.name}",
            self.param,
            layer_set(layers),
            self.own,
            None if numbers == layers else layer_set(numbers),
        )


def _layer_rows(program: Program) -> list[_Row]:
    """Return the parameters of layers; blocks that have one alike share a row."""
    rows: list[_Row] = []
    for block in program.blocks:
        kept = own_dtypes(block.params, [block])
        numbers = {layer: block.number_of(layer) for layer in block.layers}
        for param in block.params:
            own = kept.get(param.name)
            alike = (row for row in rows if (row.param, row.own) == (param, own))
            if row := next(alike, None):
                row.numbers |= numbers
            else:
                rows.append(_Row(param, own, dict(numbers)))
    return rows


def binding(
    path: str,
    param: Parameter,
    layers: str | None,
    own: str | None = None,
    numbers: str | None = None,
) -> str:
    """Emit one ``Bind(...)`` row of weights.py, at indent 4; ``own`` is its own
    dtype."""
    shape = "(" + ", ".join(str(d) for d in param.type.dims)
    shape += ",)" if len(param.type.dims) == 1 else ")"
    arguments = [quoted(path), recipe(param.recipe, 8), f"shape={shape}"]
    arguments += [f"layers={layers}"] if layers else []
    arguments += [f'dtype="{own}"'] if own else []
    arguments += [f"numbers={numbers}"] if numbers else []
    return item("Bind(", arguments, ")", 4)


def recipe(node: Recipe, indent: int) -> str:
    """Emit a recipe as constructor calls of the build's ``recipes`` module."""
    match node:
        case Tensor(name=name):
            return quoted(name)
        case Slice(of=of, dim=dim, start=start, stop=stop):
            numbers = [str(dim), str(start), str(stop)]
            return _step("slice_", of, numbers, indent)
        case View(of=of, to=to):
            return _step("view", of, [str(size) for size in to], indent)
        case Permute(of=of, dims=dims):
            return _step("permute", of, [str(dim) for dim in dims], indent)
        case Cat(parts=parts, dim=dim):
            inner = [stored(part, indent + 4) for part in parts]
            inner += [f"dim={dim}"] if dim else []
            return item("cat(", inner, ")", indent)
        case Stack(of=of, count=count):
            return _step("stack", of, [str(count)], indent)
        case Shard(of=of, dim=dim, copies=copies):
            sizes = [dim, node.shape[dim], of.shape[dim]]
            sizes += [copies] if copies != 1 else []
            return _step("shard", of, list(map(str, sizes)), indent)
        case OnFirst(of=of):
            return _step("on_first", of, [], indent)
        case Repacked(of=of, part=part):
            return _step(f"{part}_of", of, [], indent)
        case Quantized():
            return _dequant(node, indent)


def _dequant(node: Dequant, indent: int) -> str:
    parts = node.parts()
    first = [parts[name] for name in ("codes", "scale") if name in parts]
    inner = [stored(tensor, indent + 4) for tensor in first]
    for name, value in node:
        if isinstance(value, Tensor) and name not in ("codes", "scale"):
            inner.append(_tensor(value, indent + 4, f"{name}="))
        elif value not in (None, False) and not isinstance(value, Tensor):
            inner.append(f"{name}={quoted(value) if isinstance(value, str) else value}")
    return item(f"{node_name(type(node))}(", inner, ")", indent)


def _step(name: str, of: Recipe, numbers: list[str], indent: int) -> str:
    inner = stored(of, indent + 4)
    return item(f"{name}(", [inner, *numbers], ")", indent)


def stored(node: Recipe, indent: int) -> str:
    """Emit an operand of a step or cat: a tensor is written with its stored shape."""
    return _tensor(node, indent) if isinstance(node, Tensor) else recipe(node, indent)


def _tensor(node: Tensor, indent: int, keyword: str = "") -> str:
    sizes = [str(size) for size in node.stored]
    return item(f"{keyword}tensor(", [quoted(node.name), *sizes], ")", indent)


def layer_set(layers: tuple[int, ...]) -> str:
    """Emit layer numbers: ``range(28)``, ``range(1, 48, 2)``, every so many of a range,
    or a list."""
    steps = {b - a for a, b in pairwise(layers)}
    if len(steps) > 1:
        return _every(layers) or f"[{', '.join(_ranges(layers))}]"
    step = steps.pop() if steps else 1
    first, stop = layers[0], layers[-1] + 1
    if step != 1:
        return f"range({first}, {stop}, {step})"
    return f"range({first}, {stop})" if first else f"range({stop})"


def _every(layers: tuple[int, ...]) -> str | None:
    """Emit ``[i for i in range(3, 78) if i % 4 in (0, 1, 3)]``, where a period fits."""
    span = range(layers[0], layers[-1] + 1)
    for period in range(2, LONGEST_PERIOD + 1):
        rests = tuple(sorted({layer % period for layer in layers}))
        if layers == tuple(i for i in span if i % period in rests):
            written = span if span.start else f"range({span.stop})"
            return f"[i for i in {written} if i % {period} in {rests}]"
    return None


def _ranges(layers: tuple[int, ...]) -> Iterator[str]:
    """Yield items of a list: ``0``, ``1``, ``*range(2, 75, 4)``; equal steps are
    one."""
    while layers:
        steps = [b - a for a, b in pairwise(layers)]
        equal = 1 + sum(1 for _ in takewhile(steps[:1].__contains__, steps))
        taken = equal if equal > SHORTEST_RANGE else 1
        yield f"*{layer_set(layers[:taken])}" if taken > 1 else str(layers[0])
        layers = layers[taken:]


STEPS = ("cat", "permute", "slice_", "stack", "tensor", "view")
"""The constructors of ``runtime/recipes.py``."""
CODES = (
    *("codes_of", "dequant_blocks", "dequant_floats", "dequant_groups"),
    *("dequant_rows", "factor_of", "rounded_groups", "scale_of", "zeros_of"),
)
"""Those of ``runtime/codes.py``, which builds of float weights go without."""


RANKED = ("on_first", "shard")
"""Those of ``runtime/dealt.py``, which only builds of several ranks have."""


def constructors(program: Program, known: Sequence[str]) -> list[str]:
    """Return the names of the recipe constructors that weights.py imports."""
    graphs = (param for graph in program.graphs for param in graph.params)
    rows = (binding("", param, None) for param in (*program.params, *graphs))
    called = set(re.findall(r"\b(\w+)\(", " ".join(rows)))
    return [name for name in known if name in called]


def _rows(target: str, expected: Iterable[Expected]) -> str:
    """Emit ``target = (("a", "all", 0.5, "why", False),)``; empty where there is
    nothing."""
    rows = [item("(", [_within(value) for _, value in one], ")", 4) for one in expected]
    lines = "".join(f"    {row},\n" for row in rows)
    return f"{target} = (\n{lines})" if rows else ""


def _within(value: object) -> str:
    """Emit a value of a row of ``EXPECTED``: a long text in pieces, one a line."""
    if not isinstance(value, str) or len(quoted(value)) < WIDTH - 8:
        return literal(value)
    pieces = wrap(value, WIDTH - 16, drop_whitespace=False, break_on_hyphens=False)
    lines = "".join(f"{' ' * 12}{quoted(piece)}\n" for piece in pieces)
    return f"(\n{lines}{' ' * 8})"


def _pairs(target: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Emit ``target = (("a", "b"), ...)``."""
    rows = [item("(", [quoted(text) for text in pair], ")", 4) for pair in pairs]
    if len(rows) != 1:
        return bracketed(f"{target} = (", rows, ")", 0)
    line = f"{target} = ({rows[0]},)"
    return line if len(line) <= WIDTH else f"{target} = (\n    {rows[0]},\n)"
