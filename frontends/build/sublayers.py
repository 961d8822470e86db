"""Make the sublayers whose sections say more than their nodes have fields for."""

from collections.abc import Mapping
from typing import Any, Literal

from glmc.frontends.build.carried import kv_source
from glmc.frontends.build.making import Maker, builds
from glmc.frontends.build.rope import rope_node
from glmc.frontends.spec import (
    AffineSpec,
    AttentionSpec,
    BranchSpec,
    HeadExpertsSpec,
    IndexerSpec,
    LinkSpec,
    MlaSpec,
    MlpSpec,
    MoeSpec,
    PooledAttentionSpec,
    RopeSpec,
)
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError, GlmcError


@builds(AttentionSpec)
def attention(make: Maker, what: str, spec: AttentionSpec) -> m.Attention:
    """Make an attention: without ``v`` or ``k`` where these are another layer's."""
    head_dim: int = make.value(m.Attention, "head_dim", what, spec)
    known: dict[str, Any] = {"head_dim": head_dim}
    if spec.rope:
        known["rope"] = rope(make, f"{what}.rope", spec.rope, head_dim)
    if spec.qk_norm:
        known |= make.values(m.Attention, f"{what}.qk_norm", spec.qk_norm)
    equal = make.resolve.flag(f"{what}.kv_equal", spec.kv_equal)
    if kv_source(make, what, spec) is not None:
        known |= dict.fromkeys(("k", "v", "k_norm", "v_norm"))
    elif equal:
        known["v"] = None
    made = make.node(m.Attention, what, spec, **known)
    group = made.heads / made.kv_heads
    if made.experts and spec.experts and made.experts.top_k != group:
        expected, found = f"must be heads / kv_heads, {group:g}", made.experts.top_k
        raise make.refusal(f"{what}.experts", spec.experts, "top_k", expected, found)
    return made


@builds(HeadExpertsSpec)
def head_experts(make: Maker, what: str, spec: HeadExpertsSpec) -> m.HeadExperts:
    """Make the experts that make queries, weighed by the softmax over the chosen."""
    weight = make.slots.weight("attn_router")
    router = m.Router(weight=weight, score="logit", after="softmax")
    return make.node(m.HeadExperts, what, spec, router=router)


def rope(make: Maker, what: str, spec: RopeSpec, head_dim: int) -> m.Rope | None:
    """Make the rotary embedding of heads this wide, where the layer has one."""
    resolve = make.resolve
    if not resolve.flag(f"{what}.when", spec.when):
        return None
    params: Any = resolve.value(spec.params)
    if not isinstance(params, Mapping):
        expected = "must be an object, as rope() gives"
        raise make.refusal(what, spec, "params", expected, params)
    known = make.values(m.Rope, what, spec)
    dim, sections = known["dim"], known["sections"]
    if dim > head_dim:
        expected = f"must be at most head_dim ({head_dim})"
        raise make.refusal(what, spec, "dim", expected, dim)
    try:
        made = rope_node(params, **known)
    except GlmcError as error:
        raise error.read_by(f"{spec.params.where}: {what}") from None
    if dim % (2 * sections):
        expected = f"must pair channels in {dim} // {sections} each"
        raise make.refusal(what, spec, "sections", expected, dim)
    scaling = long_factors(make, f"{what}.long_factors", spec, made.scaling)
    return made.model_copy(update={"scaling": scaling})


def long_factors(
    make: Maker, what: str, spec: RopeSpec, scaling: m.RopeScaling | None
) -> m.RopeScaling | None:
    """Return the rope's scaling, with the factors that a config gives for longrope."""
    given = spec.long_factors
    if given is None or not isinstance(scaling, m.LongRopeScaling):
        return scaling
    short = make.resolve.optional_number(f"{what}.short", given.short)
    long = make.resolve.optional_number(f"{what}.long", given.long)
    factor = short or scaling.attention_factor
    update = {"attention_factor": factor, "long_attention_factor": long}
    return scaling.model_copy(update=update)


@builds(MlaSpec)
def latent_attention(make: Maker, what: str, spec: MlaSpec) -> m.Mla:
    """Make an attention over latents; without a query latent it has no norm of one."""
    ranked = make.value(m.Mla, "q_rank", what, spec) is not None
    dim: int = make.value(m.Rope, "dim", f"{what}.rope", spec.rope)
    turns = rope(make, f"{what}.rope", spec.rope, dim)
    known: dict[str, Any] = {"rope": turns, "shared": None if turns else dim}
    known["q_norm"] = None
    if ranked:
        where = f"{what}.q_norm"
        known["q_norm"] = make.norm(where, spec.q_norm, spec.norm, optional=False)
    made = make.node(m.Mla, what, spec, **known)
    if isinstance(made.indexer, m.Indexer) and made.indexer.dim < dim:
        assert spec.indexer
        expected = f"must be at least the {dim} rotary channels"
        found, where = made.indexer.dim, f"{what}.indexer"
        raise make.refusal(where, spec.indexer, "dim", expected, found)
    return made


