"""Keys and values that a layer reads from an earlier one."""

from collections.abc import Iterable, Iterator, Mapping

from glmc.frontends.build.making import Maker
from glmc.frontends.build.slots import Slots
from glmc.frontends.build.truncation import number_globs
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.spec import AttentionSpec, Spec
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError


def kv_source(make: Maker, what: str, spec: AttentionSpec) -> int | None:
    """Return the layer whose keys and values this one attends to; None: its own.

    Raises:
        GlmcError: when it is not an earlier layer.
    """
    source, layer = make.said(spec, "kv_from"), make.resolve.scope.variables["i"]
    if source is None:
        return None
    plain = isinstance(source, int) and not isinstance(source, bool)
    assert isinstance(layer, int)
    if plain and isinstance(source, int) and 0 <= source < layer:
        if make.value(m.Attention, "mask", what, spec) != "full":
            return source
        expected = "must be null where the mask is full and nothing is cached"
    else:
        expected = f"must be the number of a layer before layer {layer}"
    raise make.refusal(what, spec, "kv_from", expected, source)


def check_sources(blocks: Iterable[m.Block]) -> tuple[m.Block, ...]:
    """Check that each layer that reads another's cache finds there what it needs;
    return the blocks.

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
    """Describe the keys that a block caches, or reads, in words."""
    if own and block.kv_from:
        return "none of its own"
    ops = (step.op for step in block.steps)
    a = next(op for op in ops if isinstance(op, m.Attention | m.Mla))
    return f"{getattr(a, 'kv_heads', a.heads)} key heads, {a.head_dim} wide"


def left_over(spec: Spec, layers: Mapping[int, Resolver]) -> Iterator[m.Waiver]:
    """Yield waivers for keys and values that checkpoints may hold for layers which do
    not use them."""
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
