"""Find the slots of a model in a checkpoint, by a spec's ``weights`` section."""

from glmc.frontends.language.resolver import Resolver
from glmc.frontends.quantization import Quantised
from glmc.frontends.spec import Spec, WeightSpec
from glmc.ir import model as m
from glmc.ir.errors import SpecIncompleteError, SpecKeyError

# The axes a projection sums over, most often the hidden state; a bias has the others.
_INPUT_AXES = {
    "o": {"H", "D", "Dv"},
    "down": {"F"},
    "sdown": {"F"},
    "xdown": {"Fx"},
    "xlatent_up": {"El"},
    "part_down": {"Ep"},
    "mix_o": {"Gm", "Rm", "Hm", "Dv", "Ic"},
    "mix_k": {"E", "Ic"},
    "mix_q": {"E", "Ic"},
    "mix_decay_down": {"E", "Ic"},
    "mix_decay": {"E", "Rd"},
    "mix_gate": {"E", "Rz"},
    "conv_q": {"1", "Wc"},
    "conv_k": {"1", "Wc"},
    "conv_v": {"1", "Wc"},
    "laurel_up": {"Rl"},
}
_HIDDEN = {"E"}

_PREFIX_SLOTS = frozenset({"prefix", "prefix_up", "prefix_down"})
_EMBED_SLOTS = frozenset(
    {"embed", "embed_proj", "positions", "types", "layer_embed", "layer_embed_proj"}
    | {"distances"}
)
_HEAD_SLOTS = frozenset({"head", "head_proj", "transform", "pooler", "score"})
_STREAM_SLOTS = frozenset({"streams_spread", "streams_gather"})
_MODEL_SLOTS = _EMBED_SLOTS | _HEAD_SLOTS | _PREFIX_SLOTS | _STREAM_SLOTS
_VOCABULARY_SLOTS = frozenset({"embed", "head"})
_ATTENTION_SLOTS = frozenset(
    {"q", "k", "v", "o", "sinks", "attn_gate", "gate_bias", "attn_router"}
    | {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"}
)
_LATENT_SLOTS = frozenset({"q_a", "kv_a", "kv_b"})
_INDEXER_SLOTS = frozenset({"iq", "ik", "iweights"})
_POOLED_SLOTS = frozenset(
    {"kv", "o_a", "pool_values", "pool_gates", "pool_places"}
    | {"ipool_values", "ipool_gates", "ipool_places"}
)
_MLP_SLOTS = frozenset({"gate", "up", "down", "alpha_p", "alpha_n"})
_AFFINE_SLOTS = frozenset({"affine_attn", "affine_ff"})
_SHARED_SLOTS = frozenset({"sgate", "sup", "sdown", "shared_gate"})
_MOE_SLOTS = frozenset(
    {"router", "table", "correction", "expert_scale", "xbias", "xgate", "xup", "xdown"}
    | {"xlatent_down", "xlatent_up"}
)
_PART_SLOTS = frozenset({"part_gate", "part_down", "layer_scalar"})
_ALTUP_SLOTS = frozenset(
    {"altup_router", "altup_predict", "altup_correct", "altup_scale"}
    | {"laurel_down", "laurel_up"}
)
_MIXER_SLOTS = frozenset(
    {"mix_q", "mix_k", "mix_v", "mix_o", "mix_beta", "mix_decay", "mix_gate"}
    | {"mix_norm", "mix_skip", "dt_bias", "a_log", "conv_q", "conv_k", "conv_v"}
    | {"mix_decay_down", "mix_gate_down", "mix_input", "mix_forget"}
    | {"mix_rate", "mix_first", "blend_k", "blend_v", "blend_gate"}
    | {"ff_blend_up", "ff_blend_gate"}
)
_LAYER_SLOTS = _ATTENTION_SLOTS | _LATENT_SLOTS | _INDEXER_SLOTS | _PART_SLOTS
_LAYER_SLOTS |= _ALTUP_SLOTS | _MIXER_SLOTS | _POOLED_SLOTS
_FEED_SLOTS = _MLP_SLOTS | _AFFINE_SLOTS | _SHARED_SLOTS | _MOE_SLOTS
_SLOTS = _MODEL_SLOTS | _LAYER_SLOTS | _FEED_SLOTS


class Slots:
    """The weights of a layer, or of the model where ``resolve`` knows no layer."""

    def __init__(self, spec: Spec, resolve: Resolver) -> None:
        self.spec, self.resolve = spec, resolve
        self.quantised = Quantised(spec, resolve)

    def projection(self, slot: str) -> m.Projection:
        """Return a matrix and, where it has one, its bias."""
        weight, bias = self.weight(slot), self.bias(slot)
        return m.Projection(weight=weight, bias=bias, adapter=self.adapter(slot))

    def adapter(self, slot: str) -> m.Adapter | None:
        """Return the slot's adapter, if it has one."""
        entry, what = self._entry(slot), f"weights.{slot}.adapter"
        given = entry and entry.adapter
        if not given or not self.resolve.flag(f"{what}.when", given.when):
            return None
        rank = self.resolve.size(f"{what}.rank", given.rank)
        down, up = (
            absolute(self.resolve.text(f"{what}.{name}", named), self.spec)
            for name, named in (("down", given.down), ("up", given.up))
        )
        layout = given.layout and self.resolve.text(f"{what}.layout", given.layout)
        part = slot if layout and "[" in layout else None
        return m.Adapter(
            rank=rank,
            down=m.Weight(tensor=f"{down}.weight"),
            up=m.Weight(tensor=f"{up}.weight", layout=layout, part=part),
        )

    def optional_projection(self, slot: str) -> m.Projection | None:
        """Return a matrix and its bias, or None where the spec names none for this
        config."""
        return self.projection(slot) if self._entry(slot) else None

    def weight(self, slot: str) -> m.Weight:
        """Return the slot's weight.

        Raises:
            GlmcError: when the spec names none.
        """
        weight = self.optional(slot)
        if weight is None:
            raise SpecIncompleteError(
                f"spec {self.spec.arch!r}: weights has no entry for {slot!r}"
            )
        return weight

    def optional(self, slot: str) -> m.Weight | None:
        """Return the slot's weight, or None where the spec names none."""
        entry = self._entry(slot)
        if entry is None:
            return None
        layout = self._layout(entry)
        part = slot if layout and "[" in layout else None
        name = self._name(slot, entry, "weight")
        storage = None
        if slot not in _MODEL_SLOTS:
            storage = self.quantised.in_layer(slot, name)
        elif slot in _VOCABULARY_SLOTS:
            storage = self.quantised.in_vocabulary(slot, name)
        return m.Weight(tensor=name, layout=layout, part=part, storage=storage)

    def bias(self, slot: str) -> m.Weight | None:
        """Return the slot's bias; its layout is the weight's without the input axes."""
        entry = self._entry(slot)
        if entry is None or not self.resolve.flag(f"weights.{slot}.bias", entry.bias):
            return None
        layout = self._layout(entry)
        layout = layout and _without(layout, _INPUT_AXES.get(slot, _HIDDEN))
        part = slot if layout and "[" in layout else None
        return m.Weight(
            tensor=self._name(slot, entry, "bias"), layout=layout, part=part
        )

    def _entry(self, slot: str) -> WeightSpec | None:
        keys = [k for k in self.spec.weights if slot in slots_of(k)]
        if len(keys) > 1:
            raise SpecIncompleteError(
                f"spec {self.spec.arch!r}: the slot {slot!r} has two entries in"
                f" weights, {' and '.join(keys)}"
            )
        entry = self.spec.weights[keys[0]] if keys else None
        absent = entry is None or self.resolve.value(entry.name) is None
        return None if absent else entry

    def _name(self, slot: str, entry: WeightSpec, kind: str) -> str:
        own = kind == "bias" and entry.bias_name is not None
        key, given = ("bias_name", entry.bias_name) if own else ("name", entry.name)
        name = self.resolve.text(f"weights.{slot}.{key}", given)
        if slot in _MODEL_SLOTS:
            name = f"{self.spec.tensor_prefix}{name}"
        else:
            name = absolute(name, self.spec)
        return name if own or entry.bare else f"{name}.{kind}"

    def _layout(self, entry: WeightSpec) -> str | None:
        if entry.layout is None:
            return None
        return self.resolve.text("weights.layout", entry.layout)


def absolute(name: str, spec: Spec) -> str:
    """Return a layer's name for a tensor or a module with its prefix; one that begins
    with a slash is the model's."""
    if name.startswith("/"):
        return spec.tensor_prefix + name[1:]
    return spec.layer_root + name


def slots_of(key: str) -> list[str]:
    """Return the slots of a ``weights`` key such as ``q+k+v``.

    Raises:
        GlmcError: on a name that is no slot.
    """
    slots = key.replace(" ", "").split("+")
    for slot in slots:
        if slot not in _SLOTS:
            known = ", ".join(sorted(_SLOTS))
            raise SpecKeyError(
                f"weights.{key}: there is no slot {slot!r}; slots are {known}"
            )
    return slots


def _without(layout: str, axes: set[str]) -> str:
    """Return ``layout`` without the stored dimensions that are made of ``axes``
    alone."""
    return " ".join(d for d in _dimensions(layout) if not set(_atoms(d)) <= axes)


def _dimensions(layout: str) -> list[str]:
    dimensions, depth = [""], 0
    for mark in layout.strip():
        depth += (mark in "([") - (mark in ")]")
        if mark == " " and depth == 0:
            dimensions.append("")
        else:
            dimensions[-1] += mark
    return [d for d in dimensions if d]


def _atoms(dimension: str) -> list[str]:
    return dimension.replace("(", " ").replace(")", " ").split()
