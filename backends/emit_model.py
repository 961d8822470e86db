"""Make the variables of model.py.j2: the classes of layers, and the code around
them."""

from collections.abc import Iterable, Mapping
from typing import Any

from glmc.backends.classes import LayerClass, layer_classes
from glmc.backends.emit import (
    STATE,
    lines,
    literal,
    own_dtypes,
    parameters,
)
from glmc.backends.layout import assignment, bracketed, call, repeated
from glmc.backends.states import FROM, STATES, declaration, owner
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.lower.sublayers import PREFIX
from glmc.ir.model import Classifier, Head, Model
from glmc.ir.ops import AllGather, RopeTableLongRope
from glmc.ir.state import State
from glmc.ir.types import Type

TORCH_DTYPES = {
    "f32": "torch.float32",
    "f16": "torch.float16",
    "bf16": "torch.bfloat16",
}


def model_view(model: Model, program: Program) -> Mapping[str, Any]:
    """Return the variables of model.py.j2."""
    kind = _encoder_view if model.is_encoder else _decoder_view
    classes = layer_classes(program)
    return {
        "classes": [_class_view(program, one) for one in classes],
        "declarations": ", ".join(_declarations(program)),
        "members": _members(program, classes),
        **stem_view(program),
        "loop": loop(program),
        "step": layer_call(program),
        "makers": _makers(classes),
        "schedule": _schedule(program, classes),
        **kind(model, program),
    }


def stem_view(program: Program) -> Mapping[str, Any]:
    """Emit the stem; where there are stages, what only the first computes apart, and
    what is received and handed on between them."""
    stem = program.stem
    if not program.stages:
        return {"stem": lines(stem, 8), "first": [], "received": "", "handed_on": ""}
    everywhere = _behind(stem, [n for n in stem.returns if n not in program.carried])
    ops = tuple(op for op in stem.ops if op.outs[0] in everywhere)
    rest = tuple(op for op in stem.ops if op.outs[0] not in everywhere)
    read = tuple({*stem.returns, *(n for op in stem.ops for n in op.values)})
    carried = program.carried
    sizes = [_size(program.blocks[0].types[name]) for name in carried]
    values = ", ".join(carried)
    target = values if len(carried) > 1 else f"({values},)"
    return {
        "stem": lines(stem.replace(ops=ops, returns=read), 8),
        "first": lines(stem.replace(ops=rest, returns=read), 12),
        "received": call(target, "self.received", ["ids", *sizes], 12),
        "handed_on": f"return self.handed_on({values})",
    }


def _size(of: Type) -> str:
    """Return the sizes of a carried value behind rows and tokens."""
    return literal(tuple(of.dims[2:]))


