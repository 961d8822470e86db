"""The verifier: what every program must satisfy, after every pass.

* every operand is defined before it is used, every name once;
* the types written on results are those the op infers;
* every recipe's steps fit, its shape is its parameter's, and parameters are used;
* blocks agree in inputs and in what they carry, and cover the layers exactly once;
* a layer that reads the cache of another does not write, and that one comes before it;
* a prefix encoder gives keys and values for every layer.
"""

from glmc.ir.graph import Graph, Param, Program
from glmc.ir.op import Op, OpTypeError
from glmc.ir.recipe import misfit
from glmc.ir.wording import meant


class VerifyError(Exception):
    """A program that breaks a rule; the message names graph, op and rule.

    ``about`` is the definition that breaks it (``%h1``, ``@qkv``, ``return``) and
    ``operand`` what is wrong in it, where that is known: enough to find the line in a
    dump (:func:`glmc.ir.text.located`).
    """

    def __init__(
        self, graph: str, message: str, about: str = "", operand: str = ""
    ) -> None:
        super().__init__(f"{graph}: {message}")
        self.graph, self.about, self.operand = graph, about, operand


def verify(program: Program) -> None:
    """Check a program.

    Raises:
        VerifyError: at the first rule that is broken.
    """
    for param in program.params:
        _assembled(program.name, param)
    for graph in program.graphs:
        _graph(program, graph)
    _wiring(program)


def _graph(program: Program, graph: Graph) -> None:
    defined = {value.name for value in graph.inputs}
    params = [param.name for param in (*graph.params, *program.params)]
    _unique(graph, "%", [value.name for value in graph.inputs])
    _unique(graph, "@", [param.name for param in graph.params])
    for param in graph.params:
        _assembled(graph.name, param)
    for op in graph.ops:
        for name in op.values:
            if name not in defined:
                raise _undefined(graph, op, f"%{name}", meant(name, defined))
        for name in op.params:
            if name not in params:
                raise _undefined(graph, op, f"@{name}", meant(name, params))
        _types(program, graph, op)
        for name in op.outs:
            new = name not in defined
            _rule(graph, new, f"%{name} is defined twice", f"%{name}")
            defined.add(name)
    for name in graph.returns:
        known = name in defined
        _rule(graph, known, f"returns undefined %{name}", "return", f"%{name}")
    _parameters(graph)


def _undefined(graph: Graph, op: Op, operand: str, hint: str) -> VerifyError:
    message = f"{op.mnemonic} reads undefined {operand}{hint}"
    return VerifyError(graph.name, message, f"%{op.outs[0]}", operand)


def _unique(graph: Graph, sigil: str, names: list[str]) -> None:
    for name in names:
        _rule(graph, names.count(name) == 1, f"{name} defined twice", sigil + name)


def _types(program: Program, graph: Graph, op: Op) -> None:
    at = f"%{op.outs[0]}"
    line = f"{', '.join('%' + name for name in op.outs)} = {op.mnemonic}(...)"
    try:
        inferred = op.infer(program.operand_types(graph, op))
    except OpTypeError as error:
        raise VerifyError(graph.name, f"{line}: {error}", at) from None
    written = tuple(result.type for result in op.results)
    wants = ", ".join(map(str, inferred))
    has = ", ".join(map(str, written))
    message = f"{line} is {has}, but the op gives {wants}"
    _rule(graph, inferred == written, message, at)


def _assembled(graph: str, param: Param) -> None:
    """A parameter's recipe gives its type."""
    at, wrong = f"@{param.name}", misfit(param.recipe)
    if not wrong and param.recipe.shape != param.type.dims:
        wrong = f"{param.type} is assembled as {list(param.recipe.shape)}"
    if wrong:
        raise VerifyError(graph, f"{at}: {wrong}", at)


def _parameters(graph: Graph) -> None:
    used = {name for op in graph.ops for name in op.params}
    for param in graph.params:
        at = f"@{param.name}"
        _rule(graph, param.name in used, f"{at} is never read", at)


def _wiring(program: Program) -> None:
    first = program.blocks[0]
    for block in program.blocks:
        _rule(block, block.outer == first.outer, "inputs differ")
        carried = [block.types[name] for name in block.returns]
        wants = [value.type for value in block.inputs[: len(carried)]]
        _rule(block, carried == wants, "returns are not what the next layer takes")
    _stem_gives(program)
    layers = sorted(layer for block in program.blocks for layer in block.layers)
    covered = layers == list(range(len(layers)))
    _rule(first, covered, f"blocks cover layers {layers}, not each exactly once")

    for block in program.blocks:
        _sources(program, block)
    if program.prefix_encoder:
        _prefix_encoder(program, program.prefix_encoder)


def _stem_gives(program: Program) -> None:
    """What layers read comes from the stem, and what each has a part of has as many."""
    first, stem = program.blocks[0], program.stem
    for value in first.outer:
        name = value.each_of or value.name
        given = name in stem.returns
        _rule(first, given, f"%{name} does not come from the stem")
        if value.each_of:
            batch, tokens, *rest = value.type.dims
            whole = (batch, tokens, program.layers, *rest)
            fits = stem.types[name].dims == whole
            _rule(first, fits, f"%{name} is not {list(whole)}, a part for every layer")


def _sources(program: Program, block: Graph) -> None:
    """A layer without a cache of its own reads one that was filled before."""
    if not block.kv_from:
        return
    one = len(block.kv_from) == len(block.layers)
    _rule(block, one, "kv_from does not have one source for each layer")
    for op in block.ops:
        message = f"{op.mnemonic} fills the cache of another layer"
        _rule(block, not op.fills_cache, message, f"%{op.outs[0]}")
    schedule = program.schedule()
    for layer, source in zip(block.layers, block.kv_from, strict=True):
        _rule(block, source < layer, f"layer {layer} reads the cache of {source}")
        fits = not schedule[source].kv_from and schedule[source].kv == block.kv
        message = f"layer {source} has no {block.kv} of its own for layer {layer}"
        _rule(block, fits, message)


def _prefix_encoder(program: Program, graph: Graph) -> None:
    """One result, ``[1, rows, 2 · layers · heads, width]``, which all caches take."""
    own = not any(block.kv_from for block in program.blocks)
    _rule(graph, own, "it gives keys and values to layers that have no cache")
    kinds = {block.inputs[-1].type.dims for block in program.schedule()}
    one = len(kinds) == 1 and len(graph.returns) == 1
    _rule(graph, one, "the layers' caches differ, or there is not one result")
    ((heads, k_dim, v_dim),) = kinds
    states = graph.types[graph.returns[0]].dims
    wants = (2 * program.layers * int(heads), k_dim)
    fits = k_dim == v_dim and len(states) == 4 and states[2:] == wants
    _rule(graph, fits, f"gives {list(states)}, the caches take {list(wants)} a row")


def _rule(
    graph: Graph, holds: bool, message: str, about: str = "", operand: str = ""
) -> None:
    if not holds:
        raise VerifyError(graph.name, message, about, operand)
