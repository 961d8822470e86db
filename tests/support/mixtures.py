"""Mixtures of experts and latent attention at the Model level, drawn at random."""

from typing import Any

from hypothesis import strategies as st

from glmc.ir import model as m
from support.models import models, norm, projection


@st.composite
def moes(draw: st.DrawFn, prefix: str) -> m.Moe:
    """Experts in one tensor or each in its own, with all that a router may have."""
    stacked, shared = draw(st.booleans()), draw(st.booleans())
    groups = draw(st.sampled_from([1, 2]))
    score: Any = draw(st.sampled_from(["softmax", "sigmoid", "logit"]))
    after: Any = draw(_scores)
    correction = m.Weight(tensor=f"{prefix}correction")
    router = m.Router(
        weight=m.Weight(tensor=f"{prefix}router.weight"),
        bias=draw(st.sampled_from([None, m.Weight(tensor=f"{prefix}router.bias")])),
        score=score,
        after=after if score == "logit" else None,
        correction=correction if draw(st.booleans()) else None,
        groups=groups,
        top_groups=draw(st.integers(1, groups)),
        group_score=draw(st.sampled_from(["top2", "max"])),
        ineligible=draw(st.sampled_from(["never", "zero"])),
        least_sum=draw(st.sampled_from([None, 0.5])),
        renormalise=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
    )
    both, layout = f"{prefix}experts.gate_up", "X [gate:Fx|up:Fx] E"
    gate, up = (
        m.Weight(tensor=both, layout=layout, part=slot)
        if stacked
        else m.Weight(tensor=f"{prefix}experts.{{x}}.{slot}.weight")
        for slot in ("gate", "up")
    )
    index = "" if stacked else "{x}."
    biases = draw(st.booleans())
    row = m.Weight(tensor=f"{prefix}shared_gate.weight")
    act = draw(_acts)
    mlp = m.Mlp(
        act=act,
        ff=24,
        gate=projection(f"{prefix}shared.gate"),
        up=projection(f"{prefix}shared.up"),
        down=projection(f"{prefix}shared.down"),
    )
    return m.Moe(
        experts=6,
        top_k=draw(st.integers(1, 3)),
        act=act,
        ff=16,
        router=router,
        gate=gate,
        up=up,
        down=m.Weight(tensor=f"{prefix}experts.{index}down.weight"),
        gate_bias=m.Weight(tensor=f"{prefix}gate_bias") if biases else None,
        up_bias=m.Weight(tensor=f"{prefix}up_bias") if biases else None,
        down_bias=m.Weight(tensor=f"{prefix}down_bias") if biases else None,
        glu=draw(st.sampled_from([None, m.ClampedGlu(alpha=1.5, limit=7.0)])),
        weigh=draw(st.sampled_from(["output", "input"])),
        shared=mlp if shared else None,
        shared_gate=draw(st.sampled_from([None, row])) if shared else None,
        averaged=shared and draw(st.booleans()),
    )


@st.composite
def indexers(draw: st.DrawFn, prefix: str) -> m.Indexer:
    """An indexer that selects four tokens."""
    return m.Indexer(
        heads=8,
        dim=16,
        top_k=4,
        style=draw(_styles),
        q=projection(f"{prefix}iq"),
        k=projection(f"{prefix}ik"),
        k_norm=norm(f"{prefix}ik_norm", "layer"),
        weights=m.Weight(tensor=f"{prefix}iweights.weight"),
    )


@st.composite
def mlas(draw: st.DrawFn, prefix: str, indexer: m.Indexer | str | None) -> m.Mla:
    """Latent attention; with an indexer queries have a latent."""
    ranked = indexer is not None or draw(st.booleans())
    gate = m.OutputGate(
        projection=projection(f"{prefix}attn_gate"),
        act="sigmoid",
        width=draw(st.sampled_from(["channel", "head"])),
        reads=draw(st.sampled_from(["hidden", "latent"])),
    )
    rope = m.Rope(dim=8, theta=10000.0, style=draw(_styles))
    return m.Mla(
        heads=2,
        nope=8,
        v_dim=12,
        q_rank=24 if ranked else None,
        kv_rank=16,
        scale=0.25,
        rope=rope,
        q_a=projection(f"{prefix}q_a") if ranked else None,
        q_norm=norm(f"{prefix}q_norm") if ranked else None,
        q=projection(f"{prefix}q"),
        kv_a=projection(f"{prefix}kv_a", bias=draw(st.booleans())),
        q_reads=draw(st.sampled_from(["normed", "both"])) if ranked else "normed",
        k_norm=draw(st.sampled_from([None, norm(f"{prefix}k_norm")])),
        window=None if indexer else draw(st.sampled_from([None, 3])),
        gate=draw(st.sampled_from([None, gate])),
        kv_norm=norm(f"{prefix}kv_norm"),
        kv_b=projection(f"{prefix}kv_b"),
        o=projection(f"{prefix}o"),
        indexer=indexer,  # type: ignore[arg-type]
    )


@st.composite
def mixed_models(draw: st.DrawFn) -> m.Model:
    """A drawn model with experts in some blocks and, perhaps, latent attention.

    The last kind of block may share what the first one selects.
    """
    model = draw(models())
    latent, sparse = draw(st.booleans()), draw(st.booleans())
    blocks = []
    for at, block in enumerate(model.blocks):
        attend, feed = block.steps
        if latent:
            own = draw(indexers(block.prefix)) if sparse else None
            indexer = "shared" if sparse and at else own
            made = draw(mlas(block.prefix, indexer))
            attend = attend.model_copy(update={"op": made})
        elif draw(st.booleans()):
            assert isinstance(attend.op, m.Attention)
            heads = _head_experts(attend.op, block.prefix)
            attend = attend.model_copy(update={"op": heads})
        if draw(st.booleans()):
            feed = feed.model_copy(update={"op": draw(moes(block.prefix))})
        if draw(st.booleans()):
            gated = _gated(norm(f"{block.prefix}ln_2"), block.prefix)
            feed = feed.model_copy(update={"pre": gated})
        blocks.append(block.model_copy(update={"steps": (attend, feed)}))
        if draw(st.booleans()):
            each = tuple(1.0 + 0.5 * n for n in range(len(block.layers)))
            steps = (attend, feed.model_copy(update={"scale": each}))
            blocks[-1] = blocks[-1].model_copy(update={"steps": steps})
    return model.model_copy(update={"blocks": tuple(blocks)})


def _head_experts(attention: m.Attention, prefix: str) -> m.Attention:
    """The attention with experts that make its queries and read its context."""
    router = m.Router(
        weight=m.Weight(tensor=f"{prefix}attn_router"), score="logit", after="softmax"
    )
    group = attention.heads // attention.kv_heads
    update = {
        "q": projection(f"{prefix}q_experts"),
        "o": projection(f"{prefix}o_experts", bias=True),
        "experts": m.HeadExperts(experts=4, top_k=group, router=router),
    }
    return attention.model_copy(update=update)


def _gated(plain: m.Norm, prefix: str) -> m.Norm:
    """The norm with a gate of low rank."""
    both = {name: projection(f"{prefix}norm_{name}") for name in ("down", "up")}
    return plain.model_copy(update={"gate": m.NormGate(rank=5, **both)})


_styles: st.SearchStrategy[m.RopeStyle] = st.sampled_from(["half", "interleaved"])
_scores = st.sampled_from(["softmax", "sigmoid"])
_acts: st.SearchStrategy[m.ActivationName] = st.sampled_from(["silu", "gelu"])
