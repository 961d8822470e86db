"""Models at the Model level: two that are written down, and any that can be drawn."""

from typing import Any

from hypothesis import strategies as st

from glmc.ir import model as m

QKV = "[q:(H D)|k:(K D)|v:(K D)] E"
GATE_UP = "[gate:F|up:F] E"


def projection(
    tensor: str, layout: str | None = None, part: str | None = None, bias: bool = False
) -> m.Projection:
    """A weight and, with ``bias``, its bias in the same layout without the input."""
    vector = layout and layout.removesuffix(" E").removeprefix("E ")
    return m.Projection(
        weight=m.Weight(tensor=f"{tensor}.weight", layout=layout, part=part),
        bias=m.Weight(tensor=f"{tensor}.bias", layout=vector, part=part)
        if bias
        else None,
    )


def norm(tensor: str, kind: str = "rms", eps: float = 1e-5) -> m.Norm:
    """A norm; a LayerNorm has a bias."""
    bias = m.Weight(tensor=f"{tensor}.bias") if kind == "layer" else None
    weight = m.Weight(tensor=f"{tensor}.weight")
    return m.Norm.model_validate(
        {"kind": kind, "eps": eps, "weight": weight, "bias": bias}
    )


def glm(layers: int = 2, projection: bool = True) -> m.Model:
    """ChatGLM-6B's block in small, behind a prefix encoder."""
    model = chatglm(layers)
    (block,) = model.blocks
    attend, feed = block.steps
    rope = m.Rope(dim=16, theta=1e4, style="half", sections=2, frequencies="f16")
    op = attend.op.model_copy(update={"mask": "prefix", "rope": rope})
    scaled: dict[str, Any] = {"residual": "normed", "residual_scale": 2.5}
    steps = tuple(
        m.Step(op=one, pre=norm(f"layers.{{i}}.ln_{n}", "layer"), **scaled)
        for n, one in enumerate((op, feed.op))
    )
    inner: dict[str, Any] = {"up": projection_of("up"), "down": projection_of("down")}
    encoder = m.PrefixEncoder(
        length=7,
        table=m.Weight(tensor="prefix_encoder.embedding.weight"),
        **({"row": "hidden", **inner} if projection else {}),
    )
    return model.model_copy(
        update={
            "blocks": (block.model_copy(update={"steps": steps}),),
            "positions": m.GlmPositions(gmask=58, mask=59, sop=60),
            "prefix_encoder": encoder,
        }
    )


def projection_of(name: str) -> m.Projection:
    """A matrix of the prefix encoder."""
    return projection(f"prefix_encoder.{name}", bias=True)


def chatglm(layers: int = 2) -> m.Model:
    """ChatGLM2's block in small: fused tensors, interleaved rope on half a head."""
    prefix = "encoder.layers.{i}."
    qkv = {s: projection(f"{prefix}qkv", QKV, s, bias=True) for s in "qkv"}
    attention = m.Attention(
        heads=4,
        kv_heads=2,
        head_dim=16,
        scale=0.25,
        rope=m.Rope(dim=8, theta=10000.0, style="interleaved"),
        q=qkv["q"],
        k=qkv["k"],
        v=qkv["v"],
        o=projection(f"{prefix}dense"),
    )
    mlp = m.Mlp(
        act="silu",
        ff=48,
        gate=projection(f"{prefix}h_to_4h", GATE_UP, "gate"),
        up=projection(f"{prefix}h_to_4h", GATE_UP, "up"),
        down=projection(f"{prefix}4h_to_h"),
    )
    steps = (
        m.Step(op=attention, pre=norm(f"{prefix}input_layernorm")),
        m.Step(op=mlp, pre=norm(f"{prefix}post_attention_layernorm")),
    )
    block = m.Block(
        name="layer", layers=tuple(range(layers)), prefix=prefix, steps=steps
    )
    return m.Model(
        name="chatglm",
        dtype="f16",
        vocab=61,
        hidden=32,
        embed=m.Embedding(weight=m.Weight(tensor="embedding.weight")),
        blocks=(block,),
        final_norm=norm("encoder.final_layernorm"),
        head=m.Head(weight=m.Weight(tensor="output_layer.weight")),
    )


