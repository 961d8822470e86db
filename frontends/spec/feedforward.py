"""Feed-forward layers and mixtures of them."""

from typing import Literal

from glmc.frontends.sections import Flag, Integer, Number, Section, Text
from glmc.frontends.spec.norms import NormUse


class ClampedGluSpec(Section):
    """gate · sigmoid(alpha · gate) · (up + 1), both clamped, or without alpha
    act(gate) · up, both clamped; a ``limit`` of null is neither."""

    alpha: Number | None = None
    limit: Number | None


class MlpSpec(Section):
    """A feed-forward layer, with or without a gate."""

    kind: Literal["mlp"]
    act: Text
    ff: Integer
    gated: Flag = True
    glu: ClampedGluSpec | None = None
    sub_norm: NormUse | None = None
    sparsity: Number | None = None
    """What share of the gate is cut off, as if it were normally distributed."""


class SharedSpec(Section):
    """The gated MLP that all tokens of a mixture share, where ``when`` is true.

    With ``gate`` the slot ``shared_gate``, a row, scales it by the sigmoid of its
    product with the token. ``averaged`` takes the mean of it and the experts.
    """

    ff: Integer
    gate: Flag = False
    averaged: Flag = False
    glu: ClampedGluSpec | None = None
    when: Flag = True


class MoeSpec(Section):
    """A mixture of gated MLPs; ``ff`` is the width of one expert.

    ``norm`` is of what the experts read, and the router is given it without; it reads
    ``router_scale`` · ``router_norm`` of that.
    """

    kind: Literal["moe"]
    act: Text
    experts: Integer
    zero_experts: Integer = 0
    top_k: Integer
    ff: Integer
    softcap: Number | None = None
    score: Literal["softmax", "sigmoid", "logit", "sparsemixer"]
    jitter: Number | None = None
    after: Text | None = None
    groups: Integer = 1
    top_groups: Integer = 1
    group_score: Literal["top2", "max"] = "top2"
    ineligible: Literal["never", "zero"] = "never"
    renormalise: Flag = False
    least_sum: Number | None = None
    scale: Number = 1.0
    glu: ClampedGluSpec | None = None
    weigh: Literal["output", "input"] = "output"
    shared: SharedSpec | None = None
    norm: NormUse | None = None
    router_norm: NormUse | None = None
    router_scale: Number = 1.0


class PerLayerInputSpec(Section):
    """down(act(gate(x)) · e): e is the layer's part of ``embed.per_layer``."""

    kind: Literal["per_layer_input"]
    act: Text


class LowRankSpec(Section):
    """x + norm(up(down(x))): slots ``laurel_down`` and ``laurel_up``."""

    kind: Literal["low_rank"]
    rank: Integer
    norm: NormUse | None = None


class BranchSpec(Section):
    """post(op(pre(x))); ``op`` is an ``mlp`` or a ``moe``."""

    op: Text
    pre: NormUse | None = None
    post: NormUse | None = None


class BranchesSpec(Section):
    """The sum of feed-forwards that read the same x."""

    kind: Literal["branches"]
    of: tuple[BranchSpec, ...]
