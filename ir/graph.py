"""Graphs and programs: the Graph level of the IR.

A :class:`Program` is a stem (ids to hidden state), blocks (one :class:`Graph` per kind
of layer) and a head (hidden state to logits). Blocks are applied in layer order; the
values a block returns replace its first inputs, the *carried* ones, for the next. All
layers read the *shared* values of the stem, and of the *sliced* ones each its own part.
What a layer keeps from call to call are the *states* that its block declares: its own,
or those of an earlier layer. A prefix encoder, where there is one, gives what they hold
before the first token.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import SerializeAsAny

from glmc.ir.node import Node
from glmc.ir.op import Op, Result
from glmc.ir.placement import PARTIAL, Cut
from glmc.ir.recipe import Recipe
from glmc.ir.state import State
from glmc.ir.types import TensorType, Type

MASK = "mask"
"""The input of an encoder's stem that says which tokens are real."""

if TYPE_CHECKING:
    import networkx


class Parameter(Node):
    """A parameter of a graph, and the recipe that assembles it from the checkpoint."""

    name: str
    type: TensorType
    recipe: Recipe
    cuts: tuple[Cut, ...] = ()
    """The ways in which it may be dealt to ranks; none once that has been decided."""


class Input(Node):
    """A value that a graph is given from outside."""

    name: str
    type: TensorType
    each_of: str | None = None
    """The stem's value ``[B,T,layers,…]`` of which every layer is given its part."""

    def __str__(self) -> str:
        whole = f" of %{self.each_of}" if self.each_of else ""
        return f"%{self.name}: {self.type}{whole}"


class Graph(Node):
    """Ops in topological order over named SSA values."""

    name: str
    inputs: tuple[Input, ...]
    params: tuple[Parameter, ...] = ()
    ops: tuple[Annotated[Op, SerializeAsAny()], ...]
    returns: tuple[str, ...]
    layers: tuple[int, ...] = ()
    """The layers a block is applied at; empty for stem and head."""
    prefix: str = ""
    """The prefix of a block's tensor names; holds ``{i}``."""
    numbers: tuple[int, ...] | None = None
    """The number that ``{i}`` stands for in each of the layers; None: their own."""
    states: tuple[State, ...] = ()
    """The states of each of the layers; none in stem and head."""

    @cached_property
    def types(self) -> Mapping[str, Type]:
        """The type of every SSA value."""
        found: dict[str, Type] = {value.name: value.type for value in self.given}
        for op in self.ops:
            found |= {result.name: result.type for result in op.results}
        return found

    @cached_property
    def producers(self) -> Mapping[str, Op]:
        """The op that makes each value; inputs and states are missing."""
        return {name: op for op in self.ops for name in op.outs}

    @property
    def given(self) -> tuple[Input | State, ...]:
        """The values defined before the first op: inputs and states."""
        return (*self.inputs, *self.states)

    def state(self, name: str) -> State | None:
        """Return a state of this graph by name, or None."""
        return next((state for state in self.states if state.name == name), None)

    def number_of(self, layer: int) -> int:
        """Return the number that ``{i}`` stands for in the tensor names of a layer of
        this block."""
        return self.numbers[self.layers.index(layer)] if self.numbers else layer

    def users(self, value: str) -> list[Op]:
        """Return the ops that read a value, in order."""
        return [op for op in self.ops if value in op.values]

    def param(self, name: str) -> Parameter | None:
        """Return a parameter of this graph by name, or None."""
        return next((param for param in self.params if param.name == name), None)

    def to_networkx(
        self, program: "Program | None" = None
    ) -> "networkx.MultiDiGraph[str]":
        """Make a networkx graph of it: who reads what, for analyses of one's own.

        A node is ``in NAME`` for a value from outside, ``param NAME``, ``op N`` for the
        op at that place, or ``out NAME`` for a value that is returned. Attributes:
        ``kind`` (``input``, ``param``, ``op``, ``return``), ``name`` (an op's is its
        mnemonic), ``type`` (:data:`~glmc.ir.types.Type`; ops have none, their results
        do), and ``op`` or ``param``, the object itself.

        There is an edge for each operand: an op may read a value twice, or several
        results of another, so it is a multigraph. Its key is the field that reads, its
        attributes ``value`` (``%x``, ``@w``) and ``type``.

        Args:
            program: where parameters that graphs share are looked up; without it their
                ``param`` and ``type`` are None.
        """
        from glmc.ir.network import network  # a compilation does without networkx

        return network(self, program)

    def _repr_svg_(self) -> str:
        """Draw the graph for a notebook."""
        from glmc.ir.draw import svg

        return svg(self)

    def replace(self, **changes: Any) -> "Graph":
        """Return a copy with some fields changed."""
        return self.model_copy(update=changes).fresh()

    def fresh(self) -> "Graph":
        """Drop cached properties of an earlier version, and return the graph."""
        for name in ("types", "producers"):
            self.__dict__.pop(name, None)
        return self


