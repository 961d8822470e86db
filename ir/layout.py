"""Axis notation for stored weights, and the recipe that turns it into a slot.

``"[q:(H D)|k:(K D)|v:(K D)] E"`` reads: two stored dimensions; the first is q's rows,
then k's, then v's, each of them heads times head width; the second is the input.
Parentheses multiply axes, ``[name:axis|name:axis]`` concatenates, integers stand for
themselves. Sizes come from the axis table, so every stored shape can be checked.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from glmc.ir.errors import GlmcError, LayoutError
from glmc.ir.leaves import Tensor
from glmc.ir.recipe import Recipe, permute, slice_, view

Axes = Mapping[str, int]

_TOKEN = re.compile(r"\s*(?:(?P<part>[A-Za-z_]\w*):|(?P<atom>\w+)|(?P<mark>[()\[\]|]))")


@dataclass(frozen=True)
class Atom:
    """One named axis."""

    name: str

    def size(self, axes: Axes) -> int:
        if self.name.isdigit():
            return int(self.name)
        if self.name not in axes:
            known = ", ".join(sorted(axes))
            raise LayoutError(f"axis {self.name!r} has no size; known axes are {known}")
        return axes[self.name]


@dataclass(frozen=True)
class Product:
    """``(H D)``: axes laid out one inside the other, the first outermost."""

    axes: tuple["Axis", ...]

    def size(self, axes: Axes) -> int:
        return math.prod(axis.size(axes) for axis in self.axes)


@dataclass(frozen=True)
class Concat:
    """``[q:(H D)|k:D]``: parts one after the other."""

    parts: tuple[tuple[str, "Axis"], ...]

    def size(self, axes: Axes) -> int:
        return sum(axis.size(axes) for _, axis in self.parts)


Axis = Atom | Product | Concat


def parse(text: str) -> tuple[Axis, ...]:
    """Parse a layout string into its stored dimensions.

    Raises:
        GlmcError: on text that is not a layout; says where.
    """
    return _Parser(text).layout()


_DEEPEST, _SHOWN = 16, 200


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens = text, list[tuple[str, str, int]]()
        at = depth = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if not found:
                raise self.error(f"unexpected {text[at:].strip()[:1]!r}", at)
            kind = str(found.lastgroup)
            depth += (found[kind] in ("(", "[")) - (found[kind] in (")", "]"))
            if depth > _DEEPEST:
                raise self.error(f"nested more than {_DEEPEST} deep", at)
            self.tokens.append((kind, found[kind], found.start(kind)))
            at = found.end()
        self.tokens.append(("end", "", len(text)))
        self.next = 0

    def error(self, what: str, at: int) -> GlmcError:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
        return LayoutError(f"layout {text!r}, column {at + 1}: {what}")

    def take(self, kind: str, value: str | None = None) -> str:
        got_kind, got, at = self.tokens[self.next]
        if got_kind != kind or (value is not None and got != value):
            raise self.error(
                f"expected {value or kind}, found {got or 'the end'!r}", at
            )
        self.next += 1
        return got

    def peek(self) -> tuple[str, str]:
        kind, text, _ = self.tokens[self.next]
        return kind, text

    def layout(self) -> tuple[Axis, ...]:
        axes = []
        while self.peek()[0] != "end":
            axes.append(self.axis())
        return tuple(axes)

    def axis(self) -> Axis:
        match self.peek():
            case ("mark", "("):
                return self.product()
            case ("mark", "["):
                return self.concat()
        return Atom(self.take("atom"))

    def product(self) -> Product:
        self.take("mark", "(")
        axes = []
        while self.peek() != ("mark", ")"):
            axes.append(self.axis())
        self.take("mark", ")")
        return Product(tuple(axes))

    def concat(self) -> Concat:
        self.take("mark", "[")
        parts = [(self.take("part"), self.axis())]
        while self.peek() == ("mark", "|"):
            self.take("mark", "|")
            parts.append((self.take("part"), self.axis()))
        self.take("mark", "]")
        return Concat(tuple(parts))


def recipe(
    name: str,
    layout: str,
    part: str | None,
    slot: Sequence[str],
    axes: Axes,
    stored_as: Callable[[Tensor], Recipe] = lambda tensor: tensor,
) -> Recipe:
    """Read ``part`` of a stored tensor as a slot's matrix.

    Args:
        name: the tensor's name in the checkpoint.
        layout: how it is stored.
        part: the part of a concatenation to take; None where there is none.
        slot: the slot's dimensions, each a string of axis names: ``("H D", "E")``.
        axes: the sizes.
        stored_as: the tensor of these sizes, to what is stored in its place.

    Returns:
        A recipe whose shape is the slot's dimensions.

    Raises:
        GlmcError: when the layout has no such part or its axes are not the slot's.
    """
    stored = parse(layout)
    source = stored_as(Tensor(name=name, stored=tuple(a.size(axes) for a in stored)))
    source, dims = _select(source, stored, part, axes, layout)
    order = _order(dims, slot, axes, layout)
    groups = _runs(order, [len(_atoms(dim)) for dim in dims])
    flat = [atom.size(axes) for dim in dims for atom in _atoms(dim)]
    source = view(source, [math.prod(flat[i] for i in group) for group in groups])
    turn = sorted(range(len(groups)), key=lambda group: order.index(groups[group][0]))
    source = permute(source, turn)
    return view(source, [math.prod(_size(a, axes) for a in d.split()) for d in slot])


def _size(name: str, axes: Axes) -> int:
    return Atom(name).size(axes)


def _atoms(axis: Axis) -> tuple[Atom, ...]:
    match axis:
        case Atom():
            return (axis,)
        case Product():
            return tuple(atom for inner in axis.axes for atom in _atoms(inner))
        case Concat():
            raise LayoutError("a layout may concatenate only once along a path")


def _select(
    source: Recipe, stored: tuple[Axis, ...], part: str | None, axes: Axes, layout: str
) -> tuple[Recipe, tuple[Axis, ...]]:
    """Narrow ``source`` to ``part``; return it with its remaining dimensions."""
    dims = list(stored)
    for at, axis in enumerate(dims):
        if isinstance(axis, Product) and any(isinstance(a, Concat) for a in axis.axes):
            dims[at : at + 1] = axis.axes
            source = view(source, [dim.size(axes) for dim in dims])
            break
    for at, axis in enumerate(dims):
        if isinstance(axis, Concat):
            start = 0
            for name, inner in axis.parts:
                stop = start + inner.size(axes)
                if name == part:
                    dims[at] = inner
                    return slice_(source, at, start, stop), tuple(dims)
                start = stop
            break
    if part is not None:
        raise LayoutError(f"layout {layout!r} has no part {part!r}")
    return source, tuple(dims)


def _order(
    dims: tuple[Axis, ...], slot: Sequence[str], axes: Axes, layout: str
) -> list[int]:
    """Return the indices of the stored atoms in the slot's order.

    A slot axis that is not stored under its own name takes the atoms that are left
    over, in order, as far as its size goes: ``H`` is stored as ``K G`` by Falcon.
    """
    atoms = [atom.name for dim in dims for atom in _atoms(dim)]
    wanted = [name for dim in slot for name in dim.split()]
    left = [i for i, name in enumerate(atoms) if name not in wanted]
    order: list[int] = []
    for name in wanted:
        if name in atoms:
            order.append(atoms.index(name))
            continue
        size = 1
        while left and size < _size(name, axes):
            size *= _size(atoms[left[0]], axes)
            order.append(left.pop(0))
        if size != _size(name, axes):
            raise LayoutError(f"layout {layout!r} has no axis {name} of {slot}", name)
    order += [i for i in left if _size(atoms[i], axes) == 1]
    if sorted(order) != list(range(len(atoms))):
        raise LayoutError(f"layout {layout!r} has axes that {tuple(slot)} has not")
    return order


def _runs(order: list[int], widths: list[int]) -> list[list[int]]:
    """Group stored atoms that stay together, so that the recipe stays short."""
    groups: list[list[int]] = []
    starts = {sum(widths[:n]) for n in range(len(widths))}
    place = {atom: at for at, atom in enumerate(order)}
    for atom in range(len(order)):
        follows = groups and place[atom] == place[atom - 1] + 1
        if follows and atom not in starts:
            groups[-1].append(atom)
        else:
            groups.append([atom])
    return groups
