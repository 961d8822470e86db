"""The order in which C++ is given weights, constants and states, and what each is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from glmc.backends.cpu.kernels import KERNELS
from glmc.backends.cpu.plan import Plan, literals
from glmc.backends.emit import own_dtypes
from glmc.ir.graph import Graph, Parameter
from glmc.ir.op import Op
from glmc.ir.state import KvType, State

LOGITS = "logits"
"""The memory of the result of the head."""

_TAKEN = frozenset(
    """
    alignas alignof asm auto bool case catch char char8_t concept const const_cast
    constexpr consteval constinit decltype default delete do double dynamic_cast enum
    explicit export extern float friend goto inline int int8_t long mutable namespace
    new noexcept nullptr operator private protected public register reinterpret_cast
    requires short signed sizeof static static_assert static_cast struct switch
    template this thread_local throw true false typedef typeid typename union
    unsigned using virtual void volatile wchar_t xor or and not compl bitand bitor
    co_await
    call layer state model w logits main std ops heads_of channels tile tiles scratch
    memory given last load store sum largest fold widen inputs
    """.split()  # noqa: SIM905 - a list of strings would be longer, and harder to read
)
"""Words of C++ that are names in Python, and names around the emitted statements."""
WORDS = {"tanh": "tanh_", "sigmoid": "sigmoid_", "max": "max_"}
"""Words of attributes that the C library has taken."""


def cpp(name: str) -> str:
    """Return the name of a value, parameter or state in C++."""
    taken = name in _TAKEN or name.startswith("next_") or name.endswith("_")
    return f"{name}_" if taken else name


def number(value: Any) -> str:
    """Return the value of an attribute as C++."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        assert value.isidentifier()
        return f"ops::{WORDS.get(value, value)}"
    if isinstance(value, float):
        return f"{value!r}f"
    return repr(value)


@dataclass(frozen=True)
class Place:
    """A pointer of a struct.

    name  of the parameter, or of the value that is a constant
    kind  what engine.py makes of it: "blocks" are packed, "plain" stays as it is,
          "f32" is fp32 whatever the model is; "constant" is computed at load time;
          "stack" is packed matrix by matrix; "codes8", "codes4", "scales" and "zeros"
          are packed as products of codes read
    type  of the member in C++
    constant  the call that computes it
    """

    name: str
    kind: str
    type: str
    constant: str = ""


def member(place: Place) -> str:
    """Return the declaration of a member."""
    return f"{place.type} {cpp(place.name)};"


class Layout:
    """Weights, constants and states in the order of the structs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        program = plan.program
        self.exact = own_dtypes(program.params, program.graphs)
        read = {
            name
            for graph in (*plan.graphs,)
            for op in graph.ops
            for name in op.params
            if not graph.param(name)
        }
        self.model = [
            self._place(param, plan.graphs, self.exact)
            for param in program.params
            if param.name in read
        ]
        self.model += list(self._constants())

    def block(self, block: Graph) -> list[Place]:
        """List the weights of each layer of a block."""
        exact = own_dtypes(block.params, (block,))
        return [self._place(param, (block,), exact) for param in block.params]

    def states(self, block: Graph) -> list[State]:
        """List the states of each layer of a block that C++ reads."""
        read = {name for op in self.plan.native(block) for _, _, name in op.states()}
        return [state for state in block.states if state.name in read]

    def places(self) -> Iterator[str]:
        """Yield kind, first weight and first state of every layer."""
        kinds = [id(block) for block in self.plan.program.blocks]
        weight, state = len(self.model), 0
        for block in self.plan.program.schedule():
            yield f"{{{kinds.index(id(block))}, {weight}, {state}}}"
            weight += len(self.block(block))
            state += sum(
                2 if isinstance(one.type, KvType) else 1 for one in self.states(block)
            )

    def _constants(self) -> Iterator[Place]:
        for name, text in self.plan.constants.items():
            yield Place(name, "constant", "Floats", text)
        for graph in self.plan.graphs:
            for op in self.plan.native(graph):
                kernel = KERNELS.get(op.mnemonic)
                if kernel and kernel.constant:
                    text = kernel.constant[0].format_map(literals(op))
                    yield Place(f"{op.outs[0]}_frequencies", "constant", "Floats", text)

    def _place(
        self, param: Parameter, graphs: tuple[Graph, ...], exact: dict[str, str]
    ) -> Place:
        dims = ", ".join(map(str, param.type.dims))
        if exact.get(param.name) == "F32":
            sizes = {1: f"ExactVector<{dims}>", 2: f"Exact<{dims}>"}
            return Place(param.name, "f32", sizes.get(len(param.type.dims), "Floats"))
        ops = [op for graph in graphs for op in self.plan.native(graph)]
        uses = {op.mnemonic for op in ops if param.name in op.params}
        for op in ops:
            if found := _coded(param, op):
                return found
        if len(param.type.dims) == 1:
            return Place(param.name, "plain", f"Vector<{dims}>")
        if uses & {"linear"}:
            return Place(param.name, "blocks", f"Weight<{dims}>")
        if "moe_experts" in uses and len(param.type.dims) == 3:
            return Place(param.name, "stack", f"Stack<{dims}>")
        kind = f"Table<{dims}>" if uses else "Unread"
        return Place(param.name, "plain", kind)


def _coded(param: Parameter, op: Op) -> Place | None:
    """Return the place of what a product of codes reads, None for another parameter."""
    if not op.mnemonic.startswith("quantized_"):
        return None
    rows, *rest = (int(dim) for dim in param.type.dims)
    groups = rest[0] if rest else 1
    field = next((f for f, _, name in op.operands() if name == param.name), None)
    if field == "weight":
        bits = int(dict(op.attributes())["bits"])
        kind = f"CodeWeight<{rows}, {groups * 8 // bits}, {bits}>"
        return Place(param.name, f"codes{bits}", kind)
    if field == "scale":
        return Place(param.name, "scales", f"Scales<{groups}>")
    if field == "zeros":
        return Place(param.name, "zeros", f"Zeros<{groups}>")
    return None
