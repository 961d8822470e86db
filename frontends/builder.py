"""A spec evaluated against a config: the Model."""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import ValidationError

from glmc.frontends.carried import (
    altup,
    check_sources,
    kv_source,
    layer_embedding,
    left_over,
    streams,
)
from glmc.frontends.evaluation import Scope, Value, seen_values
from glmc.frontends.resolver import Resolver
from glmc.frontends.sections import expressions_in
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    AttentionSpec,
    PerLayer,
    PerLayerEmbedSpec,
    Spec,
    StepSpec,
    TransformSpec,
)
from glmc.frontends.sublayers import SublayerBuilder
from glmc.frontends.wording import numbers_from, show
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError, SpecIncompleteError

TIED_HEAD = "the head is tied to the embedding"
"""Why a checkpoint's own copy of the head's weight is waived."""

_MAX_LAYERS = 10_000


def build_model(spec: Spec, scope: Scope, dtype: m.DType, tokens: m.Tokens) -> m.Model:
    """The model a spec describes with the values of a config.

    Raises:
        GlmcError: when a value is missing, of the wrong kind, absurd or contradictory.
    """
    try:
        return _ModelBuilder(spec, scope).model(dtype, tokens)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecIncompleteError(
            f"spec {spec.arch!r}: {error.title}.{place}: {first['msg']},"
            f" found {show(first['input'])}"
        ) from None


