"""The verifier: the rules that every program must satisfy, after every pass.

* every operand is defined before it is used, every name once;
* the types written on results are those the op infers;
* every recipe's steps fit, its shape is its parameter's, and parameters are used;
* blocks agree in inputs and in what they carry, and cover the layers exactly once;
* a state is written by one op and never read as it was before; one that belongs to
  another layer is not written, and that layer comes before;
* a prefix encoder gives keys and values for every layer;
* where several ranks compute one program, every operand is placed as its op takes it,
  parameters are assembled as their types say, and what leaves the head is whole.
"""

from collections.abc import Iterator, Mapping

from glmc.ir.dealing import placement_of, shards
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.model import Model
from glmc.ir.node import Node
from glmc.ir.op import Op, OpTypeError
from glmc.ir.placement import REPLICATED
from glmc.ir.placing import PlacingError, typed
from glmc.ir.recipe import misfit
from glmc.ir.state import KvType, State, StateType
from glmc.ir.wording import meant

LARGEST = 1 << 48
"""Above every size, position and token id, and above the bytes of every parameter."""


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


def verify_model(model: Model) -> None:
    """Check a Model before it is lowered: layers, per-layer tuples, magnitudes.

    Raises:
        VerifyError: at the first rule that is broken.
    """
    layers = sorted(layer for block in model.blocks for layer in block.layers)
    _model_rule(bool(layers), "it has no layers")
    shown = f"{str(layers)[:100]}…" if len(layers) > 30 else str(layers)
    once = layers == list(range(len(layers)))
    _model_rule(once, f"blocks cover layers {shown}, not each exactly once")
    for block in model.blocks:
        for what, of in (("numbers", block.numbers), ("kv_from", block.kv_from)):
            fits = not of or len(of) == len(block.layers)
            _model_rule(fits, f"{block.name}: {what} does not say one for each layer")
    for field, number in _whole_numbers(model, "model"):
        small = -LARGEST < number < LARGEST
        _model_rule(small, f"{field} is {float(number):.3g}, which nothing is sized by")


def _model_rule(holds: bool, message: str) -> None:
    if not holds:
        raise VerifyError("model", message)


def _whole_numbers(value: object, at: str) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a record and of records in it, with their field
    names."""
    if isinstance(value, int):
        yield at, value
    elif isinstance(value, Node):
        for name, one in value:
            yield from _whole_numbers(one, name)
    elif isinstance(value, tuple):
        for one in value:
            yield from _whole_numbers(one, at)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _whole_numbers(one, name)


def verify(program: Program) -> None:
    """Check every rule of a program.

    Raises:
        VerifyError: at the first rule that is broken.
    """
    for param in program.params:
        _assembled(program.name, param, program.ranks)
    for graph in program.graphs:
        _graph(program, graph)
    _wiring(program)


def _graph(program: Program, graph: Graph) -> None:
    given = [value.name for value in graph.given]
    defined = set(given)
    params = [param.name for param in (*graph.params, *program.params)]
    _unique(graph, "%", given)
    _unique(graph, "@", [param.name for param in graph.params])
    for param in graph.params:
        _assembled(graph.name, param, program.ranks)
    for op in graph.ops:
        for name in op.values:
            if name not in defined:
                raise _undefined(graph, op, f"%{name}", meant(name, defined))
        for name in op.params:
            if name not in params:
                raise _undefined(graph, op, f"@{name}", meant(name, params))
        _plain_operands(graph, op)
        _types(program, graph, op)
        for name in op.outs:
            new = name not in defined
            _rule(graph, new, f"%{name} is defined twice", f"%{name}")
            defined.add(name)
    for name in graph.returns:
        known = name in defined
        _rule(graph, known, f"returns undefined %{name}", "return", f"%{name}")
    _parameters(graph)
    _states(graph)


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
        inferred = typed(op, program.operand_types(graph, op))
    except (OpTypeError, PlacingError) as error:
        raise VerifyError(graph.name, f"{line}: {error}", at) from None
    written = tuple(result.type for result in op.results)
    wants = ", ".join(map(str, inferred))
    has = ", ".join(map(str, written))
    message = f"{line} is {has}, but the op gives {wants}"
    _rule(graph, inferred == written, message, at)
    ranks = getattr(op, "ranks", program.ranks)
    message = f"{line} is of {ranks} ranks, the program of {program.ranks}"
    _rule(graph, ranks == program.ranks, message, at)


def _assembled(graph: str, param: Parameter, ranks: int) -> None:
    """Check that a parameter's recipe gives its type on each of so many ranks."""
    at, wrong = f"@{param.name}", misfit(param.recipe)
    if not wrong and param.type.nbytes() >= LARGEST:
        wrong = f"{param.type} is larger than any memory"
    if not wrong and param.recipe.shape != param.type.dims:
        wrong = f"{param.type} is assembled as {list(param.recipe.shape)}"
    wrong = wrong or _misplaced(param, ranks)
    if wrong:
        raise VerifyError(graph, f"{at}: {wrong}", at)