def _behind(graph: Graph, names: Iterable[str]) -> set[str]:
    """Return the values of a graph that some are made of, and they themselves."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            op = graph.producers.get(name)
            found |= {name, *(op.outs if op else ())}
            waiting += op.values if op else ()
    return found


def _staged(program: Program) -> list[str]:
    """Emit the attributes of a model with stages: their first layers, and what only
    the ends hold."""
    if not program.stages:
        return []
    stem = program.stem
    everywhere = _behind(stem, [n for n in stem.returns if n not in program.carried])
    kept = {p for op in stem.ops if op.outs[0] in everywhere for p in op.params}
    first = {p for op in stem.ops for p in op.params} - kept
    last = {p for op in program.head.ops for p in op.params} - kept
    rows = {
        "stages": program.stages,
        "of_first": tuple(sorted(first - last)),
        "of_last": tuple(sorted(last - first)),
        "of_ends": tuple(sorted(first & last)),
    }
    return [f"{name} = {literal(row)}" for name, row in rows.items() if row]


def loop(program: Program) -> str:
    """Emit the loop over layers, with each layer's state and its parts of the sliced
    values."""
    names, each = ["layer"], ["self.layers"]
    if program.decodes:
        names.append(STATE)
        each.append("cache.layers")
    for name, whole in program.sliced:
        names.append(name)
        each.append(f"{whole}.unbind(2)")
    if len(each) == 1:
        return "for layer in self.layers:"
    within, end = ("self.of_stage(", ")):") if program.stages else ("", "):")
    opening = f"for {', '.join(names)} in {within}zip("
    return bracketed(opening, [*each, "strict=True"], end, 8, magic=False)


def layer_call(program: Program) -> str:
    """Emit ``x = layer(x, cos, sin, state, ops)``."""
    carried = program.carried
    parts = [name for name, _ in program.sliced]
    state = [STATE] if program.decodes else []
    arguments = [*carried, *program.shared, *parts, *state, "ops"]
    return call(", ".join(carried), "layer", arguments, 12)


def _decoder_view(model: Model, program: Program) -> Mapping[str, Any]:
    """Return the variables of models with a cache."""
    parted, whole = _parted(program.head)
    *head, logits = lines(parted, 8)
    ranks = program.world
    shared = f", on {ranks} ranks" if ranks > 1 else ""
    module, base = ("ranked_lm", "RankedLM") if ranks > 1 else ("causal_lm", "CausalLM")
    what, classes = f"logits [B, T, {model.vocab}]", []
    if isinstance(model.head, Head) and model.head.labels is not None:
        module, base = "scoring", "SequenceScorer"
        what = f"logits of classes [B, {model.head.labels}]"
        classes = [f"answers = {model.head.labels}"]
    return {
        "module": module,
        "base": base,
        "about": f"Token ids [B, T] to {what}{shared}.",
        "whole": whole,
        "attributes": [
            f"max_positions = {_positions(model)}",
            *_trained(model),
            f"vocab_size = {model.vocab}",
            *classes,
            f"eos_token_id = {literal(model.tokens.eos)}",
            f"pad_token_id = {model.tokens.pad!r}",
            f"default_dtype = {TORCH_DTYPES[model.dtype]}",
            *_prefix_attributes(model),
            *_turns(program),
            *_staged(program),
        ],
        "inputs": "ids, pos, cache, keep, ops",
        "scheme": model.positions is not None,
        "bounds": [name for name in program.stem.returns if name == PREFIX],
        "encoder": _encoder(program),
        "head": [_keep(program), *head],
        "answer": logits.partition(" = ")[2],
    }


def _parted(head: Graph) -> tuple[Graph, str]:
    """Return the head without the gathering of logits that it ends in, and that line:
    to choose a token ranks need not gather them."""
    *before, last = head.ops
    if not isinstance(last, AllGather):
        return head, ""
    (logits,) = last.outs
    alone = last.model_copy(update={"x": "logits"})
    (line,) = lines(head.replace(ops=(alone,)), 8)
    cut = head.replace(ops=tuple(before), returns=(last.x,))
    return cut, line.replace(f"{logits} = ", "return ", 1)


def _encoder_view(model: Model, program: Program) -> Mapping[str, Any]:
    """Return the variables of models without a cache."""
    answers = program.head.returns
    base, what = _answered(model)
    padding = model.embed.padding
    return {
        "module": "encoder",
        "base": base,
        "about": f"Token ids [B, T] to {what}, every token seeing every other.",
        "attributes": [
            f"max_positions = {_positions(model)}",
            f"vocab_size = {model.vocab}",
            f"type_vocab_size = {model.type_vocab!r}",
            *([] if padding is None else [f"padding = {padding}"]),
            f"default_dtype = {TORCH_DTYPES[model.dtype]}",
        ],
        "inputs": "ids, pos, types, mask, ops",
        "scheme": False,
        "bounds": [],
        "encoder": None,
        "head": lines(program.head, 8),
        "whole": "",
        "answer": ", ".join(answers) if len(answers) > 1 else f"({answers[0]},)",
    }


def _answered(model: Model) -> tuple[str, str]:
    """Return the base class of an encoder, and what it answers."""
    match model.head:
        case Head():
            return "MaskedLM", f"logits [B, T, {model.vocab}]"
        case Classifier(labels=labels):
            return "SequenceClassifier", f"logits of classes [B, {labels}]"
    return "Encoder", "hidden states"


def _prefix_attributes(model: Model) -> list[str]:
    """Emit the attributes for a prefix encoder and a scheme of positions, if any."""
    found = []
    if model.prefix_encoder:
        found.append(f"learned = {model.prefix_encoder.length}")
    if model.positions:
        ids = [f"{name}={value}" for name, value in model.positions]
        found.append(call("scheme", "GlmPositions", ids, 4))
    return found


def _turns(program: Program) -> list[str]:
    """Emit the positions from which on a rope has other frequencies for the whole
    text."""
    ops = [op for graph in program.graphs for op in graph.ops]
    at = {op.original_max_positions for op in ops if isinstance(op, RopeTableLongRope)}
    return [f"turns_at = {literal(tuple(sorted(at)))}"] if at else []


def _encoder(program: Program) -> Mapping[str, Any] | None:
    graph = program.prefix_encoder
    if graph is None:
        return None
    return {"lines": lines(graph, 8), "returns": ", ".join(graph.returns)}


def _members(program: Program, classes: list[LayerClass]) -> list[str]:
    """Emit the parameters of prefix encoder, stem and head around the layers."""
    each = f"{classes[0].name}() for _ in range({program.layers})"
    if len(program.blocks) > 1:
        each = "layer() for layer in LAYERS"
    encoder = program.prefix_encoder
    kept = own_dtypes(program.params, program.graphs)
    return [
        *(parameters(_of(program, encoder), kept) if encoder else ()),
        *parameters(_of(program, program.stem), kept),
        f"self.layers = nn.ModuleList({each})",
        *parameters(_of(program, program.head, program.stem), kept),
    ]


def _makers(classes: list[LayerClass]) -> list[str]:
    """Emit ``full_layer = partial(Layer, window=None)``, where a class has
    arguments."""
    return [
        call(
            block.name,
            "partial",
            [one.name, *(f"{k}={literal(v)}" for k, v in one.given(block).items())],
            0,
        )
        for one in classes
        for block in one.blocks
        if one.arguments
    ]


def _schedule(program: Program, classes: list[LayerClass]) -> str:
    """Emit ``LAYERS = ...``, where layers are of several kinds."""
    if len(program.blocks) == 1:
        return ""
    made = {
        block.name: block.name if one.arguments else one.name
        for one in classes
        for block in one.blocks
    }
    names = [made[block.name] for block in program.schedule()]
    return assignment("LAYERS", repeated(names), 0)


def _class_view(program: Program, one: LayerClass) -> Mapping[str, Any]:
    block = one.blocks[0]
    given = dict.fromkeys(one.arguments.values())
    names = [value.name for value in block.inputs]
    names += [STATE] if program.decodes else []
    return {
        "name": one.name,
        "layers": _layers_text(one.layers),
        "states": _states(one),
        "init": ", ".join(["self", *given]),
        "arguments": [f"self.{name} = {name}" for name in given],
        "parameters": parameters(block.params, own_dtypes(block.params, [block])),
        "signature": ", ".join(["self", *names, "ops"]),
        "lines": lines(block, 8, one.arguments),
        "returns": ", ".join(block.returns),
    }


def _states(one: LayerClass) -> str:
    """Emit ``states = States(kv=KeysValues(2, 128, 128))``; nothing where none are
    kept."""
    states = one.blocks[0].states
    if not states:
        return ""
    given = [f"{state.name}={_declared(one, state)}" for state in states]
    return call("states", STATES, given, 4)


def _declared(one: LayerClass, state: State) -> str:
    if not state.owners:
        return declaration(state.type).text(TORCH_DTYPES)
    owners = {
        layer: whose
        for block in one.blocks
        for kept in block.states
        if kept.name == state.name
        for layer, whose in zip(block.layers, kept.owners, strict=True)
    }
    return f"{FROM}({owner(one.layers, [owners[at] for at in one.layers])!r})"


def _declarations(program: Program) -> list[str]:
    """Return the names of the runtime that the classes of layers declare their states
    by."""
    found = [state for block in program.blocks for state in block.states]
    names = {FROM if s.owners else declaration(s.type).name for s in found}
    return sorted({*names, STATES}) if found else []


def _layers_text(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"Layer {layers[0]}."
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"Layers {layers[0]} to {layers[-1]}."
    shown = ", ".join(map(str, layers[:6])) + (", …" if len(layers) > 6 else "")
    return f"{len(layers)} layers: {shown}."


def _keep(program: Program) -> str:
    """Emit the slices to the last positions of every carried value that the head
    reads."""
    names = [value.name for value in program.head.inputs]
    return f"{', '.join(names)} = {', '.join(f'{name}[:, -keep:]' for name in names)}"


def _of(program: Program, graph: Graph, but: Graph | None = None) -> list[Parameter]:
    """Return the program's parameters that a graph reads, and another does not."""
    used = {name for op in graph.ops for name in op.params}
    used -= {name for op in but.ops for name in op.params} if but else set()
    return [param for param in program.params if param.name in used]


def _trained(model: Model) -> list[str]:
    """Emit the length that a decoder was made for, where positions do not end there."""
    if model.embed.positions or model.max_positions is None:
        return []
    return [f"trained_positions = {model.max_positions}"]


def _positions(model: Model) -> str:
    """Return the number of learned positions, or None: rotary positions do not end."""
    return repr(model.max_positions) if model.embed.positions else "None"
