"""Values that layers hand to later ones: shared caches, a second embedding, streams."""

from collections.abc import Iterable, Iterator, Mapping

from glmc.frontends.resolver import Resolver
from glmc.frontends.slots import Slots
from glmc.frontends.spec import AttentionSpec, PerLayerEmbedSpec, Spec, StreamsSpec
from glmc.frontends.truncation import number_globs
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError, SpecIncompleteError


def kv_source(what: str, resolve: Resolver, spec: AttentionSpec) -> int | None:
    """The layer whose keys and values this one attends to; None: its own.

    Raises:
        GlmcError: when it is not an earlier layer.
    """
    source, layer = resolve.value(spec.kv_from), resolve.scope.variables["i"]
    if source is None:
        return None
    plain = isinstance(source, int) and not isinstance(source, bool)
    assert isinstance(layer, int)
    if plain and isinstance(source, int) and 0 <= source < layer:
        if spec.mask != "full":
            return source
        expected = "must be null where the mask is full and nothing is cached"
    else:
        expected = f"must be the number of a layer before layer {layer}"
    raise resolve.error(what, spec.kv_from, expected, source)


def check_sources(blocks: Iterable[m.Block]) -> tuple[m.Block, ...]:
    """The blocks, if each layer that reads another's cache finds there what it needs.

    Raises:
        ConfigContradictionError: names the two layers, and what they have and need.
    """
    every = tuple(blocks)
    found = {layer: block for block in every for layer in block.layers}
    for block in every:
        for layer, source in zip(block.layers, block.kv_from, strict=False):
            has, wants = _cached(found[source]), _cached(block, own=False)
            if has != wants:
                raise ConfigContradictionError(
                    f"layer {layer} reads the keys and values of layer {source}"
                    f" (kv_from), and needs {wants}; layer {source} has {has}"
                )
    return every


def _cached(block: m.Block, own: bool = True) -> str:
    """What a block caches, or reads, in words."""
    if own and block.kv_from:
        return "none of its own"
    ops = (step.op for step in block.steps)
    a = next(op for op in ops if isinstance(op, m.Attention | m.Mla))
    return f"{getattr(a, 'kv_heads', a.heads)} key heads, {a.head_dim} wide"


def left_over(spec: Spec, layers: Mapping[int, Resolver]) -> Iterator[m.Waiver]:
    """Waivers for the keys and values that checkpoints may hold for layers which do not
    use them."""
    names: dict[str, list[int]] = {}
    for layer, resolve in layers.items():
        for name in _key_tensors(spec, resolve):
            names.setdefault(name, []).append(layer)
    reason = "this layer reads the keys and values of another"
    for name, numbers in names.items():
        for glob in number_globs(numbers):
            yield m.Waiver(pattern=name.replace("{i}", glob), reason=reason)


def _key_tensors(spec: Spec, resolve: Resolver) -> Iterator[str]:
    slots = Slots(spec, resolve)
    for slot in ("k", "v"):
        for weight in (slots.optional(slot), slots.bias(slot)):
            if weight and weight.part is None:
                yield weight.tensor
    for op in spec.ops.values():
        if not isinstance(op, AttentionSpec):
            continue
        for ref in (op.qk_norm.k if op.qk_norm else None, op.v_norm):
            if ref and resolve.value(ref.name) is not None:
                name = resolve.text("qk_norm", ref.name)
                yield f"{spec.layer_root}{name}.*"


def layer_embedding(
    resolve: Resolver, spec: PerLayerEmbedSpec | None, slots: Slots, norm: m.Norm | None
) -> m.PerLayerEmbedding | None:
    """The embedding of which every layer reads its part, where the config has one."""
    what = "embed.per_layer"
    if spec is None or resolve.value(spec.width) is None:
        return None
    return m.PerLayerEmbedding(
        width=resolve.size(f"{what}.width", spec.width),
        vocab=resolve.size(f"{what}.vocab", spec.vocab),
        weight=slots.weight("layer_embed"),
        scale=resolve.number(f"{what}.scale", spec.scale),
        scale_rounded=resolve.flag(f"{what}.scale_rounded", spec.scale_rounded),
        project=slots.projection("layer_embed_proj"),
        project_scale=resolve.number(f"{what}.project_scale", spec.project_scale),
        norm=norm,
        sum_scale=resolve.number(f"{what}.sum_scale", spec.sum_scale),
    )


def streams(
    resolve: Resolver, spec: StreamsSpec | None, slots: Slots
) -> m.Streams | None:
    """The residual streams, where there are several."""
    if spec is None:
        return None
    count = resolve.size("streams.count", spec.count, least=2)
    return m.Streams(
        count=count,
        active=resolve.size("streams.active", spec.active, count - 1, least=0),
        spread=slots.weight("streams_spread"),
        gather=slots.weight("streams_gather"),
    )


def altup(
    resolve: Resolver, spec: StreamsSpec | None, slots: Slots, norm: m.Norm | None
) -> m.AltUp | None:
    """How a layer works on one of several streams; ``norm`` is its router's.

    Raises:
        SpecIncompleteError: when the router has none.
    """
    if spec is None:
        return None
    if norm is None:
        told = "streams needs a router_norm"
        raise SpecIncompleteError(f"spec {resolve.arch!r}: {told}")
    return m.AltUp(
        router=slots.projection("altup_router"),
        router_norm=norm,
        router_scale=resolve.number("streams.router_scale", spec.router_scale),
        predict=slots.projection("altup_predict"),
        correct=slots.projection("altup_correct"),
        scale=slots.optional("altup_scale"),
    )
