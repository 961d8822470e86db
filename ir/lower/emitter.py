"""A graph builder that declares parameters from the weights of a model."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from keyword import iskeyword

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.build import GraphBuilder
from glmc.ir.errors import ModelShapeError
from glmc.ir.graph import Parameter
from glmc.ir.layout import recipe
from glmc.ir.lower.storage import stored_as
from glmc.ir.lower.tables import Tables
from glmc.ir.placement import Cut
from glmc.ir.recipe import Recipe, Stack, cat
from glmc.ir.types import TensorType

Axes = Mapping[str, int]
NO_AXES: Axes = {}

_CUTS: Mapping[str, Mapping[str, object]] = {
    "H": {"what": "heads"},
    "K": {"what": "kv_heads", "repeats": True},
    "Hm": {"what": "heads"},
    "Gm": {"what": "groups", "repeats": True},
    "F": {"what": "channels"},
    "Ec": {"what": "channels"},
    "Ic": {"what": "channels"},
    "Hb": {"what": "parts"},
    "Go": {"what": "groups"},
    "V": {"what": "vocabulary", "pads": True},
    "Vp": {"what": "vocabulary", "pads": True},
}
"""The axes of slots that weights may be dealt to ranks along."""


class Emitter(GraphBuilder):
    """A :class:`GraphBuilder` that declares parameters from a model's weights.

    A slot is what a weight is used for, given as the axis names of its dimensions:
    ``("H D", "E")`` for the query projection.
    """

    def __init__(
        self,
        model: m.Model,
        tables: Tables,
        inputs: dict[str, TensorType],
        shared: dict[str, Parameter] | None = None,
    ) -> None:
        super().__init__(inputs, model.dtype, shared)
        self.model = model
        self.tables = tables
        self.carried: dict[str, str] = {}
        """Values handed on besides the hidden state: input to newest value."""
        self.kv_from: tuple[int, ...] = ()
        """For each layer of a block the one whose keys and values it attends to."""
        self.factors: list[tuple[float, ...]] = []
        """The constants in which a block's layers differ, in the order of a row."""

    @property
    def part_width(self) -> int:
        """The width of a layer's part of the per-layer embedding.

        Raises:
            ModelShapeError: where the model has no such embedding.
        """
        per_layer = self.model.embed.per_layer
        if per_layer is None:
            raise ModelShapeError(
                f"{self.model.name}: a per_layer_input needs embed.per_layer, which"
                " gives each layer what it reads; add it, or leave out the sublayer."
            )
        return per_layer.width

    def linear(
        self,
        result: str,
        x: str,
        projection: m.Projection,
        slot: tuple[str, str],
        axes: Axes = NO_AXES,
    ) -> str:
        """Emit x Wᵀ + b with the weights of a slot, and its adapter if it has one."""
        weight = self.weight(projection.weight, slot, axes)
        bias = self.bias(weight, projection.bias, slot[:1], axes)
        y = str(self.emit(ops.Linear, result, x=x, weight=weight, bias=bias))
        adapter = projection.adapter
        if not adapter:
            return y
        axes, low = {**axes, "Ra": adapter.rank}, x
        for name, stored, dims in (
            ("down", adapter.down, ("Ra", slot[1])),
            ("up", adapter.up, (slot[0], "Ra")),
        ):
            # Not as its tensor is called: that may count the layers it is for.
            own = self.recipe(stored, dims, axes)
            own_name = self.param(f"{result}_{name}", own)
            low = self.emit(ops.Linear, f"{result}_{name}", x=low, weight=own_name)
        return str(self.emit(ops.Add, f"{result}_adapted", x=y, y=low))

    def scaled(self, result: str, x: str, factor: float) -> str:
        """Emit x · factor, unless that is x."""
        if factor == 1.0:
            return x
        return str(self.emit(ops.Scale, result, x=x, factor=factor))

    def norm(
        self,
        result: str,
        x: str,
        norm: m.Norm,
        slot: Sequence[str] = ("E",),
        axes: Axes = NO_AXES,
    ) -> str:
        """Emit a norm of any kind; a slot of two dimensions has a row for each head."""
        if not norm.gate:
            return self._norm(result, x, norm, slot, axes)
        y = self._norm(f"{result}_normed", x, norm, slot, axes)
        axes = {**axes, "Rg": norm.gate.rank}
        low = self.linear(f"{result}_low", y, norm.gate.down, ("Rg", slot[0]), axes)
        low = self.emit(ops.Activation, f"{result}_act", x=low, fn="silu")
        gate = self.linear(f"{result}_gate", low, norm.gate.up, (slot[0], "Rg"), axes)
        return str(self.emit(ops.Gate, result, x=y, g=gate, fn="sigmoid"))

    def _norm(
        self, result: str, x: str, norm: m.Norm, slot: Sequence[str], axes: Axes
    ) -> str:
        rms = norm.kind == "rms"
        if norm.weight is None:
            plain = ops.RmsNormalize if rms else ops.LayerNormalize
            return str(self.emit(plain, result, x=x, eps=norm.eps))
        weight = self.weight(norm.weight, slot, axes)
        fields = {"x": x, "weight": weight, "eps": norm.eps}
        if len(slot) == 2:
            return str(self.emit(ops.LayerNormHeads, result, **fields))
        fields["unit_offset"] = norm.unit_offset
        if rms:
            emitted = self.emit(ops.RmsNorm, result, **fields, weight_in=norm.weight_in)
        else:
            bias = self.bias(weight, norm.bias, slot, axes)
            emitted = self.emit(ops.LayerNorm, result, **fields, bias=bias)
        return str(emitted)

    def weight(
        self,
        weight: m.Weight,
        slot: Sequence[str],
        axes: Axes = NO_AXES,
        dtype: str | None = None,
    ) -> str:
        """Declare a slot's parameter under the name the checkpoint gives it."""
        recipe = self.recipe(weight, slot, axes)
        name = self.free(names_of(weight), recipe)
        return self.param(name, recipe, dtype, self.cuts(slot, axes))

    def packed(
        self,
        name: str,
        weights: Sequence[m.Weight],
        slot: Sequence[str],
        axes: Axes,
        dim: int,
    ) -> str:
        """Declare one parameter of several slots of one shape, side by side: a stack
        of experts, which is dealt to ranks by the channels of each, or expert by
        expert."""
        recipe = cat([self.recipe(weight, slot, axes) for weight in weights], dim)
        cuts = [Cut(what="experts", dim=0, units=axes[slot[0]])]
        if "Fx" in slot:
            at, units = slot.index("Fx"), axes["Fx"]
            cuts.append(Cut(what="channels", dim=at, units=units, parts=len(weights)))
        return self.param(self.free([name], recipe), recipe, cuts=tuple(cuts))

    def bias(
        self,
        owner: str,
        bias: m.Weight | None,
        slot: Sequence[str],
        axes: Axes = NO_AXES,
    ) -> str | None:
        """Declare the bias that goes with a weight."""
        if bias is None:
            return None
        recipe = self.recipe(bias, slot, axes)
        return self.param(f"{owner}_bias", recipe, cuts=self.cuts(slot, axes))

    def cuts(self, slot: Sequence[str], axes: Axes) -> tuple[Cut, ...]:
        """Return how a slot's parameter may be dealt to ranks: by the first axis that
        counts something of which ranks may have some each."""
        sizes = self.sizes(axes)
        for dim, names in enumerate(slot):
            axis = names.split()[0]
            if axis in _CUTS:
                fields = {**_CUTS[axis], "dim": dim, "units": sizes[axis]}
                return (Cut.model_validate(fields),)
        return ()

    def sizes(self, axes: Axes) -> dict[str, int]:
        """Return the sizes of a slot's axes, with those of the model."""
        model = self.model
        sizes = {"V": model.vocab, "E": model.hidden, "E_out": model.hidden}
        sizes |= {**model.axes, **axes}
        for axis, size in (("P", model.max_positions), ("S", model.type_vocab)):
            if size:
                sizes.setdefault(axis, size)
        return sizes

    def recipe(self, weight: m.Weight, slot: Sequence[str], axes: Axes) -> Recipe:
        """Return the recipe that assembles a slot from the checkpoint.

        With ``{x}`` in its name there is a tensor for each index of the slot's first
        dimension, laid out like the others.
        """
        sizes = self.sizes(axes)
        layout = weight.layout or " ".join(f"({dim})" for dim in slot)
        form = partial(stored_as, weight.storage)
        if "{x}" not in weight.tensor:
            return recipe(weight.tensor, layout, weight.part, slot, sizes, form)
        layout = weight.layout or " ".join(f"({dim})" for dim in slot[1:])
        one = recipe(weight.tensor, layout, weight.part, slot[1:], sizes, form)
        return Stack(of=one, count=sizes[slot[0]])