def changed(block: m.Block, **changes: Any) -> m.Block:
    """A block with something changed in each of its steps."""
    steps = tuple(step.model_copy(update=changes) for step in block.steps)
    return block.model_copy(update={"steps": steps})


def sandwich() -> m.Model:
    """The same with a norm after each sublayer too: no product reaches the residual."""
    model = chatglm()
    block = changed(model.blocks[0], post=norm("layers.{i}.post"))
    return model.model_copy(update={"blocks": (block,)})


ropes = st.builds(
    m.Rope,
    dim=st.sampled_from([8, 16]),
    theta=st.sampled_from([10000.0, 5e5]),
    style=st.sampled_from(["half", "interleaved"]),
    scaling=st.one_of(
        st.none(),
        st.builds(m.LinearScaling, factor=st.sampled_from([2.0, 4.0])),
        st.just(
            m.Llama3Scaling(
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_positions=32,
            )
        ),
    ),
)


@st.composite
def blocks(
    draw: st.DrawFn, name: str, layers: tuple[int, ...], rope: m.Rope | None
) -> m.Block:
    """A block: any mixture of fused and separate tensors, biases, norms, windows."""
    prefix = "layers.{i}."
    kind = draw(st.sampled_from(["rms", "layer"]))
    kv_heads = draw(st.sampled_from([1, 2]))
    bias, gated = draw(st.booleans()), draw(st.booleans())
    fused, qk_norm, post = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    qkv = {
        slot: projection(f"{prefix}qkv", QKV, slot, bias)
        if fused
        else projection(f"{prefix}{slot}_proj", bias=bias)
        for slot in "qkv"
    }
    attention = m.Attention(
        heads=kv_heads * draw(st.sampled_from([1, 2])),
        kv_heads=kv_heads,
        head_dim=16,
        scale=draw(st.sampled_from([0.25, 1.0])),
        window=draw(st.sampled_from([None, 4])),
        rope=rope,
        q_norm=norm(f"{prefix}q_norm", eps=1e-3) if qk_norm else None,
        k_norm=norm(f"{prefix}k_norm", eps=1e-3) if qk_norm else None,
        q=qkv["q"],
        k=qkv["k"],
        v=qkv["v"],
        o=projection(f"{prefix}o_proj", bias=bias),
    )
    mlp = m.Mlp(
        act=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])),
        ff=24,
        gate=projection(f"{prefix}gate_proj", bias=bias) if gated else None,
        up=projection(f"{prefix}up_proj", bias=bias),
        down=projection(f"{prefix}down_proj", bias=bias),
    )
    after = norm(f"{prefix}post_norm", kind) if post else None
    residual: dict[str, Any] = {
        "residual": draw(st.sampled_from(["stream", "normed"])),
        "residual_scale": draw(st.sampled_from([1.0, 2.5])),
    }
    steps = (
        m.Step(op=attention, pre=norm(f"{prefix}ln_1", kind), post=after, **residual),
        m.Step(op=mlp, pre=norm(f"{prefix}ln_2", kind), **residual),
    )
    return m.Block(name=name, layers=layers, prefix=prefix, steps=steps)


@st.composite
def models(draw: st.DrawFn) -> m.Model:
    """A small model of one or two kinds of block."""
    rope = draw(st.one_of(st.none(), ropes))
    kinds = draw(st.integers(1, 2))
    split: dict[int, dict[str, tuple[int, ...]]] = {
        1: {"layer": (0, 1)},
        2: {"even_layer": (0, 2), "odd_layer": (1,)},
    }
    tied = draw(st.booleans())
    return m.Model(
        name="drawn",
        dtype=draw(st.sampled_from(["f32", "f16", "bf16"])),
        vocab=61,
        hidden=32,
        max_positions=32,
        embed=m.Embedding(
            weight=m.Weight(tensor="embed.weight"),
            positions=m.Weight(tensor="positions.weight") if rope is None else None,
        ),
        blocks=tuple(draw(blocks(n, at, rope)) for n, at in split[kinds].items()),
        final_norm=draw(st.sampled_from([None, norm("norm", "layer")])),
        head=m.Head(weight=m.Weight(tensor="embed.weight" if tied else "head.weight")),
        tokens=m.Tokens(eos=(2, 3)),
        waivers=(m.Waiver(pattern="*.inv_freq", reason='computed, "not" read'),),
    )


