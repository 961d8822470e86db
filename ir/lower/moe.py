"""Mixtures of experts as ops: the router and the experts it chooses among."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter


def routed(e: Emitter, h: str, moe: m.Moe) -> str:
    """Two stacks of matrices, whatever the number of experts."""
    axes = {"X": moe.experts, "Fx": moe.ff}
    experts, weights = _route(e, h, moe)
    both = [moe.gate, moe.up]
    gate_up = e.packed("experts_gate_up", both, ("X", "Fx", "E"), axes, 1)
    down = e.packed("experts_down", [moe.down], ("X", "E", "Fx"), axes, 1)
    fields = {"x": h, "experts": experts, "weights": weights, "fn": moe.act}
    matrices = {"gate_up": gate_up, "down": down}
    return str(e.emit(ops.MoeExperts, "routed", **fields, **matrices))


def _route(e: Emitter, h: str, moe: m.Moe) -> tuple[str, str]:
    router, axes = moe.router, {"X": moe.experts}
    weight = e.weight(router.weight, ("X", "E"), axes, dtype="f32")
    correction = None
    if router.correction:
        correction = e.weight(router.correction, ("X",), axes, dtype="f32")
    experts, weights = e.emit(
        ops.MoeRouter,
        "experts",
        "weights",
        x=h,
        weight=weight,
        correction=correction,
        top_k=moe.top_k,
        score=router.score,
        groups=router.groups,
        top_groups=router.top_groups,
        renormalise=router.renormalise,
        scale=router.scale,
    )
    return experts, weights
