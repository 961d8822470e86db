"""Rules that op classes declare: the ways of placements through ops.

A rule takes an op and the types of its operands and returns what it wants of each
operand, and what its results then are. The pass that deals a program to ranks converts
operands to what is wanted; the verifier asks that nothing is left to convert. Where no
operand is anything but replicated, every rank computes the same, and no rule is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glmc.ir.placement import PARTIAL, REPLICATED, Placement, is_shard, shard
from glmc.ir.types import TensorType, Type, placed

if TYPE_CHECKING:
    from glmc.ir.op import Op

Wants = dict[str, Placement]
"""Operand field to the placement that the op takes it in."""


class PlacingError(Exception):
    """Operands in placements that an op does not take, whatever they are converted
    to."""


@dataclass(frozen=True)
class Flow:
    """The placements that an op wants its operands in, and those of its results."""

    wants: Wants
    gives: tuple[Placement, ...]


@dataclass(frozen=True)
class Rule:
    """The rule of ops that compute whole tensors: partial ones are summed before, parts
    are refused."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        for field, type_of in types.items():
            if is_shard(type_of.placement) and op.operand_fields()[field][0] == "%":
                raise PlacingError(
                    f"{op.mnemonic} takes no part of {field}, and is given {type_of}"
                )
        return whole(op, types)

    def resized(self, op: "Op", wants: Wants, share: "Share") -> dict[str, Any]:
        """Return the attributes that are others for one rank's part."""
        return {}


@dataclass(frozen=True)
class Share:
    """A part of a size: ``mine`` of ``all`` of it."""

    mine: int
    all: int

    def of(self, size: int) -> int:
        """Return this part of a size.

        Raises:
            PlacingError: where it is no whole number.
        """
        part, rest = divmod(size * self.mine, self.all)
        if rest:
            raise PlacingError(f"{size} is not a multiple of {self.all // self.mine}")
        return part


def whole(op: "Op", types: Mapping[str, Type]) -> Flow:
    """Return the flow of an op all of whose operands are replicated."""
    return Flow(dict.fromkeys(types, REPLICATED), (REPLICATED,) * len(op.results))


def _first_shard(types: Mapping[str, Type], fields: tuple[str, ...]) -> int | None:
    """Return the axis of the first operand of some that is dealt out, or None."""
    axes = (types[f].placement for f in fields if f in types)
    return next((place.axis for place in axes if is_shard(place)), None)


@dataclass(frozen=True)
class Pointwise(Rule):
    """Each element by itself, or each row of the last dimension where ``rows``.

    ``over`` are the values, the first of which says how many dimensions there are;
    parameters align with its last ones. A sum (``linear="all"``) of partial values is
    partial; ``"first"`` may be so in its first operand, whatever the others are.
    """

    over: tuple[str, ...] = ("x",)
    linear: str = "none"
    rows: bool = False

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        fields = tuple(field for field in self.over if field in types)
        lead = types[fields[0]]
        axis = _first_shard(types, fields)
        if axis is not None and not (self.rows and axis == len(lead.dims) - 1):
            wants = dict.fromkeys(types, REPLICATED) | {
                field: _aligned(op, field, type_of, axis, len(lead.dims))
                for field, type_of in types.items()
                if field in fields or op.operand_fields()[field][0] == "@"
            }
            return Flow(wants, (shard(axis),) * len(op.results))
        summed = fields if self.linear == "all" else fields[:1]
        partial = all(types[field].placement == PARTIAL for field in summed)
        if self.linear == "none" or not partial:
            return whole(op, types)
        wants = dict.fromkeys(types, REPLICATED) | dict.fromkeys(summed, PARTIAL)
        return Flow(wants, (PARTIAL,) * len(op.results))


def _aligned(op: "Op", field: str, of: Type, axis: int, dims: int) -> Placement:
    """Return the placement of an operand beside values that are dealt out along an
    axis: values begin, parameters end together with them."""
    if op.operand_fields()[field][0] == "@":
        axis += len(of.dims) - dims
        if of.dims == (1,) and not is_shard(of.placement):
            return REPLICATED
    return shard(axis) if 0 <= axis < len(of.dims) else REPLICATED


@dataclass(frozen=True)
class View(Pointwise):
    """Another view of the last dimension: what is dealt out along it stays so."""

    linear: str = "all"
    counts: tuple[str, ...] = ()
    """Attributes that count what is in the last dimension."""

    def resized(self, op: "Op", wants: Wants, share: Share) -> dict[str, Any]:
        """Return the counts of one rank's part."""
        if not is_shard(wants["x"]):
            return {}
        return {name: _shared(getattr(op, name), share) for name in self.counts}