@builds(PooledAttentionSpec)
def pooled(make: Maker, what: str, spec: PooledAttentionSpec) -> m.PooledAttention:
    """Make attention with caches of several rates."""
    head_dim: int = make.value(m.PooledAttention, "head_dim", what, spec)
    turning = {"head_dim": head_dim}
    known: dict[str, Any] = {**turning}
    known["rope"] = rope(make, f"{what}.rope", spec.rope, head_dim)
    made = make.node(m.PooledAttention, what, spec, **known)
    channels = made.heads * made.head_dim
    if channels % made.groups:
        expected = f"must divide the {channels} channels of all heads"
        raise make.refusal(what, spec, "groups", expected, made.groups)
    if made.indexer and made.indexer.dim < made.rope.dim:
        assert spec.indexer
        expected = f"must be at least the {made.rope.dim} rotary channels"
        where = f"{what}.indexer"
        raise make.refusal(where, spec.indexer, "dim", expected, made.indexer.dim)
    return made


@builds(IndexerSpec)
def indexer(make: Maker, what: str, spec: IndexerSpec) -> m.Indexer | Literal["shared"]:
    """Make a layer's own indexer, or return the word for that of a layer before it."""
    if make.resolve.flag(f"{what}.shared", spec.shared):
        return "shared"
    return make.node(m.Indexer, what, spec)


@builds(MlpSpec)
def mlp(make: Maker, what: str, spec: MlpSpec) -> m.Mlp:
    """Make a feed-forward; one without a gate has nothing to clamp."""
    known: dict[str, Any] = {}
    if not make.resolve.flag(f"{what}.gated", spec.gated):
        known["glu"] = None
    if make.said(spec, "act") == "xielu":
        alpha_p, alpha_n = make.slots.weight("alpha_p"), make.slots.weight("alpha_n")
        known["act"] = m.Xielu(alpha_p=alpha_p, alpha_n=alpha_n)
    share = make.resolve.optional_number(f"{what}.sparsity", spec.sparsity)
    if share is not None:
        if share >= 1:
            raise make.refusal(what, spec, "sparsity", "must be below 1", share)
        from statistics import NormalDist  # takes a while, and few models need it

        known["cutoff"] = NormalDist().inv_cdf(share)
    return make.node(m.Mlp, what, spec, **known)


@builds(MoeSpec)
def mixture(make: Maker, what: str, spec: MoeSpec) -> m.Moe:
    """Make a mixture with its router, and the MLP that all tokens share."""
    router = make.node(m.Router, what, spec)
    if (router.score == "logit") is not bool(router.after):
        expected = "must be softmax or sigmoid with score: logit, and else null"
        raise make.refusal(what, spec, "after", expected, router.after)
    known: dict[str, Any] = {"router": router, "shared": None}
    shared, where = spec.shared, f"{what}.shared"
    if shared and make.resolve.flag(f"{where}.when", shared.when):
        act = make.value(m.Moe, "act", what, spec)
        known["shared"] = make.node(m.Mlp, where, shared, act=act)
        known |= make.values(m.Moe, where, shared)
    made = make.node(m.Moe, what, spec, **known)
    _check_choice(what, made.experts + made.zero_experts, made.top_k, router)
    return made


def _check_choice(what: str, experts: int, top_k: int, router: m.Router) -> None:
    """Refuse a number of experts that no router can choose."""
    size, rest = divmod(experts, router.groups)
    least = 2 if router.groups > 1 and router.group_score == "top2" else 1
    if rest or size < least:
        told = f"{router.groups} groups" + " of two or more" * (least > 1)
        told = f"{experts} experts do not make {told}"
    elif router.top_groups > router.groups:
        told = f"{router.top_groups} of {router.groups} groups cannot be chosen"
    elif top_k > router.top_groups * size:
        told = f"{top_k} of {router.top_groups * size} experts cannot be chosen"
    else:
        return
    raise ConfigContradictionError(f"{what}: {told}; the config contradicts itself")


@builds(BranchSpec)
def branch(make: Maker, what: str, spec: BranchSpec) -> m.Branch:
    """Make one of several feed-forwards, by its name among the ops."""
    name, op = make.named(what, spec.op)
    if not isinstance(op, MlpSpec | MoeSpec):
        expected = "must be an op of kind mlp or moe"
        raise make.resolve.error(what, spec.op, expected, name)
    return make.node(m.Branch, what, spec, op=make.part(f"ops.{name}", op))


@builds(LinkSpec)
def link(make: Maker, what: str, spec: LinkSpec) -> m.Link:
    """Make one of several sublayers after one another, by its name among the ops."""
    name, op = make.named(what, spec.op)
    if not isinstance(op, AttentionSpec | MlpSpec | AffineSpec):
        expected = "must be an op of kind attention, mlp or affine"
        raise make.resolve.error(what, spec.op, expected, name)
    return make.node(m.Link, what, spec, op=make.part(f"ops.{name}", op))


@builds(AffineSpec)
def affine(make: Maker, what: str, spec: AffineSpec) -> m.Affine:
    """Make one matrix, from the slot that the spec names."""
    return m.Affine(map=make.slots.projection(spec.slot))
