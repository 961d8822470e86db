"""What some attentions have beside projections, norms and rope: nodes from a spec."""

from glmc.frontends.resolver import Resolver
from glmc.frontends.slots import Slots
from glmc.frontends.spec import AlibiSpec, GateSpec, QueryScaleSpec
from glmc.ir import model as m


def alibi(what: str, resolve: Resolver, spec: AlibiSpec | None) -> m.Alibi | None:
    """Biases by distance, where the layer has them."""
    if spec is None or not resolve.flag(f"{what}.when", spec.when):
        return None
    return m.Alibi(
        max_bias=resolve.number(f"{what}.max_bias", spec.max_bias),
        scale=resolve.number(f"{what}.scale", spec.scale),
    )


def query_scale(
    what: str, resolve: Resolver, spec: QueryScaleSpec | None
) -> m.QueryScale | None:
    """How queries grow with their position, where they do."""
    if spec is None or not resolve.flag(f"{what}.when", spec.when):
        return None
    return m.QueryScale(
        beta=resolve.number(f"{what}.beta", spec.beta),
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
    return m.OutputGate(projection=projection, act=spec.act, width=spec.width)