def _shared(count: int | tuple[int, ...], share: Share) -> int | tuple[int, ...]:
    if isinstance(count, tuple):
        return tuple(share.of(each) for each in count)
    return share.of(count)


@dataclass(frozen=True)
class Grouped(Pointwise):
    """A norm over ``groups`` equal parts of the last dimension: parts of several groups
    stay parts, of a single one there are none."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        groups: int = getattr(op, "groups", 1)
        flow = super().__call__(op, types)
        if any(map(is_shard, flow.gives)):
            if groups == 1:
                return whole(op, types)
            # One for each channel, or the same for the channels of each group.
            weight = types["weight"].placement
            return Flow(flow.wants | {"weight": weight}, flow.gives)
        return flow

    def resized(self, op: "Op", wants: Wants, share: Share) -> dict[str, Any]:
        """Return the groups that one rank has."""
        groups: int = getattr(op, "groups", 1)
        return {"groups": share.of(groups)} if is_shard(wants["x"]) else {}


_BY_ROWS = ("scale", "zeros", "factor", "bias")


@dataclass(frozen=True)
class Product(Rule):
    """x Wᵀ + b, with what may be fused to it.

    Rows of W that are dealt out give parts. Columns take parts and give a summand,
    to which a bias is added on one rank, and a residual only as a summand itself.
    """

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        weight = types["weight"].placement
        if not is_shard(weight):
            return whole(op, types)
        last = len(types["x"].dims) - 1
        wants = dict.fromkeys(types, REPLICATED) | {"weight": weight}
        if weight.axis == 0:
            wants |= {field: shard(0) for field in _BY_ROWS if field in types}
            if "residual" in types:
                wants["residual"] = shard(last)
            return Flow(wants, (shard(last),))
        wants["x"] = shard(last)
        for field in ("norm", "fn"):
            if getattr(op, field, None) is not None:
                message = f"{op.mnemonic} has {field}, and gives only a summand"
                raise PlacingError(message)
        for field in ("scale", "zeros"):
            if field in types and len(types[field].dims) == 2:
                wants[field] = shard(1)
        wants |= {field: PARTIAL for field in ("bias", "residual") if field in types}
        return Flow(wants, (PARTIAL,))


@dataclass(frozen=True)
class Rows(Rule):
    """Rows of a table that is dealt out: of the rows of other ranks there are zeros."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        wants = dict.fromkeys(types, REPLICATED)
        wants |= {f: shard(0) for f in ("weight", "scale") if f in types}
        return Flow(wants, (PARTIAL,))


@dataclass(frozen=True)
class ByHead(Rule):
    """Attention, scans and convolutions: each head, or channel, by itself.

    ``values`` are dealt out along dimension 2, ``first`` (parameters, vectors and
    states) along their first one, ``second`` (states) along the one after it, and the
    rest is replicated. Results that are states
    are dealt out like those. ``norms`` are parameters of each channel, which are dealt
    out, or the same for the channels of each head, which are not.
    """

    values: tuple[str, ...] = ("q",)
    first: tuple[str, ...] = ()
    sized: str = ""
    """The value whose dimension 2 is the size by which the states that it writes are
    dealt out."""
    norms: tuple[str, ...] = ()
    second: tuple[str, ...] = ()

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        if _first_shard(types, self.values) is None:
            return whole(op, types)
        wants = dict.fromkeys(types, REPLICATED)
        wants |= {field: shard(2) for field in self.values if field in types}
        wants |= {field: shard(0) for field in self.first if field in types}
        wants |= {field: shard(1) for field in self.second if field in types}
        wants |= {f: types[f].placement for f in self.norms if f in types}
        kept = shard(1 if self.second else 0)
        gives = (
            shard(2) if isinstance(result.type, TensorType) else kept
            for result in op.results
        )
        return Flow(wants, tuple(gives))


@dataclass(frozen=True)
class Selective(ByHead):
    """A scan of channels that share keys and queries: those of parts of the channels
    are dealt out with them, those of all channels are replicated."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        flow = super().__call__(op, types)
        parts = [f for f in ("k", "q") if is_shard(types[f].placement)]
        one = types["k"].dims[-1:] == types["a_log"].dims[-1:]
        if any(map(is_shard, flow.gives)) and not one and len(parts) < 2:
            raise PlacingError(f"{op.mnemonic} takes keys of parts only in parts")
        return Flow(flow.wants | dict.fromkeys(parts, shard(2)), flow.gives)


@dataclass(frozen=True)
class Sizes(Pointwise):
    """Pointwise; as only sizes are read, a summand does as well as the sum."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        summands = {f: PARTIAL for f, of in types.items() if of.placement == PARTIAL}
        flow = super().__call__(op, types)
        return Flow(flow.wants | summands, flow.gives)