VAGUE = {"bias", "gate", "layer", "linear", "norm", "norms", "scale", "weight"}
"""Names that say nothing in a layer without the module that holds them."""
PARTS = {"gate", "indexer", "router", "shared_expert", "shared_experts", "shared_mlp"}
"""Modules within a sublayer that hold what is called as elsewhere in the layer."""


def names_of(weight: m.Weight) -> list[str]:
    """``h.{i}.attn.c_proj.weight`` is ``c_proj``, or ``attn_c_proj`` beside another.

    What is vague alone is called by the module that holds it, too (``router_bias``,
    ``indexer_k_norm``). A part of a tensor is called like its slot; numbers alone are
    no name.
    """
    if weight.part:
        return [weight.part]
    path = weight.tensor.removesuffix(".weight").split(".")
    inside = _words(path[path.index("{i}") + 1 :] if "{i}" in path else [])
    vague = inside[1:] and (inside[-1] in VAGUE or inside[-2] in PARTS)
    path = [part for part in path if part != "{x}"]
    tails = [path[at:] for at in range(len(path) - 1, -1, -1)]
    least = 2 if vague else 1
    named = [t for t in tails if not t[0].isdigit() and len(_words(t)) >= least]
    return [_identifier("_".join(tail)) for tail in named or tails]


def _words(path: list[str]) -> list[str]:
    """Return the parts of a tensor's name that are no numbers and no index of a
    stack."""
    return [part for part in path if not part.isdigit() and part != "{x}"]


def _identifier(text: str) -> str:
    """Make an identifier of both the dump and Python that does not look private."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).lstrip("_")
    return name if name.isidentifier() and not iskeyword(name) else f"w_{name}"