class Program(Node):
    """A whole model as graphs."""

    name: str
    dtype: str
    ranks: int = 1
    """The number of ranks that compute each layer: types are those of one of them."""
    stages: tuple[int, ...] = ()
    """The first layer of each stage, where stages have ranks of their own."""
    params: tuple[Parameter, ...] = ()
    """Parameters of all but the blocks; two may read the same one (a tied head)."""
    prefix_encoder: Graph | None = None
    """Gives the keys and values that the cache holds before any token, the same for
    every row of the batch: ``[1,N,2·layers·heads,width]``. Run once."""
    stem: Graph
    blocks: tuple[Graph, ...]
    head: Graph

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Prefix encoder if there is one, stem, blocks, head."""
        encoder = (self.prefix_encoder,) if self.prefix_encoder else ()
        return (*encoder, self.stem, *self.blocks, self.head)

    @property
    def world(self) -> int:
        """The number of ranks of all stages."""
        return self.ranks * max(1, len(self.stages))

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(len(block.layers) for block in self.blocks)

    @property
    def carried(self) -> tuple[str, ...]:
        """Names of the values that blocks hand on."""
        first = self.blocks[0]
        return tuple(value.name for value in first.inputs[: len(first.returns)])

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the stem's values that every block reads."""
        rest = self.blocks[0].inputs[len(self.carried) :]
        return tuple(value.name for value in rest if not value.each_of)

    @property
    def sliced(self) -> tuple[tuple[str, str], ...]:
        """(input, stem's value) where every layer is given a part of its own."""
        found = ((value.name, value.each_of) for value in self.blocks[0].inputs)
        return tuple((name, whole) for name, whole in found if whole)

    @property
    def decodes(self) -> bool:
        """True where the model answers token by token. The stem of an encoder is given
        a mask of real tokens instead, since all tokens see one another."""
        return MASK not in {value.name for value in self.stem.inputs}

    def own_states(self) -> Iterator[tuple[int, State]]:
        """Yield (layer, state) of every state that a layer has for itself, in order."""
        for layer, block in enumerate(self.schedule()):
            for state in block.states:
                if not state.owners:
                    yield layer, state

    def schedule(self) -> list[Graph]:
        """Return the block of every layer, in layer order."""
        of = {layer: block for block in self.blocks for layer in block.layers}
        return [of[layer] for layer in sorted(of)]

    def param(self, graph: Graph, name: str) -> Parameter | None:
        """Look up a parameter as a graph sees it: its own, or else the program's."""
        shared = next((param for param in self.params if param.name == name), None)
        return graph.param(name) or shared

    def operand_types(self, graph: Graph, op: Op) -> dict[str, Type]:
        """Map the operand fields of an op to types; undefined operands are missing."""
        found: dict[str, Type] = {}
        for field, sigil, name in op.operands():
            if sigil == "%" and name in graph.types:
                found[field] = graph.types[name]
            elif sigil == "@" and (param := self.param(graph, name)):
                found[field] = param.type
        return found

    def map_graphs(self, change: Any) -> "Program":
        """Apply ``change`` to every graph; return the same program if no graph
        changes."""
        fields: dict[str, Any] = {
            "prefix_encoder": self.prefix_encoder and change(self.prefix_encoder),
            "stem": change(self.stem),
            "blocks": tuple(change(block) for block in self.blocks),
            "head": change(self.head),
        }
        after = self.model_copy(update=fields)
        pairs = zip(self.graphs, after.graphs, strict=True)
        return self if all(old is new for old, new in pairs) else after

    def _repr_html_(self) -> str:
        """Draw the program for a notebook: stem, each kind of block, head."""
        return "".join(
            f"<h4>{graph.name}</h4>{graph._repr_svg_()}" for graph in self.graphs
        )

    @property
    def summands(self) -> tuple[int, ...]:
        """Indices of the carried values that add up to the hidden state: those the head
        reads."""
        read = {value.name for value in self.head.inputs}
        return tuple(at for at, name in enumerate(self.carried) if name in read)

    @property
    def partial(self) -> tuple[int, ...]:
        """Indices of the carried values of which each rank hands on its summand."""
        types = self.blocks[0].types
        found = enumerate(self.carried)
        return tuple(at for at, n in found if types[n].placement == PARTIAL)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number that ``{i}`` stands for in the tensor names of each layer, in
        order."""
        return tuple(
            block.number_of(layer) for layer, block in enumerate(self.schedule())
        )

    def bindings(self) -> Iterator[tuple[str, int | None, Parameter]]:
        """Yield (attribute path, number that ``{i}`` stands for, parameter) of every
        parameter."""
        for param in self.params:
            yield param.name, None, param
        for block in self.blocks:
            for layer in block.layers:
                for param in block.params:
                    path = f"layers.{layer}.{param.name}"
                    yield path, block.number_of(layer), param


__all__ = ["Graph", "Input", "Parameter", "Program", "Result"]
