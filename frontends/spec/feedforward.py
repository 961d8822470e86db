"""Feed-forward layers and mixtures of them."""

from glmc.frontends.language.derived import Makes, Slot
from glmc.frontends.language.kinds import Flag, Number, Text
from glmc.frontends.language.sections import Section
from glmc.ir import model as m


class ClampedGluSpec(Section, makes=Makes(m.ClampedGlu), unless_null="limit"):
    """gate · sigmoid(alpha · gate) · (up + 1), both clamped, or without alpha
    act(gate) · up, both clamped; a ``limit`` of null is neither."""


_GATED = {"gate": Slot("gate", when="gated")}


class MlpSpec(Section, makes=Makes(m.Mlp, _GATED, left=("cutoff",))):
    """A feed-forward layer, with or without a gate."""

    gated: Flag = True
    sparsity: Number | None = None
    """The share of the gate that is cut off, as if it were normally distributed."""


_SHARED = Makes(
    m.Mlp,
    slots={"gate": Slot("sgate", when="gated"), "up": "sup", "down": "sdown"},
    left=("kind", "act", "sub_norm", "cutoff"),
)
_SHARED_IN = Makes(
    m.Moe,
    slots={"shared_gate": Slot("shared_gate", when="gate")},
    only=("shared_gate", "averaged"),
)


class SharedSpec(Section, makes=(_SHARED, _SHARED_IN)):
    """The MLP that all tokens of a mixture share, where ``when`` is true.

    With ``gate`` the slot ``shared_gate``, a row, scales it by the sigmoid of its
    product with the token. ``averaged`` takes the mean of it and the experts.
    """

    gate: Flag = False
    gated: Flag = True
    when: Flag = True


_LATENTS = Makes(m.ExpertLatents, {"down": "xlatent_down", "up": "xlatent_up"})


class ExpertLatentsSpec(Section, makes=_LATENTS, unless_null="width"):
    """Experts between maps to few channels and back: slots ``xlatent_down`` and
    ``xlatent_up``; a ``width`` of null is none."""


_MOE = Makes(
    m.Moe,
    slots={
        "gate": Slot("xgate", when="gated"),
        "up": "xup",
        "down": "xdown",
        "gate_bias": Slot("xgate", bias=True),
        "up_bias": Slot("xup", bias=True),
        "down_bias": Slot("xdown", bias=True),
        "bias": "xbias",
    },
    left=("router", *(_SHARED_IN.only or ())),
)
_ROUTER = Makes(
    m.Router,
    slots={"weight": "router", "bias": Slot("router", bias=True)},
    renamed={"norm": "router_norm", "pre_scale": "router_scale"},
)


class MoeSpec(Section, makes=(_MOE, _ROUTER)):
    """A mixture of MLPs, with or without a gate; ``ff`` is the width of one expert.

    ``norm`` is of what the experts read, and the router is given it without; it reads
    ``router_scale`` · ``router_norm`` of that.
    """

    gated: Flag = True
    shared: SharedSpec | None = None


_PART = Makes(m.PerLayerInput, {"gate": "part_gate", "down": "part_down"})


class PerLayerInputSpec(Section, makes=_PART):
    """down(act(gate(x)) · e): e is the layer's part of ``embed.per_layer``."""


class LowRankSpec(
    Section, makes=Makes(m.LowRank, {"down": "laurel_down", "up": "laurel_up"})
):
    """x + norm(up(down(x))): slots ``laurel_down`` and ``laurel_up``."""


class BranchSpec(Section, makes=Makes(m.Branch)):
    """post(op(pre(x))); ``op`` is an ``mlp`` or a ``moe``."""

    op: Text


class LinkSpec(Section, makes=Makes(m.Link)):
    """op(pre(x)); ``op`` is an ``attention``, an ``mlp`` or ``affine``."""

    op: Text


class ChainSpec(Section, makes=Makes(m.Chain)):
    """Sublayers one after the other, without sums between them; with ``beside`` the
    first reads the stream and what was embedded, side by side."""


class BranchesSpec(Section, makes=Makes(m.Branches, renamed={"branches": "of"})):
    """The sum of feed-forwards that read the same x."""