def _misplaced(param: Parameter, ranks: int) -> str | None:
    """Return why a recipe does not assemble what each rank has, or None."""
    try:
        place = placement_of(param.recipe)
    except ValueError as error:
        return f"it is assembled of {error}"
    if place != param.type.placement:
        return f"{param.type} is assembled as {place}"
    others = {one.ranks for one in shards(param.recipe)} - {ranks}
    return f"it is dealt to {others.pop()} ranks, not {ranks}" if others else None


def _parameters(graph: Graph) -> None:
    used = {name for op in graph.ops for name in op.params}
    for param in graph.params:
        at = f"@{param.name}"
        _rule(graph, param.name in used, f"{at} is never read", at)


def _wiring(program: Program) -> None:
    first = program.blocks[0]
    for block in program.blocks:
        _rule(block, block.inputs == first.inputs, "inputs differ")
        carried = [block.types[name] for name in block.returns]
        wants = [value.type for value in block.inputs[: len(carried)]]
        _rule(block, carried == wants, "returns are not what the next layer takes")
    _stem_gives(program)
    for name in program.head.returns:
        place = program.head.types[name].placement
        _rule(program.head, place == REPLICATED, f"returns %{name}, which is {place}")
    layers = sorted(layer for block in program.blocks for layer in block.layers)
    covered = layers == list(range(len(layers)))
    _rule(first, covered, f"blocks cover layers {layers}, not each exactly once")

    firsts = program.stages
    ordered = not firsts or (firsts[0] == 0 and sorted({*firsts}) == [*firsts])
    fits = ordered and all(first < len(layers) for first in firsts)
    _rule(first, fits, f"stages begin at layers {list(firsts)}, not in order from 0")
    for block in program.blocks:
        for state in block.states:
            _owners(program, block, state)
    if program.prefix_encoder:
        _prefix_encoder(program, program.prefix_encoder)


def _stem_gives(program: Program) -> None:
    """Check that the stem returns what layers read, with a part for each layer where
    they share one value."""
    first, stem = program.blocks[0], program.stem
    for value in first.inputs:
        name = value.each_of or value.name
        given = name in stem.returns
        _rule(first, given, f"%{name} does not come from the stem")
        has, wants = stem.types[name].placement, value.type.placement
        _rule(stem, has == wants, f"%{name} is {has}, layers take it {wants}")
        if value.each_of:
            batch, tokens, *rest = value.type.dims
            whole = (batch, tokens, program.layers, *rest)
            fits = stem.types[name].dims == whole
            _rule(first, fits, f"%{name} is not {list(whole)}, a part for every layer")


def _states(graph: Graph) -> None:
    """Check that one op writes each state, that nothing reads it as it was before, and
    that states of other layers are only read."""
    block = bool(graph.layers) or not graph.states
    _rule(graph, block, "it declares states, and only layers keep some")
    newest: dict[str, str | None] = {state.name: state.name for state in graph.states}
    written: dict[str, Op] = {}
    touched: set[str] = set()
    for op in graph.ops:
        writes = []
        for _, access, name in op.states():
            state = _declared(graph, op, name, newest)
            touched.add(state.name)
            if access == "write":
                _may_write(graph, op, state, written.get(state.name))
                writes.append(state)
                written[state.name] = op
        _hands_on(graph, op, writes, newest)
    for state in graph.states:
        at, small = f"%{state.name}", state.type.elements() < LARGEST
        _rule(graph, small, f"{at}: {state.type} is larger than any memory", at)
        _rule(graph, state.name in touched, f"no op reads or writes {at}", at)
        own = not state.owners
        _rule(graph, not own or state.name in written, f"no op writes {at}", at)
    for name in graph.returns:
        kept = isinstance(graph.types[name], StateType)
        _rule(graph, not kept, f"returns the state %{name}", "return", f"%{name}")