def bidirectional(block: m.Block, *, post_norm: bool) -> m.Block:
    """The block with a full mask; norms before each op or after each sum."""
    steps = []
    for at, step in enumerate(block.steps, 1):
        update: dict[str, object] = {}
        if isinstance(step.op, m.Attention):
            full = {"mask": "full", "window": None}
            update["op"] = step.op.model_copy(update=full)
        if post_norm:
            after = norm(f"{block.prefix}after_{at}", "layer")
            update |= {"pre": None, "post": None, "after": after}
        steps.append(step.model_copy(update=update))
    return block.model_copy(update={"steps": tuple(steps)})


heads = st.one_of(
    st.none(),
    st.builds(
        m.Pooler, dense=st.just(projection("pooler", bias=True)), act=st.just("tanh")
    ),
    st.builds(
        m.Head,
        weight=st.just(m.Weight(tensor="embed.weight")),
        bias=st.sampled_from([None, m.Weight(tensor="bias")]),
        transform=st.sampled_from(
            [
                None,
                m.Transform(
                    dense=projection("transform", bias=True),
                    act="gelu",
                    norm=norm("transform_norm", "layer"),
                ),
            ]
        ),
    ),
)


@st.composite
def encoders(draw: st.DrawFn) -> m.Model:
    """A small model in which every token sees every other."""
    block = draw(blocks("layer", (0, 1), draw(st.one_of(st.none(), ropes))))
    types = draw(st.booleans())
    return m.Model(
        name="drawn",
        dtype=draw(st.sampled_from(["f32", "bf16"])),
        vocab=61,
        type_vocab=3 if types else None,
        hidden=32,
        max_positions=32,
        embed=m.Embedding(
            weight=m.Weight(tensor="embed.weight"),
            types=m.Weight(tensor="types.weight") if types else None,
            positions=draw(st.sampled_from([None, m.Weight(tensor="places.weight")])),
            norm=draw(st.sampled_from([None, norm("embed_norm", "layer")])),
        ),
        blocks=(bidirectional(block, post_norm=draw(st.booleans())),),
        final_norm=draw(st.sampled_from([None, norm("norm", "layer")])),
        head=draw(heads),
        old_names=(m.OldName(old="gamma", new="weight"),),
    )


def bert() -> m.Model:
    """BERT's block in small: separate q, k and v, a norm after each sum, a pooler."""
    prefix = "layer.{i}."
    qkv = {s: projection(f"{prefix}{s}", bias=True) for s in "qkv"}
    attention = m.Attention(
        heads=4,
        kv_heads=4,
        head_dim=8,
        scale=8**-0.5,
        mask="full",
        q=qkv["q"],
        k=qkv["k"],
        v=qkv["v"],
        o=projection(f"{prefix}attention", bias=True),
    )
    mlp = m.Mlp(
        act="gelu",
        ff=48,
        up=projection(f"{prefix}up", bias=True),
        down=projection(f"{prefix}down", bias=True),
    )
    steps = (
        m.Step(op=attention, after=norm(f"{prefix}norm_1", "layer")),
        m.Step(op=mlp, after=norm(f"{prefix}norm_2", "layer")),
    )
    return m.Model(
        name="bert",
        dtype="f32",
        vocab=61,
        type_vocab=2,
        hidden=32,
        max_positions=16,
        embed=m.Embedding(
            weight=m.Weight(tensor="words.weight"),
            positions=m.Weight(tensor="places.weight"),
            types=m.Weight(tensor="types.weight"),
            norm=norm("norm", "layer"),
        ),
        blocks=(m.Block(name="layer", layers=(0, 1), prefix=prefix, steps=steps),),
        head=m.Pooler(dense=projection("pooler", bias=True), act="tanh"),
    )
