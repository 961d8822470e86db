"""Lower mixtures of experts: the router, and the experts it chooses among."""

from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter

IDS = "ids"
"""The token ids, where some layer's experts depend on them."""


def routed(e: Emitter, h: str, x: str, moe: m.Moe) -> str:
    """Emit router and experts, whose weights are two stacks of matrices.

    The router reads ``h``, the experts ``x``.
    """
    axes = {"X": moe.experts, "Fx": moe.ff}
    wide = "E"
    count = moe.experts + moe.zero_experts
    experts, weights = route(e, h, moe.router, count, moe.top_k)
    if moe.latents:
        wide, axes = "El", {**axes, "El": moe.latents.width}
        x = e.linear("latents", x, moe.latents.down, ("El", "E"), axes)
    both = [moe.gate, moe.up] if moe.gate else [moe.up]
    name = "experts_gate_up" if moe.gate else "experts_up"
    gate_up = e.packed(name, both, ("X", "Fx", wide), axes, 1)
    down = e.packed("experts_down", [moe.down], ("X", wide, "Fx"), axes, 1)
    fields: dict[str, Any] = {
        "x": x,
        "experts": experts,
        "weights": weights,
        "fn": moe.act,
    }
    fields["weigh"] = moe.weigh
    fields |= {"zero_experts": moe.zero_experts, "gated": moe.gate is not None}
    fields |= moe.glu.model_dump() if moe.glu else {}
    biases = [moe.gate_bias, moe.up_bias] if moe.gate else [moe.up_bias]
    if found := [bias for bias in biases if bias]:
        bias = e.packed(f"{name}_bias", found, ("X", "Fx"), axes, 1)
        fields["gate_up_bias"] = bias
    if moe.down_bias:
        bias = e.packed("experts_down_bias", [moe.down_bias], ("X", wide), axes, 1)
        fields["down_bias"] = bias
    matrices = {"gate_up": gate_up, "down": down}
    y = str(e.emit(ops.MoeExperts, "routed", **fields, **matrices))
    if moe.latents:
        if moe.latents.norm:
            y = e.norm("routed_normed", y, moe.latents.norm, ("El",), axes)
        y = e.linear("routed_wide", y, moe.latents.up, ("E", "El"), axes)
    if moe.bias is None:
        return y
    bias = e.weight(moe.bias, ("E",))
    return str(e.emit(ops.AddBias, "routed_biased", x=y, bias=bias))


def route(
    e: Emitter, h: str, router: m.Router, count: int, top_k: int
) -> tuple[str, str]:
    """Emit the router: the chosen experts of each token, and their weights."""
    axes = {"X": count}
    if router.norm:
        h = e.norm("router_in", h, router.norm)
    if router.pre_scale != 1.0:
        h = e.emit(ops.Scale, "router_scaled", x=h, factor=router.pre_scale)
    weight = e.weight(router.weight, ("X", "E"), axes, dtype="f32")
    vectors = {
        name: each and e.weight(each, ("X",), axes, dtype="f32")
        for name, each in (("bias", router.bias), ("correction", router.correction))
    }
    how = {name: getattr(router, name) for name in _CHOICE}
    if router.table:
        table = e.weight(router.table, ("V", "Tk"), {"Tk": top_k}, dtype="i64")
        vectors |= {"ids": IDS, "table": table}
    fields = {"x": h, "weight": weight, **vectors, "top_k": top_k, **how}
    experts, weights = e.emit(ops.MoeRouter, "experts", "weights", **fields)
    if router.expert_scale:
        scale = e.weight(router.expert_scale, ("X",), axes, dtype="f32")
        chosen = {"weights": weights, "experts": experts, "scale": scale}
        weights = e.emit(ops.ScaleExperts, "scaled_weights", **chosen)
    return experts, weights


# The attributes of a router that are those of its op.
_CHOICE = (
    "softcap",
    "score",
    "jitter",
    "after",
    "groups",
    "top_groups",
    "group_score",
    "ineligible",
    "renormalise",
    "least_sum",
    "sum_eps",
    "scale",
)
