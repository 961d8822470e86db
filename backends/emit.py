"""Program to Python source: what the templates of a build are filled with.

One op of the IR is one line of an emitted ``forward``; the helpers here write those
lines. Names come from the IR, values only through ``repr``.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmc.backends.layout import (
    assignment,
    bracketed,
    call,
    item,
    repeated,
    tuple_of,
)
from glmc.backends.template_cache import TemplateCache
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.lower.sublayers import PREFIX
from glmc.ir.model import Head, Model
from glmc.ir.op import Op
from glmc.ir.recipe import (
    Cat,
    Dequant,
    Kept,
    Permute,
    Quantized,
    Recipe,
    Slice,
    Stack,
    Tensor,
    View,
)
from glmc.ir.text.printer import node_name

# Of kinds of layers that take turns; what is longer is listed.
LONGEST_PERIOD = 8

TORCH_DTYPES = {
    "f32": "torch.float32",
    "f16": "torch.float16",
    "bf16": "torch.bfloat16",
}


def environment() -> Environment:
    """The jinja2 environment of all templates: ``#%`` begins a control line."""
    return Environment(
        loader=PackageLoader("glmc.codegen_templates", ""),
        bytecode_cache=TemplateCache(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        line_statement_prefix="#%",
        autoescape=False,
    )


def class_name(graph: Graph) -> str:
    """``sliding_layer`` becomes ``SlidingLayer``."""
    return "".join(part.capitalize() for part in graph.name.split("_"))


def lines(
    program: Program, graph: Graph, indent: int, ops: Iterable[Op] | None = None
) -> list[str]:
    """The statements of a graph's ops."""
    read = set(graph.returns) | {name for op in graph.ops for name in op.values}
    return [
        call(_target(op, read), f"ops.{op.mnemonic}", _arguments(op), indent)
        for op in (graph.ops if ops is None else ops)
    ]


def _target(op: Op, read: set[str]) -> str:
    """Result names; a result that nothing reads is ``_``."""
    return ", ".join(name if name in read else "_" for name in op.outs)


def _arguments(op: Op) -> list[str]:
    required = op.operand_fields()
    arguments = []
    for field, sigil, name in op.operands():
        actual = f"self.{name}" if sigil == "@" else name
        arguments.append(actual if required[field][1] else f"{field}={actual}")
    keywords = op.attributes().items()
    return arguments + [f"{key}={literal(value)}" for key, value in keywords]


def literal(value: Any) -> str:
    """A Python literal with double quotes, as ruff writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," * (len(value) == 1)) + ")"
    return repr(value)


def quoted(text: str) -> str:
    """A string literal, in double quotes unless the text holds some."""
    literal = repr(text)
    return literal if '"' in literal else f'"{literal[1:-1]}"'


def parameters(params: Iterable[Param], kept: Mapping[str, str]) -> list[str]:
    """``self.qkv = parameter(4608, 4096)`` for each; see :func:`own_dtypes`."""
    found = []
    for param in params:
        arguments = [str(size) for size in param.type.dims]
        own = kept.get(param.name)
        arguments += [f"dtype={_TORCH_NAMES[own]}"] if own else []
        found.append(call(f"self.{param.name}", "parameter", arguments, 8))
    return found


def own_dtypes(params: Iterable[Param], graphs: Iterable[Graph]) -> dict[str, str]:
    """Parameters that keep their dtype whatever the model is loaded in, and which, as
    safetensors calls it: codes, and what some op reads in fp32."""
    exact = {
        name
        for graph in graphs
        for op in graph.ops
        for field, _, name in op.operands()
        if field in op.exact
    }
    kept = {param.name: "I8" for param in params if param.type.dtype == "i8"}
    return kept | dict.fromkeys(sorted(exact), "F32")


_TORCH_NAMES = {"F32": "torch.float32", "I8": "torch.int8"}


def recipe(node: Recipe, indent: int) -> str:
    """A recipe as constructor calls of the build's ``recipes`` module."""
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
        case Kept(of=of, part=part):
            return _step(f"{part}_of", of, [], indent)
        case Quantized():
            return _dequant(node, indent)


def _dequant(node: Dequant, indent: int) -> str:
    inner = [stored(tensor, indent + 4) for tensor in (node.codes, node.scale)]
    for name, value in node:
        if isinstance(value, Tensor) and name not in ("codes", "scale"):
            inner.append(f"{name}={stored(value, indent + 4 + len(name) + 1)}")
        elif value is not None and not isinstance(value, Tensor):
            inner.append(f"{name}={quoted(value) if isinstance(value, str) else value}")
    return item(f"{node_name(type(node))}(", inner, ")", indent)


def _step(name: str, of: Recipe, numbers: list[str], indent: int) -> str:
    inner = stored(of, indent + 4)
    return item(f"{name}(", [inner, *numbers], ")", indent)


def stored(node: Recipe, indent: int) -> str:
    """An operand of a step or cat: a tensor is written with its stored shape."""
    if not isinstance(node, Tensor):
        return recipe(node, indent)
    sizes = [str(size) for size in node.stored]
    arguments = [quoted(node.name), *sizes]
    return item("tensor(", arguments, ")", indent)


def binding(
    path: str,
    param: Param,
    layers: str | None,
    own: str | None = None,
    numbers: str | None = None,
) -> str:
    """One ``Bind(...)`` row of weights.py, at indent 4; ``own`` is its own dtype."""
    shape = "(" + ", ".join(str(d) for d in param.type.dims)
    shape += ",)" if len(param.type.dims) == 1 else ")"
    arguments = [quoted(path), recipe(param.recipe, 8), f"shape={shape}"]
    arguments += [f"layers={layers}"] if layers else []
    arguments += [f'dtype="{own}"'] if own else []
    arguments += [f"numbers={numbers}"] if numbers else []
    return item("Bind(", arguments, ")", 4)


def layer_set(layers: tuple[int, ...]) -> str:
    """``range(28)``, ``range(1, 48, 2)``, every so many of a range, or a tuple."""
    steps = {b - a for a, b in pairwise(layers)}
    if len(steps) > 1:
        return _every(layers) or tuple_of([str(layer) for layer in layers], 8)
    step = steps.pop() if steps else 1
    first, stop = layers[0], layers[-1] + 1
    if step != 1:
        return f"range({first}, {stop}, {step})"
    return f"range({first}, {stop})" if first else f"range({stop})"


def _every(layers: tuple[int, ...]) -> str | None:
    """``[i for i in range(3, 78) if i % 4 in (0, 1, 3)]``, where a period fits."""
    span = range(layers[0], layers[-1] + 1)
    for period in range(2, LONGEST_PERIOD + 1):
        rests = tuple(sorted({layer % period for layer in layers}))
        if layers == tuple(i for i in span if i % period in rests):
            written = span if span.start else f"range({span.stop})"
            return f"[i for i in {written} if i % {period} in {rests}]"
    return None


def constructors(program: Program) -> list[str]:
    """Names of the recipe constructors that weights.py imports."""
    graphs = (param for graph in program.graphs for param in graph.params)
    rows = (binding("", param, None) for param in (*program.params, *graphs))
    called = set(re.findall(r"\b(\w+)\(", " ".join(rows)))
    known = (
        "cat",
        "codes_of",
        "dequant_blocks",
        "dequant_groups",
        "dequant_mxfp4",
        "dequant_rows",
        "permute",
        "scale_of",
        "slice_",
        "stack",
        "tensor",
        "view",
        "zeros_of",
    )
    return [name for name in known if name in called]


def model_view(model: Model, program: Program) -> Mapping[str, Any]:
    """What model.py.j2 shows."""
    kind = _encoder_view if model.is_encoder else _decoder_view
    return {
        "classes": [_class_view(program, block) for block in program.blocks],
        "members": _members(program),
        "stem": lines(program, program.stem, 8),
        "loop": _loop(program),
        "step": _layer_call(program),
        "schedule": _schedule(program),
        **kind(model, program),
    }


def _loop(program: Program) -> str:
    """What is at hand for a layer: it, its cache, its parts of the sliced values."""
    names, each = ["layer"], ["self.layers"]
    if program.caches:
        names.append("kv")
        each.append("cache.layers")
    for name, whole in program.sliced:
        names.append(name)
        each.append(f"{whole}.unbind(2)")
    if len(each) == 1:
        return "for layer in self.layers:"
    opening = f"for {', '.join(names)} in zip("
    return bracketed(opening, [*each, "strict=True"], "):", 8, magic=False)


def _layer_call(program: Program) -> str:
    """``x = layer(x, cos, sin, kv, ops)``."""
    carried = program.carried
    parts = [name for name, _ in program.sliced]
    cache = ["kv"] if program.caches else []
    arguments = [*carried, *program.shared, *parts, *cache, "ops"]
    return call(", ".join(carried), "layer", arguments, 12)


def _decoder_view(model: Model, program: Program) -> Mapping[str, Any]:
    """What is so of models with a cache."""
    *head, logits = lines(program, program.head, 8)
    shapes = [
        str(kv) if isinstance(kv, int) else f"({', '.join(map(str, kv.dims))})"
        for kv in program.caches
    ]
    return {
        "module": "causal_lm",
        "base": "CausalLM",
        "about": f"Token ids [B, T] to logits [B, T, {model.vocab}].",
        "attributes": [
            assignment("cache_shapes", repeated(shapes), 4),
            f"max_positions = {_positions(model)}",
            f"vocab_size = {model.vocab}",
            f"eos_token_id = {literal(model.tokens.eos)}",
            f"pad_token_id = {model.tokens.pad!r}",
            f"default_dtype = {TORCH_DTYPES[model.dtype]}",
            *_prefix_attributes(model),
        ],
        "inputs": "ids, pos, cache, keep, ops",
        "scheme": model.positions is not None,
        "bounds": [name for name in program.stem.returns if name == PREFIX],
        "encoder": _encoder(program),
        "head": [_keep(program), *head],
        "answer": logits.partition(" = ")[2],
    }


def _encoder_view(model: Model, program: Program) -> Mapping[str, Any]:
    """What is so of models without one."""
    answers = program.head.returns
    masked = isinstance(model.head, Head)
    what = f"logits [B, T, {model.vocab}]" if masked else "hidden states"
    return {
        "module": "encoder",
        "base": "MaskedLM" if masked else "Encoder",
        "about": f"Token ids [B, T] to {what}, every token seeing every other.",
        "attributes": [
            f"max_positions = {_positions(model)}",
            f"vocab_size = {model.vocab}",
            f"type_vocab_size = {model.type_vocab!r}",
            f"default_dtype = {TORCH_DTYPES[model.dtype]}",
        ],
        "inputs": "ids, pos, types, mask, ops",
        "scheme": False,
        "bounds": [],
        "encoder": None,
        "head": lines(program, program.head, 8),
        "answer": ", ".join(answers) if len(answers) > 1 else f"({answers[0]},)",
    }


def _prefix_attributes(model: Model) -> list[str]:
    """Where positions come from and what stands before a sequence, if they are said."""
    found = []
    if model.prefix_encoder:
        found.append(f"learned = {model.prefix_encoder.length}")
    if model.positions:
        ids = [f"{name}={value}" for name, value in model.positions]
        found.append(call("scheme", "GlmPositions", ids, 4))
    return found


def _encoder(program: Program) -> Mapping[str, Any] | None:
    graph = program.prefix_encoder
    if graph is None:
        return None
    return {"lines": lines(program, graph, 8), "returns": ", ".join(graph.returns)}


def _members(program: Program) -> list[str]:
    """The parameters of prefix encoder, stem and head around the layers."""
    kinds = program.blocks
    each = f"{class_name(kinds[0])}() for _ in range({program.layers})"
    if len(kinds) > 1:
        each = "layer() for layer in LAYERS"
    encoder = program.prefix_encoder
    kept = own_dtypes(program.params, program.graphs)
    return [
        *(parameters(_of(program, encoder), kept) if encoder else ()),
        *parameters(_of(program, program.stem), kept),
        f"self.layers = nn.ModuleList({each})",
        *parameters(_of(program, program.head, program.stem), kept),
    ]


def _schedule(program: Program) -> str:
    """``LAYERS = ...``, where layers are of several classes."""
    if len(program.blocks) == 1:
        return ""
    names = [class_name(block) for block in program.schedule()]
    return assignment("LAYERS", repeated(names), 0)


def _class_view(program: Program, block: Graph) -> Mapping[str, Any]:
    names = [value.name for value in block.inputs]
    return {
        "name": class_name(block),
        "layers": _layers_text(block.layers),
        "parameters": parameters(block.params, own_dtypes(block.params, [block])),
        "signature": ", ".join(["self", *names, "ops"]),
        "lines": lines(program, block, 8),
        "returns": ", ".join(block.returns),
    }


def _layers_text(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"Layer {layers[0]}."
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"Layers {layers[0]} to {layers[-1]}."
    shown = ", ".join(map(str, layers[:6])) + (", …" if len(layers) > 6 else "")
    return f"{len(layers)} layers: {shown}."


def _keep(program: Program) -> str:
    """The last positions of every carried value that the head reads."""
    names = [value.name for value in program.head.inputs]
    return f"{', '.join(names)} = {', '.join(f'{name}[:, -keep:]' for name in names)}"


def _of(program: Program, graph: Graph, but: Graph | None = None) -> list[Param]:
    """The program's parameters that a graph reads, and another does not."""
    used = {name for op in graph.ops for name in op.params}
    used -= {name for op in but.ops for name in op.params} if but else set()
    return [param for param in program.params if param.name in used]


def _positions(model: Model) -> str:
    """Only a learned table ends; rotary positions go on."""
    return repr(model.max_positions) if model.embed.positions else "None"
