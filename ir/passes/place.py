"""Deal a program to ranks: every value and parameter gets a placement.

Weights are cut along the dimensions that lowering named; from there placements go
through the ops as each declares, and an operand in another placement than its op takes
is converted: partial sums by ``all_reduce``, parts by ``all_gather``, and so on. No
list of layers says where, so no sum can be forgotten. It runs before all fusions: what
joins a product with what stands behind it must not reach over a sum of all ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from glmc.ir.dealing import deal, grain, stretch
from glmc.ir.errors import NotDealtError
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.ledger import Entry
from glmc.ir.passes.placer import GraphPlacer, Settled
from glmc.ir.placement import Cut, dealt, shard
from glmc.ir.recipe import Recipe, cat
from glmc.ir.types import TensorType

ExpertsBy = Literal["channels", "experts"]
_MOST_RANKS = 64
"""Numbers of ranks that a refusal tries, to name those that work."""


@dataclass(frozen=True)
class Place:
    """The pass; same interface as a :class:`~glmc.ir.passes.rewrite.Fusion`.

    ``experts`` says how mixtures are dealt: the ``channels`` of each expert, or whole
    ``experts``. ``anywhere`` lets codes be cut within an integer or a group, as those
    of a shrunken model must be: they become floats then.
    """

    ranks: int
    experts: ExpertsBy = "channels"
    anywhere: bool = False
    name: str = "place"
    doc: str = "Weights are dealt to ranks; what ranks must tell each other is added."

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to the whole program.

        Raises:
            NotDealtError: where something cannot be dealt to so many ranks.
        """
        _refuse_uneven(program, self)
        if program.prefix_encoder is not None:
            raise NotDealtError(
                f"{program.name} has a prefix encoder, which gives the keys and values"
                " of all heads at once and cannot be dealt to ranks yet; leave"
                " --tensor-parallel out."
            )
        shared = {p.name: _options(p, self) for p in program.params}
        entries: list[Entry] = []
        settled: Settled = {}

        def change(graph: Graph) -> Graph:
            own = {p.name: _options(p, self) for p in graph.params}
            placer = GraphPlacer(graph, self.ranks, shared | own, settled, entries)
            placed = placer.run()
            params = tuple(placer.settled_param(p.name) for p in graph.params)
            return placed.replace(params=params)

        after = program.map_graphs(change)
        params = tuple(_of(settled, shared, p.name) for p in program.params)
        return after.model_copy(update={"params": params, "ranks": self.ranks}), entries


def _of(settled: Settled, shared: Mapping[str, "Options"], name: str) -> Parameter:
    return settled[name] if name in settled else shared[name].whole


@dataclass(frozen=True)
class Options:
    """A parameter as each rank may have it: whole, or its part."""

    whole: Parameter
    part: Parameter | None


def _options(param: Parameter, how: Place) -> Options:
    """Return a parameter as it may be placed."""
    whole = param.model_copy(update={"cuts": ()})
    cut = _cut(param, how)
    if cut is None:
        return Options(whole, None)
    recipe = _dealt(param.recipe, cut, how.ranks)
    type_of = TensorType(
        dtype=param.type.dtype, dims=recipe.shape, placement=shard(cut.dim)
    )
    part = whole.model_copy(update={"recipe": recipe, "type": type_of})
    return Options(whole, part)


def _dealt(recipe: Recipe, cut: Cut, ranks: int) -> Recipe:
    """Return the recipe of one rank's part, each stretch cut for itself."""
    copies = ranks // cut.units if cut.repeats and cut.units < ranks else 1
    stretches = (stretch(recipe, cut.dim, at, cut.parts) for at in range(cut.parts))
    parts = [deal(one, cut.dim, ranks, copies) for one in stretches]
    return cat(parts, cut.dim)


def _cut(param: Parameter, how: Place) -> Cut | None:
    """Return the cut of a parameter that is to be dealt, or None; codes with one row
    for each head, which lie in blocks of more rows than a rank has, are whole."""
    other = "channels" if how.experts == "experts" else "experts"
    stacked = any(cut.what == "experts" for cut in param.cuts)
    found = next((c for c in param.cuts if not stacked or c.what != other), None)
    if found is None or how.anywhere or found.units != param.recipe.shape[found.dim]:
        return found
    return None if found.units // how.ranks % grain(param.recipe, found.dim) else found


def _uneven(param: Parameter, how: Place, ranks: int) -> str | None:
    """Return why a parameter cannot be dealt to so many ranks, or None."""
    cut = _cut(param, how)
    if cut is None:
        return None
    what = cut.what.replace("_", " ")
    each = dealt(cut.units, ranks, repeats=cut.repeats, pads=cut.pads)
    if not each:
        return f"the {cut.units} {what} of @{param.name} cannot be dealt to {ranks}"
    size = param.recipe.shape[cut.dim] // cut.parts // cut.units * each
    multiple = grain(param.recipe, cut.dim)
    if size % multiple and not how.anywhere:
        return (
            f"each would have {size} of dimension {cut.dim} of @{param.name}, whose"
            f" codes are cut in multiples of {multiple}"
        )
    return None


def _refuse_uneven(program: Program, how: Place) -> None:
    """Refuse a number of ranks that some parameter cannot be dealt to, and name those
    that work."""
    params = [p for graph in program.graphs for p in graph.params]
    params = [*program.params, *params]

    def reasons(ranks: int) -> Iterator[str]:
        found = (_uneven(param, how, ranks) for param in params)
        yield from (reason for reason in found if reason)

    reason = next(reasons(how.ranks), None)
    if reason is None:
        return
    fit = [n for n in range(2, _MOST_RANKS + 1) if next(reasons(n), None) is None]
    works = f"{', '.join(map(str, fit))} ranks work" if fit else "no number works"
    raise NotDealtError(f"{program.name} on {how.ranks} ranks: {reason}; {works}.")