def _plain_operands(graph: Graph, op: Op) -> None:
    """Check that no state is passed as a plain operand."""
    for field, sigil, name in op.operands():
        if sigil == "%" and field not in op.state_fields():
            plain = not isinstance(graph.types[name], StateType)
            message = f"{op.mnemonic} takes no state for {field}"
            _rule(graph, plain, message, f"%{op.outs[0]}", f"%{name}")


def _declared(
    graph: Graph, op: Op, name: str, newest: Mapping[str, str | None]
) -> State:
    """Return the state that an operand is the newest version of; refuse older ones."""
    at, operand = f"%{op.outs[0]}", f"%{name}"
    first = _origin(graph, name)
    if first is None:
        message = f"{op.mnemonic} takes {operand} for a state"
        raise VerifyError(graph.name, message, at, operand)
    now = newest[first.name]
    message = f"{op.mnemonic} reads {operand} as it was before it was written"
    message += f"; it is %{now} now" if now else ""
    _rule(graph, now == name, message, at, operand)
    return first


def _origin(graph: Graph, name: str) -> State | None:
    """Return the state that a value is a version of, following the ops that wrote
    it."""
    while (maker := graph.producers.get(name)) is not None:
        made = [r.name for r in maker.results if isinstance(r.type, StateType)]
        before = [state for _, access, state in maker.states() if access == "write"]
        if name not in made or len(made) != len(before):
            return None
        name = before[made.index(name)]
    return graph.state(name)


def _may_write(graph: Graph, op: Op, state: State, other: Op | None) -> None:
    """Check that one op writes a state, and none writes that of another layer."""
    at, operand = f"%{op.outs[0]}", f"%{state.name}"
    foreign = f"{op.mnemonic} writes {operand}, which belongs to another layer"
    _rule(graph, not state.owners, foreign, at)
    if other is not None:
        message = f"{op.mnemonic} writes {operand}, which {other.mnemonic} has written"
        raise VerifyError(graph.name, message, at)


def _hands_on(
    graph: Graph, op: Op, writes: list[State], newest: dict[str, str | None]
) -> None:
    """Check that an op returns all states that it writes, in order, or none of them."""
    made = [result for result in op.results if isinstance(result.type, StateType)]
    fits = not made or [r.type for r in made] == [state.type for state in writes]
    message = f"{op.mnemonic} returns other states than it writes"
    _rule(graph, fits, message, f"%{op.outs[0]}")
    names = [result.name for result in made] if made else [None] * len(writes)
    newest |= {state.name: name for state, name in zip(writes, names, strict=True)}


def _owners(program: Program, block: Graph, state: State) -> None:
    """Check that a state of an earlier layer exists there, is its own, and has this
    type."""
    if not state.owners:
        return
    at, name = f"%{state.name}", state.name
    one = len(state.owners) == len(block.layers)
    _rule(block, one, f"{at} does not have one owner for each layer", at)
    schedule = program.schedule()
    for layer, owner in zip(block.layers, state.owners, strict=True):
        _rule(block, owner < layer, f"layer {layer} reads {at} of layer {owner}", at)
        has = schedule[owner].state(name)
        fits = has is not None and not has.owners and has.type == state.type
        message = (
            f"layer {owner} has no {at}: {state.type} of its own for layer {layer}"
        )
        _rule(block, fits, message, at)


def _prefix_encoder(program: Program, graph: Graph) -> None:
    """Check that it has one result ``[1, rows, 2 · layers · heads, width]`` that fits
    the states of all layers."""
    kept = list(program.own_states())
    every = [layer for layer, _ in kept] == list(range(program.layers))
    kinds = {state.type for _, state in kept}
    one = every and len(kinds) == 1 and len(graph.returns) == 1
    _rule(graph, one, "the layers' states differ, or there is not one result")
    (kv,) = kinds
    if not isinstance(kv, KvType):
        raise VerifyError(graph.name, f"it fills keys and values, and layers keep {kv}")
    states = graph.types[graph.returns[0]].dims
    wants = (2 * program.layers * kv.kv_heads, kv.k_dim)
    fits = kv.k_dim == kv.v_dim and len(states) == 4 and states[2:] == wants
    _rule(graph, fits, f"gives {list(states)}, the layers take {list(wants)} a row")


def _rule(
    graph: Graph, holds: bool, message: str, about: str = "", operand: str = ""
) -> None:
    if not holds:
        raise VerifyError(graph.name, message, about, operand)
