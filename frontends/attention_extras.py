"""What some attentions have beside projections, norms and rope: nodes from a spec."""

from typing import Any

from glmc.frontends.resolver import Resolver
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    AlibiSpec,
    GateSpec,
    HeadExpertsSpec,
    QueryScaleSpec,
    RopeSpec,
)
from glmc.ir import model as m


def alibi(what: str, resolve: Resolver, spec: AlibiSpec | None) -> m.Alibi | None:
    """Biases by distance, where the layer has them."""
    if spec is None or not resolve.flag(f"{what}.when", spec.when):
        return None
    return m.Alibi(
        max_bias=resolve.number(f"{what}.max_bias", spec.max_bias),
        scale=resolve.number(f"{what}.scale", spec.scale),
    )


def long_factors(
    what: str, resolve: Resolver, spec: RopeSpec, rope: m.Rope
) -> m.RopeScaling | None:
    """The rope's scaling, with the factors that a config gives for longrope."""
    given, scaling = spec.long_factors, rope.scaling
    if given is None or not isinstance(scaling, m.LongRopeScaling):
        return scaling
    short = resolve.optional_number(f"{what}.long_factors.short", given.short)
    long = resolve.optional_number(f"{what}.long_factors.long", given.long)
    factor = short or scaling.attention_factor
    update = {"attention_factor": factor, "long_attention_factor": long}
    return scaling.model_copy(update=update)


def query_scale(
    what: str, resolve: Resolver, spec: QueryScaleSpec | None
) -> m.QueryScale | None:
    """How queries grow with their position, where they do."""
    if spec is None or not resolve.flag(f"{what}.when", spec.when):
        return None
    return m.QueryScale(
        beta=resolve.optional_number(f"{what}.beta", spec.beta),
        exponent=resolve.optional_number(f"{what}.exponent", spec.exponent),
        context=resolve.size(f"{what}.context", spec.context),
        shift=spec.shift,
    )


def output_gate(
    what: str, resolve: Resolver, spec: GateSpec | None, slots: Slots
) -> m.OutputGate | None:
    """The gate of the context, where there is one."""
    if spec is None or not resolve.flag(f"{what}.when", spec.when):
        return None
    projection = slots.projection("attn_gate")
    width = resolve.text(f"{what}.width", spec.width)
    match width:
        case "channel" | "head":
            how: dict[str, Any] = {"act": spec.act, "width": width}
            if resolve.flag(f"{what}.head_bias", spec.head_bias):
                how["head_bias"] = slots.weight("gate_bias")
            return m.OutputGate(projection=projection, **how, reads=spec.reads)
    expected = "must be channel or head"
    raise resolve.error(f"{what}.width", spec.width, expected, width)


def head_experts(
    what: str,
    resolve: Resolver,
    spec: HeadExpertsSpec | None,
    slots: Slots,
    group: float,
) -> m.HeadExperts | None:
    """The experts that make queries; ``group`` is how many share a KV head."""
    if spec is None:
        return None
    experts = resolve.size(f"{what}.experts", spec.experts)
    top_k = resolve.size(f"{what}.top_k", spec.top_k, experts)
    if top_k != group:
        expected = f"must be heads / kv_heads, {group:g}"
        raise resolve.error(f"{what}.top_k", spec.top_k, expected, top_k)
    router = m.Router(
        weight=slots.weight("attn_router"), score="logit", after="softmax"
    )
    return m.HeadExperts(experts=experts, top_k=top_k, router=router)
