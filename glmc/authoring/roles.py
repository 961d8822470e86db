"""Assign a role to each matrix of a layer: by shape, then by name, then by
elimination."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from glmc.authoring.evidence import Module, Shape
from glmc.authoring.sizes import Sizes
from glmc.authoring.vocabulary import Slots, Vocabulary
from glmc.ir.errors import GlmcError
from glmc.ir.layout import parse

# Rows and columns of what a slot, or several in one tensor, can be.
_FORMS: Mapping[Slots, Callable[[int, int, int, int, int], Shape]] = {
    ("q",): lambda e, h, k, d, f: (h * d, e),
    ("k",): lambda e, h, k, d, f: (k * d, e),
    ("v",): lambda e, h, k, d, f: (k * d, e),
    ("k", "v"): lambda e, h, k, d, f: (2 * k * d, e),
    ("q", "k", "v"): lambda e, h, k, d, f: ((h + 2 * k) * d, e),
    ("o",): lambda e, h, k, d, f: (e, h * d),
    ("gate",): lambda e, h, k, d, f: (f, e),
    ("up",): lambda e, h, k, d, f: (f, e),
    ("gate", "up"): lambda e, h, k, d, f: (2 * f, e),
    ("down",): lambda e, h, k, d, f: (e, f),
}
# Stored rows first; heads are the outer axis where nothing else is known.
_FUSED: Mapping[Slots, str] = {
    ("q", "k", "v"): "[q:(H D)|k:(K D)|v:(K D)]",
    ("k", "v"): "[k:(K D)|v:(K D)]",
    ("gate", "up"): "[gate:F|up:F]",
}
_PLAIN: Mapping[Slots, tuple[str, str]] = {
    ("q",): ("(H D)", "E"),
    ("k",): ("(K D)", "E"),
    ("v",): ("(K D)", "E"),
    ("o",): ("E", "(H D)"),
    ("gate",): ("F", "E"),
    ("up",): ("F", "E"),
    ("down",): ("E", "F"),
}
# Names that no spec has, read as people write them.
_HINTS: tuple[tuple[str, Slots], ...] = (
    (r"qkv|query_key_value|wqkv", ("q", "k", "v")),
    (r"(^|[._w])q(uery|_|$)|^wq", ("q",)),
    (r"(^|[._w])k(ey|_|$)|^wk", ("k",)),
    (r"(^|[._w])v(alue|_|$)|^wv", ("v",)),
    (r"(^|[._w])o(ut|_|$)|^wo|dense$", ("o",)),
    (r"gate_?up|up_?gate", ("gate", "up")),
    (r"gate|(^|\.)w1$", ("gate",)),
    (r"up|(^|\.)(w3|fc1|fc_in|c_fc)$|h_to_4h", ("up",)),
    (r"down|(^|\.)(w2|fc2|fc_out)$|4h_to_h", ("down",)),
)


@dataclass(frozen=True)
class Role:
    """A matrix with the slots it holds."""

    module: Module
    slots: Slots
    layout: str | None
    """None: as the slot itself is laid out."""
    doubt: str = ""


@dataclass
class Roles:
    """The roles that were assigned to the matrices of a layer."""

    found: list[Role] = field(default_factory=list)
    unplaced: list[Module] = field(default_factory=list)

    def has(self, slot: str) -> bool:
        return any(slot in role.slots for role in self.found)


def assign(modules: Iterable[Module], sizes: Sizes, words: Vocabulary) -> Roles:
    """Give every matrix its slots; what fits nothing is left over."""
    matrices = [module for module in modules if module.is_matrix]
    forms = {
        slots: form(*(getattr(sizes, n).value for n in "EHKDF"))
        for slots, form in _FORMS.items()
    }
    turned = _stored_input_first(matrices, forms)
    options = {m.name: _options(m, forms, turned) for m in matrices}
    axes = {name: guess.value for name, guess in sizes.dims()}
    return _Assignment(matrices, options, words, axes, turned).run()


def _stored_input_first(
    matrices: Iterable[Module], forms: Mapping[Slots, Shape]
) -> bool:
    """Tell whether matrices are stored as x W wants them (Conv1D), judging by those
    that are not square."""
    known = {shape for shape in forms.values() if shape[0] != shape[1]}
    shapes = [m.weight for m in matrices if m.weight]
    upright = sum(shape in known for shape in shapes)
    turned = sum(shape[::-1] in known for shape in shapes)
    for module in matrices:
        if module.weight and module.bias and module.weight[0] != module.weight[1]:
            turned += 2 * (module.bias[0] == module.weight[1])
            upright += 2 * (module.bias[0] == module.weight[0])
    return turned > upright


def _options(module: Module, forms: Mapping[Slots, Shape], turned: bool) -> list[Slots]:
    assert module.weight is not None
    shape = module.weight[::-1] if turned else module.weight
    return [slots for slots, form in forms.items() if form == shape]


class _Assignment:
    def __init__(
        self,
        matrices: list[Module],
        options: Mapping[str, list[Slots]],
        words: Vocabulary,
        axes: Mapping[str, int],
        turned: bool,
    ) -> None:
        self.options, self.words, self.turned = options, words, turned
        self.axes = axes
        self.open = matrices
        self.roles = Roles()

    def run(self) -> Roles:
        """Assign by the surest evidence first; each slot is given once."""
        self.take(lambda m: self.words.slots(m.name), "")
        self.take(
            lambda m: self.words.slots_by_last(m.last),
            "{slots} by the end of its name, is it?",
        )
        self.take(_hinted, "{slots} by its name and shape, is it?")
        self.take(lambda m: self.options[m.name], "{slots} by its shape alone, is it?")
        self.roles.unplaced = self.open
        self._one_without_gate()
        return self.roles

    def take(self, ask: Callable[[Module], Iterable[Slots]], doubt: str) -> None:
        rest = []
        for module in self.open:
            possible = [s for s in ask(module) if self._free(module, s)]
            if possible:
                self.roles.found.append(self._role(module, possible[0], doubt))
            else:
                rest.append(module)
        self.open = rest

    def _free(self, module: Module, slots: Slots) -> bool:
        taken = any(self.roles.has(slot) for slot in slots)
        return slots in self.options[module.name] and not taken

    def _role(self, module: Module, slots: Slots, doubt: str) -> Role:
        layout = self._layout(module, slots)
        told = doubt.format(slots="+".join(slots))
        if slots in _FUSED and not self._known(module, slots):
            told = " ".join(filter(None, [told, _order(slots, self.turned)]))
        return Role(module, slots, layout, told)

    def _layout(self, module: Module, slots: Slots) -> str | None:
        known = self._known(module, slots)
        if known:
            return known
        if slots in _FUSED:
            return self._lie(_FUSED[slots], "E")
        return self._lie(*_PLAIN[slots]) if self.turned else None

    def _known(self, module: Module, slots: Slots) -> str | None:
        """Return the layout that a spec has for this name, if the shape agrees."""
        for layout in self.words.layouts(module.name, slots):
            try:
                shape = tuple(axis.size(self.axes) for axis in parse(layout))
            except GlmcError:
                continue  # an axis that this model does not have
            if shape == module.weight:
                return layout
        return None

    def _lie(self, rows: str, columns: str) -> str:
        return f"{columns} {rows}" if self.turned else f"{rows} {columns}"

    def _one_without_gate(self) -> None:
        """Turn a gate without an up into an up: two matrices, no gate."""
        if self.roles.has("gate") and not self.roles.has("up"):
            at = next(i for i, r in enumerate(self.roles.found) if r.slots == ("gate",))
            self.roles.found[at] = self._role(self.roles.found[at].module, ("up",), "")


def _hinted(module: Module) -> list[Slots]:
    names = (module.last.lower(), module.name.lower())
    return [
        slots for name in names for pattern, slots in _HINTS if re.search(pattern, name)
    ]


def _order(slots: Slots, turned: bool) -> str:
    """Return the order of fused rows, which a tensor's shape leaves open."""
    if slots == ("q", "k", "v"):
        each = "(H [q:D|k:D|v:D])"
        other = f"E {each}" if turned else f"{each} E"
        return f"q, k, v one after the other, or head by head: {other}?"
    return f"{' before '.join(slots)}, or the other way round?"