class _ModelBuilder:
    def __init__(self, spec: Spec, scope: Scope) -> None:
        self.spec = spec
        self.parts = SublayerBuilder(spec)
        resolve = Resolver(spec.arch, scope)
        self.dims: dict[str, int] = {}
        for name, given in spec.dims.items():
            self.dims[name] = resolve.size(f"dims.{name}", given)
            resolve = resolve.bind(**{name: self.dims[name]})
        for name, expression in spec.let.items():
            resolve = resolve.bind(**{name: resolve.value(expression)})
        self.resolve = resolve
        self.layers = resolve.size("layers", spec.layers, _MAX_LAYERS)
        self._check()
        self.readers: dict[int, tuple[int, Resolver]] = {}
        """Layers that read the cache of an earlier one: of which, and their values."""
        self.slots = Slots(spec, resolve)

    def _check(self) -> None:
        for name, check in self.spec.checks.items():
            if not self.resolve.flag(f"checks.{name}", check.that):
                seen = seen_values(check.that, self.resolve.scope)
                raise ConfigContradictionError(
                    f"the config contradicts itself: {check.otherwise}{seen}"
                    f" [{check.that.where}: checks.{name}]"
                )

    def model(self, dtype: m.DType, tokens: m.Tokens) -> m.Model:
        spec, resolve = self.spec, self.resolve
        return m.Model(
            name=_identifier(spec.arch),
            dtype=dtype,
            vocab=self.dim("V"),
            type_vocab=resolve.optional_size("type_vocab", spec.type_vocab),
            hidden=self.dim("E"),
            max_positions=resolve.optional_size("max_positions", spec.max_positions),
            axes={k: v for k, v in self.dims.items() if k not in _DEFINED_AXES},
            embed=self.embedding(),
            blocks=check_sources(self.blocks()),
            streams=streams(resolve, spec.streams, self.slots),
            final_norm=self.parts.norm("final_norm", resolve, spec.final_norm),
            head=self.head(),
            positions=self.positions(),
            prefix_encoder=self.prefix_encoder(),
            tokens=self.tokens(tokens),
            optional_prefix=spec.optional_prefix,
            old_names=tuple(
                m.OldName(old=old, new=new) for old, new in spec.old_names.items()
            ),
            waivers=tuple(self.waivers()),
        )

    def dim(self, name: str) -> int:
        if name not in self.dims:
            raise SpecIncompleteError(
                f"spec {self.spec.arch!r}: dims must define {name}"
            )
        return self.dims[name]

    def embedding(self) -> m.Embedding:
        spec, resolve = self.spec.embed, self.resolve
        positions: m.Weight | m.Sinusoids | None = self.slots.optional("positions")
        if spec.sinusoids:
            positions = m.Sinusoids(**spec.sinusoids.model_dump())
        return m.Embedding(
            weight=self.slots.weight("embed"),
            scale=resolve.optional_number("embed.scale", spec.scale),
            scale_rounded=resolve.flag("embed.scale_rounded", spec.scale_rounded),
            project=self.slots.optional_projection("embed_proj"),
            positions=positions,
            types=self.slots.optional("types"),
            norm=self.parts.norm("embed_norm", resolve, self.spec.embed_norm),
            per_layer=self.layer_embedding(spec.per_layer),
        )

    def layer_embedding(
        self, spec: PerLayerEmbedSpec | None
    ) -> m.PerLayerEmbedding | None:
        ref = spec.norm if spec else None
        norm = self.parts.norm("embed.per_layer.norm", self.resolve, ref)
        return layer_embedding(self.resolve, spec, self.slots, norm)

    def head(self) -> m.Head | m.Pooler | None:
        spec, resolve = self.spec.head, self.resolve
        if spec.kind == "none":
            return None
        if spec.kind == "pooler":
            act = self.parts.activation(resolve, "head.act", spec.act)
            return m.Pooler(dense=self.slots.projection("pooler"), act=act)
        return m.Head(
            weight=self.slots.weight("embed" if self.tied() else "head"),
            bias=self.slots.bias("head"),
            transform=self.transform(spec.transform),
            project=self.slots.optional_projection("head_proj"),
            normalised=resolve.flag("head.normalised", spec.normalised),
            pre_scale=resolve.number("head.pre_scale", spec.pre_scale),
            scale=resolve.number("head.scale", spec.scale),
            softcap=resolve.optional_number("head.softcap", spec.softcap),
        )

    def tied(self) -> bool:
        return self.resolve.flag("head.tied", self.spec.head.tied)

    def transform(self, spec: TransformSpec | None) -> m.Transform | None:
        if spec is None:
            return None
        norm = self.parts.norm("head.transform.norm", self.resolve, spec.norm)
        if norm is None:
            raise SpecIncompleteError(
                f"spec {self.spec.arch!r}: head.transform needs a norm"
            )
        return m.Transform(
            dense=self.slots.projection("transform"),
            act=self.parts.activation(self.resolve, "head.transform.act", spec.act),
            norm=norm,
        )

    def positions(self) -> m.GlmPositions | None:
        spec = self.spec.positions
        if spec is None:
            return None
        return m.GlmPositions(
            gmask=self.token("positions.gmask", spec.gmask),
            mask=self.token("positions.mask", spec.mask),
            sop=self.token("positions.sop", spec.sop),
        )

    def token(self, what: str, given: object) -> int:
        """An id that the model has an embedding for."""
        value = self.resolve.size(what, given)
        if value >= self.dim("V"):
            expected = f"must be below the vocabulary's size, {self.dim('V')}"
            raise self.resolve.error(what, given, expected, value)
        return value

    def tokens(self, read: m.Tokens) -> m.Tokens:
        """The ids that were read, completed by the spec's."""
        found = {}
        for name, given in self.spec.tokens:
            if getattr(read, name) in (None, ()) and self.resolve.value(given):
                found[name] = self.token(f"tokens.{name}", given)
        if "eos" in found:
            return read.model_copy(update={**found, "eos": (found["eos"],)})
        return read.model_copy(update=found)

    def prefix_encoder(self) -> m.PrefixEncoder | None:
        spec = self.spec.prefix_encoder
        if spec is None or self.resolve.value(spec.length) is None:
            return None
        what = "prefix_encoder"
        length = self.resolve.size(f"{what}.length", spec.length)
        projected = self.resolve.flag(f"{what}.projection", spec.projection)
        table = self.slots.weight("prefix")
        if not projected:
            return m.PrefixEncoder(length=length, table=table)
        return m.PrefixEncoder(
            length=length,
            table=table,
            row=spec.row,
            up=self.slots.projection("prefix_up"),
            down=self.slots.projection("prefix_down"),
        )

    def waivers(self) -> Iterator[m.Waiver]:
        for pattern, reason in self.spec.waive.items():
            yield m.Waiver(pattern=pattern, reason=reason)
        yield from self.slots.quantised.waivers()
        if self.spec.beyond_layers:
            for pattern in numbers_from(self.layers):
                pattern = self.spec.layer_prefix.replace("{i}", pattern) + "*"
                yield m.Waiver(pattern=pattern, reason=self.spec.beyond_layers)
        for i in sorted(self.skipped):
            assert self.spec.skip
            pattern = self.spec.layer_root.replace("{i}", str(i)) + "*"
            yield m.Waiver(pattern=pattern, reason=self.spec.skip.because)
        readers = {layer: resolve for layer, (_, resolve) in self.readers.items()}
        yield from left_over(self.spec, readers)
        if self.spec.head.kind == "lm" and self.tied():
            own = self.slots.optional("head")
            if own:
                yield m.Waiver(pattern=own.tensor, reason=TIED_HEAD)
                if isinstance(own.storage, m.RowQuantized):
                    scale = own.tensor + own.storage.suffix
                    yield m.Waiver(pattern=scale, reason=TIED_HEAD)
        if self.spec.prefix_encoder and self.prefix_encoder() is None:
            module = self.slots.weight("prefix").tensor.rsplit(".", 2)[0]
            reason = "a prefix encoder, for which the config has no length"
            yield m.Waiver(pattern=f"{module}.*", reason=reason)

    def blocks(self) -> Iterator[m.Block]:
        """Kinds of block in the order they first appear."""
        kinds: dict[m.Block, list[int]] = {}
        labels: dict[m.Block, object] = {}
        known: dict[str, m.Block] = {}
        used = self._layer_names()
        resolved = [self.layer(i) for i in range(self.layers) if i not in self.skipped]
        for at, resolve in enumerate(resolved):
            key = repr({name: resolve.scope.variables[name] for name in used})
            if key not in known:
                known[key] = self.block(resolve)
            source = self.source(resolve)
            if source is not None:
                self.readers[at] = source, resolve
            kinds.setdefault(known[key], []).append(at)
            labels.setdefault(known[key], resolve.scope.variables.get("kind"))
        numbers = [self.number(resolve) for resolve in resolved]
        names = _block_names([labels[kind] for kind in kinds])
        for name, (kind, layers) in zip(names, kinds.items(), strict=True):
            kv_from = tuple(self.readers[n][0] for n in layers if n in self.readers)
            where = {"name": name, "layers": tuple(layers), "kv_from": kv_from}
            steps = self.factored(kind.steps, [resolved[at] for at in layers])
            stored = tuple(numbers[at] for at in layers)
            own = stored == tuple(layers)
            more = {"numbers": None if own else stored, "steps": steps}
            yield kind.model_copy(update={**where, **more})

    def factored(
        self, steps: tuple[m.Step, ...], layers: list[Resolver]
    ) -> tuple[m.Step, ...]:
        """Steps with what each layer multiplies by, where that is not the same."""
        made = []
        for step, spec in zip(steps, self.steps_of(layers[0]), strict=True):
            found: dict[str, float | tuple[float, ...]] = {}
            for name in _FACTORS:
                given, what = getattr(spec, name), f"block.{name}"
                each = tuple(layer.number(what, given) for layer in layers)
                found[name] = each if len(set(each)) > 1 else each[0]
            made.append(step.model_copy(update=found))
        return tuple(made)

    def number(self, resolve: Resolver) -> int:
        """What ``{i}`` is in the tensor names of a layer."""
        given: object = self.spec.layer_number
        if given is None:
            given = resolve.scope.variables["i"]
        return resolve.size("layer_number", given, _MAX_LAYERS, least=0)

    @cached_property
    def skipped(self) -> frozenset[int]:
        """The layers that do nothing."""
        skip = self.spec.skip
        if skip is None:
            return frozenset()
        layers = ((i, self.layer(i)) for i in range(self.layers))
        return frozenset(i for i, r in layers if r.flag("skip.when", skip.when))

    def source(self, resolve: Resolver) -> int | None:
        """The layer whose keys and values a layer attends to, if they are not its."""
        for step in self.steps_of(resolve):
            name, op = self.parts.named(resolve, "block.op", step.op)
            if isinstance(op, AttentionSpec) and op.kv_from is not None:
                return kv_source(f"ops.{name}.kv_from", resolve, op)
        return None

    def block(self, resolve: Resolver) -> m.Block:
        """A kind of block, before it has a name and layers."""
        spec, slots = self.spec, Slots(self.spec, resolve)
        ref = spec.streams.router_norm if spec.streams else None
        norm = self.parts.layer_norm("streams.router_norm", resolve, ref)
        return m.Block(
            name="",
            layers=(),
            prefix=spec.layer_root,
            steps=self.steps(resolve),
            scalar=slots.optional("layer_scalar"),
            altup=altup(resolve, spec.streams, slots, norm),
        )

    def layer(self, i: int) -> Resolver:
        resolve = self.resolve.bind(i=i)
        for name, entry in self.spec.per_layer.items():
            resolve = resolve.bind(**{name: self.per_layer(resolve, name, entry)})
        return resolve

    def per_layer(self, resolve: Resolver, name: str, entry: PerLayer) -> Value:
        value = resolve.value(entry.value)
        if entry.one_of is not None and value not in entry.one_of:
            expected = f"must be one of {', '.join(entry.one_of)}"
            raise resolve.error(f"per_layer.{name}", entry.value, expected, value)
        return value

    def _layer_names(self) -> list[str]:
        """The per-layer variables that blocks really depend on."""
        spec = self.spec
        # In these the layers of a block may differ.
        same = dict.fromkeys(_FACTORS, 1.0)
        block = [step.model_copy(update=same) for step in spec.block]
        parts = (block, spec.ops, spec.norm, spec.weights)
        used = {name for e in expressions_in(parts) for name in e.names}
        return [n for n in ("i", *self.spec.per_layer) if n in used or n == "kind"]

    def steps(self, resolve: Resolver) -> tuple[m.Step, ...]:
        return tuple(self.step(resolve, step) for step in self.steps_of(resolve))

    def steps_of(self, resolve: Resolver) -> list[StepSpec]:
        """The steps that a layer has."""
        return [s for s in self.spec.block if resolve.flag("block.when", s.when)]

    def step(self, resolve: Resolver, step: StepSpec) -> m.Step:
        name, op = self.parts.named(resolve, "block.op", step.op)
        made = self.parts.sublayer(resolve, f"ops.{name}", op)
        return m.Step(
            op=made,
            pre=self.parts.layer_norm("block.pre", resolve, step.pre),
            post=self.parts.layer_norm("block.post", resolve, step.post),
            after=self.parts.layer_norm("block.after", resolve, step.after),
            residual=step.residual,
            parallel=resolve.flag("block.parallel", step.parallel),
            shortcut=self.shortcut(resolve, step.shortcut),
            others=resolve.flag("block.others", step.others),
        )

    def shortcut(
        self, resolve: Resolver, given: object
    ) -> Literal["begin", "end"] | None:
        value = resolve.value(given)
        match value:
            case "begin" | "end" | None:
                return value
        expected = "must be begin, end or null"
        raise resolve.error("block.shortcut", given, expected, value)


_FACTORS = ("scale", "residual_scale")
# Axis names that blocks, embedding and head define themselves.
_DEFINED_AXES = frozenset(
    {"E", "V", "H", "K", "D", "G", "F", "X", "Fx"}
    | {"Dv", "Dkv", "Dr", "Lq", "Lqq", "Lkv", "Akv", "Hi", "Di", "L", "Ep", "Vp"}
    | {"N", "NN", "N_in", "Nx", "Rg", "Rl"}
)


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower()
    return name if name and not name[0].isdigit() else f"model_{name}"


def _block_names(labels: list[object]) -> list[str]:
    """``layer`` for a model of one kind; else from each kind's label."""
    if len(labels) == 1:
        return ["layer"]
    names: list[str] = []
    for n, label in enumerate(labels, 1):
        text = label.removesuffix("_attention") if isinstance(label, str) else ""
        name = f"{_identifier(text)}_layer" if text else f"layer_{n}"
        names.append(name if name not in names else f"{name}_{n}")
    return names
