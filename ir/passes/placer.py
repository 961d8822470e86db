"""Place the values of one graph, op by op."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from glmc.ir.build import infer, unique
from glmc.ir.errors import NotDealtError
from glmc.ir.graph import Graph, Parameter
from glmc.ir.ledger import Entry, count
from glmc.ir.op import Op, OpTypeError
from glmc.ir.ops import (
    Add,
    AllGather,
    AllReduce,
    Embedding,
    GatedNorm,
    MoeExperts,
    OwnExperts,
    OwnPart,
    OwnRows,
    OwnWeights,
    ReduceScatter,
    RmsNorm,
    RmsNormPart,
    SquareSum,
)
from glmc.ir.placement import PARTIAL, REPLICATED, Placement, dealt, is_shard
from glmc.ir.placing import ByHead, PlacingError, Share
from glmc.ir.recipe import OnFirst
from glmc.ir.state import KvType, RowType, StateType
from glmc.ir.types import TensorType, Type, placed

Settled = dict[str, Parameter]
"""Parameters by name, once it is decided how ranks have them."""


class Choice(Protocol):
    """A parameter as each rank may have it: whole, or its part."""

    @property
    def whole(self) -> Parameter: ...

    @property
    def part(self) -> Parameter | None: ...


class GraphPlacer:
    """Makes the graph of one rank: ops in order, and conversions where they are due.

    A sum of a replicated and a partial value is kept back until something reads it:
    where that is a sum with another partial value, both are reduced at once, as the two
    branches of a parallel residual are.
    """

    def __init__(
        self,
        graph: Graph,
        ranks: int,
        choices: Mapping[str, Choice],
        settled: Settled,
        entries: list[Entry],
    ) -> None:
        self.graph = graph
        self.ranks = ranks
        self.choices = choices
        self.settled = settled
        self.own = {param.name for param in graph.params}
        self.mine: Settled = {}
        self.entries = entries
        self.types: dict[str, Type] = {v.name: v.type for v in graph.given}
        self.taken = set(graph.types)
        self.ops: list[Op] = []
        self.converted: dict[tuple[str, Placement], str] = {}
        self.waiting: dict[str, tuple[str, str]] = {}
        """Sums kept back: name to its replicated and its partial summand."""

    def run(self) -> Graph:
        """Return the graph of one rank."""
        for op in self.graph.ops:
            try:
                self._place(op)
            except (PlacingError, OpTypeError) as error:
                raise NotDealtError(
                    f"{self.graph.name} on {self.ranks} ranks: %{op.outs[0]}:"
                    f" {error}. This is not placed yet; compile without"
                    " --tensor-parallel, or with --pipeline-parallel alone."
                ) from None
        returns = tuple(self._as(name, REPLICATED) for name in self.graph.returns)
        names = _swapped(self.graph.returns, returns)
        states = (
            state.model_copy(update={"type": self.types[state.name]})
            for state in self.graph.states
        )
        return self.graph.replace(
            ops=tuple(_renamed(op, names) for op in self.ops),
            returns=tuple(names.get(name, name) for name in returns),
            states=tuple(states),
        )

    def settled_param(self, name: str) -> Parameter:
        """Return a parameter of the graph as ranks have it."""
        return self.mine.get(name) or self.choices[name].whole

    def _place(self, op: Op) -> None:
        if isinstance(op, Add) and self._kept_back(op):
            return
        expand = _EXPANSIONS.get(type(op))
        if expand is None or not expand(self, op):
            self._emit(type(op), op, dict(_fields(op)))

    def _emit(self, cls: type[Op], op: Op, fields: dict[str, Any]) -> None:
        """Append an op of these operands and attributes, with the results of ``op``,
        and the conversions that it needs before."""
        made = cls(**fields, results=op.results)
        for _, sigil, name in made.operands():
            if sigil == "%":
                self._summed(name)
        types = {f: self._type(sigil, n) for f, sigil, n in made.operands()}
        flow = made.placing(made, types)
        for field, sigil, name in made.operands():
            wanted = flow.wants[field]
            if sigil == "@":
                self._settle(name, wanted)
            elif isinstance(self.types[name], StateType):
                self._keep(made, name, wanted)
            else:
                fields[field] = self._as(name, wanted)
        fields |= made.placing.resized(made, flow.wants, self._share(made, flow.wants))
        self._append(cls, fields, op.outs)

    def _append(self, cls: type[Op], fields: dict[str, Any], names: Any) -> Op:
        op = infer(cls, fields, tuple(names), self._type, ())
        self.ops.append(op)
        self.types |= {result.name: result.type for result in op.results}
        return op

    def _share(self, op: Op, wants: Mapping[str, Placement]) -> Share:
        """Return the part of its first value that a rank has."""
        for field, sigil, name in op.operands():
            if sigil == "%" and is_shard(wants[field]) and name in self.graph.types:
                whole, mine = self.graph.types[name], self.types[name]
                if isinstance(whole, TensorType):
                    axis = wants[field].axis
                    if mine.placement == REPLICATED:
                        return Share(1, self.ranks)
                    return Share(int(mine.dims[axis]), int(whole.dims[axis]))
        return Share(1, self.ranks)

    def _type(self, sigil: str, name: str) -> Type:
        if sigil == "%":
            return self.types[name]
        known = self._known(name)
        choice = self.choices[name]
        return (known or choice.part or choice.whole).type

    def _known(self, name: str) -> Parameter | None:
        return (self.mine if name in self.own else self.settled).get(name)

    def _settle(self, name: str, wanted: Placement) -> None:
        """Decide how ranks have a parameter."""
        choice, known = self.choices[name], self._known(name)
        found = choice.whole
        if is_shard(wanted) and choice.part:
            found = choice.part
        elif wanted == PARTIAL:
            found = _on_first(choice.whole)
        has = found.type.placement
        if has != wanted or (known and known.type.placement != wanted):
            raise PlacingError(f"@{name} would have to be {wanted}, and is {has}")
        (self.mine if name in self.own else self.settled)[name] = found

    def _keep(self, op: Op, name: str, wanted: Placement) -> None:
        """Decide how ranks have a state; later versions of it are made so."""
        kept = self.types[name]
        assert isinstance(kept, StateType)
        if kept.placement == wanted:
            return
        if kept.placement != REPLICATED or not is_shard(wanted):
            raise PlacingError(f"%{name} would have to be {wanted}, and is {kept}")
        size, rule = 0, op.placing
        if isinstance(rule, ByHead) and rule.sized:
            given = self.types[getattr(op, rule.sized)]
            size = int(given.dims[2])
            size = size if is_shard(given.placement) else size // self.ranks
        self.types[name] = placed(_resized(kept, size, self.ranks, wanted.axis), wanted)

    def _as(self, name: str, wanted: Placement) -> str:
        """Return a value in a placement, which a conversion gives it if need be."""
        self._summed(name)
        known = self.types[name]
        if known.placement == wanted:
            return name
        key = (name, wanted)
        if key not in self.converted:
            self.converted[key] = self._convert(name, wanted)
        return self.converted[key]

    def _convert(self, name: str, wanted: Placement) -> str:
        has = self.types[name]
        cls: type[Op] = AllReduce
        fields: dict[str, Any] = {}
        dealing = {"ranks": self.ranks, "dim": wanted.axis}
        if is_shard(has.placement) and wanted == REPLICATED:
            axis = has.placement.axis
            size = int(self.graph.types[name].dims[axis])
            cls, fields = AllGather, {"ranks": self.ranks, "dim": axis, "size": size}
        elif has.placement == PARTIAL and is_shard(wanted):
            cls, fields = ReduceScatter, dealing
        elif has.placement == REPLICATED and is_shard(wanted):
            copies = self._copies(has, wanted.axis)
            cls, fields = OwnPart, {**dealing, "copies": copies}
        elif has.placement != PARTIAL or wanted != REPLICATED:
            raise PlacingError(f"%{name} is {has}, and {wanted} is needed")
        result = self._fresh(f"{name}_{_SUFFIX[cls]}")
        made = self._append(cls, {"x": name, **fields}, (result,))
        self._note(f"{cls.mnemonic} of %{name}: {has}", made)
        return result

    def _copies(self, has: Type, axis: int) -> int:
        """Return how many ranks have the same part of a value: of heads, where there
        are fewer than ranks."""
        size = has.dims[axis] if isinstance(has, TensorType) else 0
        return max(1, self.ranks // size) if isinstance(size, int) and size else 1

    def _note(self, reason: str, made: Op) -> None:
        self.entries.append(
            Entry(
                fusion="place",
                graph=self.graph.name,
                layers=count(self.graph),
                status="applied",
                at=f"%{made.outs[0]}",
                reason=reason,
                made=(made.mnemonic,),
            )
        )

    def _fresh(self, name: str) -> str:
        name = unique(name, self.taken)
        self.taken.add(name)
        return name

    def _kept_back(self, op: Add) -> bool:
        """Keep a sum with a partial summand back; tell whether it was."""
        for base, other in ((op.x, op.y), (op.y, op.x)):
            partial = self._partial(other)
            if not partial:
                continue
            if base in self.waiting and len(self._readers(base)) == 1:
                whole, before = self.waiting.pop(base)
                name = self._fresh(f"{op.outs[0]}_part")
                self._append(Add, {"x": before, "y": other}, (name,))
                self.waiting[op.outs[0]] = (whole, name)
                return True
            if base not in self.waiting and not self._partial(base):
                self.waiting[op.outs[0]] = (base, other)
                return True
        return False

    def _partial(self, name: str) -> bool:
        return name in self.types and self.types[name].placement == PARTIAL

    def _readers(self, name: str) -> list[str]:
        returned = [one for one in self.graph.returns if one == name]
        return [*(op.mnemonic for op in self.graph.users(name)), *returned]

    def _summed(self, name: str) -> None:
        """Make a sum that was kept back."""
        if name in self.waiting:
            whole, partial = self.waiting.pop(name)
            reduced = self._as(partial, REPLICATED)
            self._append(Add, {"x": self._as(whole, REPLICATED), "y": reduced}, (name,))


_SUFFIX: Mapping[type[Op], str] = {
    AllReduce: "sum",
    AllGather: "all",
    ReduceScatter: "sum",
    OwnPart: "own",
}


def _fields(op: Op) -> Mapping[str, Any]:
    operands = {field: name for field, _, name in op.operands()}
    return operands | op.attributes()


def _resized(kept: StateType, size: int, ranks: int, axis: int) -> StateType:
    """Return a state of one rank's heads or channels, which are counted by an axis,
    ``size`` of them if that is known."""
    if isinstance(kept, KvType):
        heads = size or dealt(kept.kv_heads, ranks, repeats=True)
        return kept.model_copy(update={"kv_heads": heads})
    assert isinstance(kept, RowType)
    assert size
    sizes = (*kept.sizes[:axis], size, *kept.sizes[axis + 1 :])
    return kept.model_copy(update={"sizes": sizes})


def _on_first(param: Parameter) -> Parameter:
    """Return a parameter that the first rank has, and the others zeros for."""
    update = {
        "recipe": OnFirst(of=param.recipe),
        "type": placed(param.type, PARTIAL),
    }
    return param.model_copy(update=update)


def _swapped(before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
    """Return new names for values, so that what is returned has its old name."""
    names: dict[str, str] = {}
    for old, new in zip(before, after, strict=True):
        if old != new:
            names |= {old: f"{old}_own", new: old}
    return names


def _renamed(op: Op, names: Mapping[str, str]) -> Op:
    operands = {f: names.get(n, n) for f, sigil, n in op.operands() if sigil == "%"}
    results = (
        result.model_copy(update={"name": names.get(result.name, result.name)})
        for result in op.results
    )
    return op.model_copy(update={**operands, "results": tuple(results)})


def _own_rows(placer: GraphPlacer, op: Op) -> bool:
    """Look up the rows that a rank has of a table."""
    assert isinstance(op, Embedding)
    if placer._type("@", op.weight).placement == REPLICATED:
        return False
    placer._emit(OwnRows, op, {"ids": op.ids, "weight": op.weight})
    return True


def _norm_of_parts(placer: GraphPlacer, op: Op) -> bool:
    """Norm a vector of which every rank has a part by the sum of all its squares."""
    assert isinstance(op, RmsNorm)
    placer._summed(op.x)
    x, whole = placer.types[op.x], placer.graph.types[op.x]
    if x.placement.axis != len(whole.dims) - 1 or not is_shard(x.placement):
        return False
    squares = placer._fresh(f"{op.x}_squares")
    placer._append(SquareSum, {"x": op.x}, (squares,))
    total = placer._as(squares, REPLICATED)
    width = int(x.dims[-1]) * placer.ranks
    fields = {**_fields(op), "squares": total, "width": width}
    placer._emit(RmsNormPart, op, fields)
    return True


def _norm_of_groups(placer: GraphPlacer, op: Op) -> bool:
    """Norm groups on every rank, where each would not have several whole ones: of a
    single group that an op has no rule could tell whether all of it is there."""
    assert isinstance(op, GatedNorm)
    placer._summed(op.x)
    each, rest = divmod(op.groups, placer.ranks)
    if not is_shard(placer.types[op.x].placement) or (each > 1 and not rest):
        return False
    whole = {name: placer._as(getattr(op, name), REPLICATED) for name in ("x", "z")}
    placer._emit(GatedNorm, op, {**_fields(op), **whole})
    return True


def _own_experts(placer: GraphPlacer, op: Op) -> bool:
    """Count the chosen experts among those of a rank, where it has whole ones; what
    experts without matrices add, leave to the first rank."""
    assert isinstance(op, MoeExperts)
    stack = placer._type("@", op.down)
    if not is_shard(stack.placement) or (stack.placement.axis and not op.zero_experts):
        return False
    fields: dict[str, Any] = {"experts": op.experts, "weights": op.weights}
    cls: type[Op] = OwnWeights
    own = ["weights"]
    if stack.placement.axis == 0:
        cls, own = OwnExperts, ["experts", "weights"]
        fields["count"] = int(stack.dims[0])
    names = tuple(placer._fresh(f"own_{getattr(op, name)}") for name in own)
    if op.zero_experts:
        fields["first"] = placer.choices[op.down].whole.type.dims[0]
    placer._append(cls, fields, names)
    made = dict(zip(own, names, strict=True))
    placer._emit(MoeExperts, op, {**_fields(op), **made})
    return True


_EXPANSIONS: Mapping[type[Op], Callable[[GraphPlacer, Op], bool]] = {
    Embedding: _own_rows,
    RmsNorm: _norm_of_parts,
    GatedNorm: _norm_of_groups,
    MoeExperts: _own_experts,
}
"""Ops that become several where they are dealt out."""
