"""Build a graph op by op: names are made unique, types inferred."""

from collections.abc import Callable, Sequence
from typing import Any

from glmc.ir.graph import Graph, Input, Parameter
from glmc.ir.op import Op, Result
from glmc.ir.placement import Cut
from glmc.ir.placing import typed
from glmc.ir.recipe import Recipe
from glmc.ir.state import State, StateType
from glmc.ir.types import TensorType, Type


class GraphBuilder:
    """Collects the ops of one graph.

    ``emit(Linear, "q", x="h", weight="q_proj")`` appends an op whose result is named
    ``q`` (or ``q_2`` where that is taken) and returns the name.
    """

    def __init__(
        self,
        inputs: dict[str, TensorType],
        dtype: str,
        shared: dict[str, Parameter] | None = None,
    ) -> None:
        self.types: dict[str, Type] = dict(inputs)
        self.each_of: dict[str, str] = {}
        """Inputs that are a layer's part of a value of the stem, to that value."""
        self.inputs = tuple(Input(name=n, type=t) for n, t in inputs.items())
        self.states: list[State] = []
        self.dtype = dtype
        self.shared = shared or {}
        self.params: dict[str, Parameter] = {}
        self.ops: list[Op] = []

    def free(self, names: Sequence[str], recipe: Recipe) -> str:
        """Return the first of some names that is not taken by another parameter."""
        taken = {**self.shared, **self.params}
        for name in names:
            if name not in taken or taken[name].recipe == recipe:
                return name
        return names[-1]

    def param(
        self,
        name: str,
        recipe: Recipe,
        dtype: str | None = None,
        cuts: tuple[Cut, ...] = (),
    ) -> str:
        """Declare a parameter; the same recipe declared twice is one parameter.

        ``dtype`` is for one that does not have the dtype of the model, ``cuts`` say
        how it may be dealt to ranks.
        """
        for known in (*self.params.values(), *self.shared.values()):
            if known.recipe == recipe:
                return known.name
        name = unique(name, [*self.params, *self.shared])
        type_of = TensorType(dtype=dtype or self.dtype, dims=recipe.shape)
        self.params[name] = Parameter(name=name, type=type_of, recipe=recipe, cuts=cuts)
        return name

    def state(self, name: str, kept: StateType, owners: Sequence[int] = ()) -> str:
        """Declare a state that a layer keeps, or reads of an earlier layer; return its
        name."""
        name = unique(name, self.types)
        self.states.append(State(name=name, type=kept, owners=tuple(owners)))
        self.types[name] = kept
        return name

    def emit(self, cls: type[Op], *names: str, **fields: Any) -> Any:
        """Append an op; return its result names (one: a string, more: a tuple)."""
        op = infer(cls, fields, names, self.operand_type, self.types)
        self.ops.append(op)
        self.types |= {result.name: result.type for result in op.results}
        return op.outs[0] if len(op.outs) == 1 else op.outs

    def operand_type(self, sigil: str, name: str) -> Type:
        """Return the type of a value or parameter."""
        if sigil == "%":
            return self.types[name]
        return (self.params.get(name) or self.shared[name]).type

    def graph(self, name: str, *returns: str, **more: Any) -> Graph:
        """Return the finished graph; ``more`` are fields of :class:`Graph`."""
        inputs = (
            value.model_copy(update={"each_of": self.each_of.get(value.name)})
            for value in self.inputs
        )
        return Graph(
            name=name,
            inputs=tuple(inputs),
            states=tuple(self.states),
            params=tuple(self.params.values()),
            ops=tuple(self.ops),
            returns=returns,
            **more,
        )


def infer(
    cls: type[Op],
    fields: dict[str, Any],
    names: tuple[str, ...],
    type_of: Callable[[str, str], Type],
    taken: Any,
) -> Op:
    """Make an op whose results carry the types it infers, under names not yet taken."""
    fields = {key: value for key, value in fields.items() if value is not None}
    op = cls(**fields, results=())
    types = {field: type_of(sigil, name) for field, sigil, name in op.operands()}
    results = []
    for name, found in zip(names, typed(op, types), strict=True):
        results.append(Result(name=unique(name, taken), type=found))
    return op.model_copy(update={"results": tuple(results)})


def unique(name: str, taken: Any) -> str:
    """Return ``name``, or ``name_2``, ``name_3``, … where it is taken."""
    count, candidate = 1, name
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
