"""The verifier: what every program must satisfy, after every pass.

* every operand is defined before it is used, every name once;
* the types written on results are those the op infers;
* every recipe's shape is its parameter's, and parameters are used;
* blocks agree in inputs and in what they carry, and cover the layers exactly once;
* a prefix encoder gives keys and values for every layer.
"""

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op, OpTypeError


class VerifyError(Exception):
    """A program that breaks a rule; the message names graph, op and rule."""


def verify(program: Program) -> None:
    """Check a program.

    Raises:
        VerifyError: at the first rule that is broken.
    """
    for graph in program.graphs:
        _graph(program, graph)
    _wiring(program)


def _graph(program: Program, graph: Graph) -> None:
    defined = {value.name for value in graph.inputs}
    _unique(graph, [value.name for value in graph.inputs])
    _unique(graph, [param.name for param in graph.params])
    for op in graph.ops:
        for name in op.values:
            _rule(graph, name in defined, f"{op.mnemonic} reads undefined %{name}")
        for name in op.params:
            known = program.param(graph, name) is not None
            _rule(graph, known, f"{op.mnemonic} reads undefined @{name}")
        _types(program, graph, op)
        for name in op.outs:
            _rule(graph, name not in defined, f"%{name} is defined twice")
            defined.add(name)
    for name in graph.returns:
        _rule(graph, name in defined, f"returns undefined %{name}")
    _parameters(graph)


def _unique(graph: Graph, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    _rule(graph, not twice, f"{', '.join(twice)} defined twice")


def _types(program: Program, graph: Graph, op: Op) -> None:
    line = f"{', '.join('%' + name for name in op.outs)} = {op.mnemonic}(...)"
    try:
        inferred = op.infer(program.operand_types(graph, op))
    except OpTypeError as error:
        raise VerifyError(f"{graph.name}: {line}: {error}") from None
    written = tuple(result.type for result in op.results)
    wants = ", ".join(map(str, inferred))
    has = ", ".join(map(str, written))
    _rule(graph, inferred == written, f"{line} is {has}, but the op gives {wants}")


def _parameters(graph: Graph) -> None:
    used = {name for op in graph.ops for name in op.params}
    for param in graph.params:
        _rule(graph, param.name in used, f"@{param.name} is never read")
        fits = param.recipe.shape == param.type.dims
        shape = list(param.recipe.shape)
        _rule(graph, fits, f"@{param.name}: {param.type} is assembled as {shape}")


def _wiring(program: Program) -> None:
    first = program.blocks[0]
    for block in program.blocks:
        _rule(block, block.outer == first.outer, "inputs differ")
        carried = [block.types[name] for name in block.returns]
        wants = [value.type for value in block.inputs[: len(carried)]]
        _rule(block, carried == wants, "returns are not what the next layer takes")
    offered = set(program.stem.returns)
    for value in first.outer:
        given = value.name in offered
        _rule(first, given, f"%{value.name} does not come from the stem")
    layers = sorted(layer for block in program.blocks for layer in block.layers)
    covered = layers == list(range(len(layers)))
    _rule(first, covered, f"blocks cover layers {layers}, not each exactly once")

    if program.prefix_encoder:
        _prefix_encoder(program, program.prefix_encoder)


def _prefix_encoder(program: Program, graph: Graph) -> None:
    """One result, ``[1, rows, 2 · layers · heads, width]``, which all caches take."""
    kinds = {block.inputs[-1].type.dims for block in program.schedule()}
    one = len(kinds) == 1 and len(graph.returns) == 1
    _rule(graph, one, "the layers' caches differ, or there is not one result")
    ((heads, k_dim, v_dim),) = kinds
    states = graph.types[graph.returns[0]].dims
    wants = (2 * program.layers * int(heads), k_dim)
    fits = k_dim == v_dim and len(states) == 4 and states[2:] == wants
    _rule(graph, fits, f"gives {list(states)}, the caches take {list(wants)} a row")


def _rule(graph: Graph, holds: bool, message: str) -> None:
    if not holds:
        raise VerifyError(f"{graph.name}: {message}")