@dataclass(frozen=True)
class Experts(Rule):
    """Experts whose channels are dealt out, or who are themselves: a summand."""

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        stack = types["down"].placement
        wants = dict.fromkeys(types, REPLICATED)
        biases = {f for f in ("gate_up_bias", "down_bias") if f in types}
        if not is_shard(stack):
            return Flow(wants, (REPLICATED,))
        if getattr(op, "zero_experts", 0):
            # What they add is the first rank's: `own_weights`, or `own_experts`.
            wants["weights"] = PARTIAL
        if stack.axis == 0:
            wants |= {"gate_up": shard(0), "down": shard(0)}
            wants |= {"experts": PARTIAL, "weights": PARTIAL}
            wants |= dict.fromkeys(biases, shard(0))
            if biases and getattr(op, "weigh", "output") == "input":
                message = f"{op.mnemonic} would add biases of experts not chosen"
                raise PlacingError(message)
            return Flow(wants, (PARTIAL,))
        wants |= {"gate_up": shard(1), "down": shard(2)}
        wants |= {f: shard(1) if f == "gate_up_bias" else PARTIAL for f in biases}
        return Flow(wants, (PARTIAL,))


@dataclass(frozen=True)
class Fixed(Rule):
    """An op that takes and gives placements of its own, whatever it is given.

    ``takes`` and ``gives`` are kinds; the axis of a shard is the attribute ``dim``, or
    without one the last dimension of a value and the first of a parameter. Operands
    that are not named are replicated.
    """

    takes: Mapping[str, str]
    gives: tuple[str, ...]

    def __call__(self, op: "Op", types: Mapping[str, Type]) -> Flow:
        wants = dict.fromkeys(types, REPLICATED)
        last = len(types[next(iter(types))].dims) - 1
        dim: int = getattr(op, "dim", last)
        for field, kind in self.takes.items():
            value = op.operand_fields()[field][0] == "%"
            wants[field] = _of(kind, dim if value else 0)
        return Flow(wants, tuple(_of(kind, dim) for kind in self.gives))


def _of(kind: str, dim: int) -> Placement:
    return {"shard": shard(dim), "partial": PARTIAL}.get(kind, REPLICATED)


def typed(op: "Op", types: Mapping[str, Type]) -> tuple[Type, ...]:
    """Infer the result types of an op, placements included.

    Raises:
        OpTypeError: where the operands do not fit.
        PlacingError: where an operand is not placed as the op wants it.
    """
    plain = _inferred(op, {f: placed(of, REPLICATED) for f, of in types.items()})
    if not op.ranked and all(of.placement == REPLICATED for of in types.values()):
        return plain
    made = op.model_copy(update={"results": _stand_ins(plain)})
    flow = op.placing(made, types)
    for field, wanted in flow.wants.items():
        has = types[field].placement
        if has != wanted:
            raise PlacingError(
                f"{op.mnemonic} takes {field} {wanted} here, and it is {has}"
            )
    return tuple(placed(of, to) for of, to in zip(plain, flow.gives, strict=True))


def _inferred(op: "Op", types: Mapping[str, Type]) -> tuple[Type, ...]:
    """Infer, and refuse also what the op's rules do not foresee: a symbol where they
    compute with a size, or a dimension that is not there."""
    from glmc.ir.op import OpTypeError

    try:
        return op.infer(types)
    except (ArithmeticError, AssertionError, LookupError, ValueError):
        given = ", ".join(f"{name}: {of}" for name, of in types.items())
        raise OpTypeError(f"it does not take {given}") from None


def _stand_ins(types: tuple[Type, ...]) -> tuple[Any, ...]:
    """Return results of these types, for rules that ask of what kind they are."""
    from glmc.ir.op import Result

    return tuple(Result(name="", type=of) for of in types)


WHOLE = Rule()
EACH = Pointwise()
LINEAR = Pointwise(linear="first")
"""Of one value, or of the first of several, a multiple."""
SUM = Pointwise(over=("x", "y"), linear="all")
NORM = Pointwise(rows=True)
"""Of each row of the last dimension."""
PRODUCT = Product()
