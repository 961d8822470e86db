"""Models at the Model level whose layers hand values to later ones, in small."""

from typing import Any

from hypothesis import strategies as st

from glmc.ir import model as m
from support.mixtures import moes
from support.models import chatglm, norm, projection

PREFIX = "encoder.layers.{i}."


def sharing(source: tuple[int, ...] = (0, 1), **attention: Any) -> m.Model:
    """ChatGLM2's block in small: two layers with a cache, then some that read one."""
    model = chatglm(2)
    (block,) = model.blocks
    attend, feed = block.steps
    own = attend.op.model_copy(update=attention)
    bare = own.model_copy(update={"k": None, "v": None, "k_norm": None, "v_norm": None})
    later = tuple(range(2, 2 + len(source)))
    steps = (attend.model_copy(update={"op": bare}), feed)
    reader: dict[str, Any] = {"name": "reader", "layers": later, "steps": steps}
    attend = attend.model_copy(update={"op": own})
    blocks = (
        block.model_copy(update={"steps": (attend, feed)}),
        block.model_copy(update={**reader, "kv_from": source}),
    )
    return model.model_copy(update={"blocks": blocks})


def with_parts(model: m.Model, **changes: Any) -> m.Model:
    """The model with a per-layer embedding, and a sublayer in each block for it."""
    fields: dict[str, Any] = {
        "width": 6,
        "vocab": 61,
        "weight": m.Weight(tensor="parts.weight"),
        "project": projection("parts_projection"),
        "norm": norm("parts_norm"),
        **changes,
    }
    per_layer = m.PerLayerEmbedding(**fields)
    part = m.PerLayerInput(
        act="gelu_tanh",
        gate=projection(f"{PREFIX}part_gate"),
        down=projection(f"{PREFIX}part_down"),
    )
    step = m.Step(op=part, post=norm(f"{PREFIX}part_norm"))
    embed = model.embed.model_copy(update={"per_layer": per_layer})
    blocks = (
        block.model_copy(update={"steps": (*block.steps, step)})
        for block in model.blocks
    )
    return model.model_copy(update={"embed": embed, "blocks": tuple(blocks)})


@st.composite
def handing_models(draw: st.DrawFn) -> m.Model:
    """Shared caches, parts for every layer, feed-forwards side by side, and scalars, of
    each what is drawn."""
    source = draw(st.sampled_from([(0,), (1, 1), (0, 1), (1, 0, 1)]))
    head_norm = st.sampled_from([None, norm(f"{PREFIX}head_norm")])
    changes: dict[str, Any] = {"q_norm": draw(head_norm), "k_norm": draw(head_norm)}
    changes["v_norm"] = draw(st.sampled_from([None, _bare("rms"), _bare("layer")]))
    if draw(st.booleans()):
        changes["v"] = None
    if draw(st.booleans()):
        changes["rope"] = m.Rope(
            dim=16,
            theta=1e4,
            style="half",
            scaling=m.ProportionalScaling(turning=draw(st.integers(0, 8))),
        )
    model = sharing(source, **changes)
    if draw(st.booleans()):
        scale = st.sampled_from([1.0, 0.5])
        rounded = {"scale_rounded": draw(st.booleans())}
        scales = {n: draw(scale) for n in ("scale", "project_scale", "sum_scale")}
        normed = {"norm": draw(st.sampled_from([None, norm("parts_norm")]))}
        model = with_parts(model, **rounded, **scales, **normed)
    scalar = draw(st.sampled_from([None, m.Weight(tensor=f"{PREFIX}scalar")]))
    side = draw(st.booleans())
    blocks = []
    for block in model.blocks:
        attend, feed, *rest = block.steps
        if side:
            assert isinstance(feed.op, m.Mlp)
            both = m.Branches(branches=draw(_branches(feed.op)))
            feed = feed.model_copy(update={"op": both, "pre": None})
        steps = (attend, feed, *rest)
        blocks.append(block.model_copy(update={"steps": steps, "scalar": scalar}))
    model = model.model_copy(update={"blocks": tuple(blocks)})
    return with_streams(model) if draw(st.booleans()) else model


def with_streams(model: m.Model) -> m.Model:
    """The model on one of three residual streams, LAuReL beside its attention; a step
    for a layer's part is for the other streams."""
    altup = m.AltUp(
        router=projection(f"{PREFIX}altup_router"),
        router_norm=norm(f"{PREFIX}altup_norm"),
        router_scale=0.5,
        predict=projection(f"{PREFIX}predict"),
        correct=projection(f"{PREFIX}correct"),
        scale=m.Weight(tensor=f"{PREFIX}scale"),
    )
    low = m.LowRank(
        rank=5,
        down=projection(f"{PREFIX}laurel_down"),
        up=projection(f"{PREFIX}laurel_up"),
        norm=norm(f"{PREFIX}laurel_norm"),
    )
    blocks = []
    for block in model.blocks:
        attend, *rest = block.steps
        beside = m.Step(op=low, pre=attend.pre, parallel=True, residual_scale=0.5)
        for_others = [
            step.model_copy(update={"others": isinstance(step.op, m.PerLayerInput)})
            for step in rest
        ]
        steps = (attend, beside, *for_others)
        blocks.append(block.model_copy(update={"steps": steps, "altup": altup}))
    streams = m.Streams(
        count=3,
        active=1,
        spread=m.Weight(tensor="spread.{x}.weight"),
        gather=m.Weight(tensor="gather.{x}.weight"),
    )
    return model.model_copy(update={"blocks": tuple(blocks), "streams": streams})


@st.composite
def _branches(draw: st.DrawFn, mlp: m.Mlp) -> tuple[m.Branch, ...]:
    """An MLP and experts whose router reads something else than they do."""
    moe = draw(moes(PREFIX))
    scale = st.sampled_from([None, m.Weight(tensor=f"{PREFIX}expert_scale")])
    router = moe.router.model_copy(
        update={
            "norm": norm(f"{PREFIX}router_norm"),
            "pre_scale": draw(st.sampled_from([1.0, 0.25])),
            "expert_scale": draw(scale),
        }
    )
    inner = draw(st.sampled_from([None, norm(f"{PREFIX}experts_norm")]))
    moe = moe.model_copy(update={"router": router, "norm": inner})
    return (
        m.Branch(op=mlp, pre=norm(f"{PREFIX}b1"), post=norm(f"{PREFIX}b1_after")),
        m.Branch(op=moe, post=draw(st.sampled_from([None, norm(f"{PREFIX}b2_after")]))),
    )


def _bare(kind: Any) -> m.Norm:
    return m.Norm(kind=kind, eps=1e-5, weight=None)
