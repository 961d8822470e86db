"""Evaluate a spec against a config: the Model."""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from glmc.frontends.build import (
    ends,
    sublayers,  # noqa: F401  (registers what it builds)
)
from glmc.frontends.build.carried import check_sources, kv_source, left_over
from glmc.frontends.build.factors import FACTORS, factored, without
from glmc.frontends.build.making import Maker
from glmc.frontends.build.shared import copies, waived
from glmc.frontends.language.evaluation import Scope, Value, seen_values
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import expressions_in
from glmc.frontends.spec import AttentionSpec, PerLayer, Spec, StepSpec
from glmc.frontends.wording import numbers_from, show
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError, SpecIncompleteError

TIED_HEAD = "the head is tied to the embedding"
"""The reason to waive a checkpoint's own copy of the head's weight."""
OTHER = (
    "is another than the embedding, and the config says that the two are one; compile"
    " the model again with --set tie_word_embeddings=false"
)

_MAX_LAYERS = 10_000


def build_model(spec: Spec, scope: Scope, dtype: m.DType, tokens: m.Tokens) -> m.Model:
    """Build the model a spec describes with the values of a config.

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
        self.make = Maker(spec, resolve, layer=False)

    def _check(self) -> None:
        for name, check in self.spec.checks.items():
            if not self.resolve.flag(f"checks.{name}", check.that):
                seen = seen_values(check.that, self.resolve.scope)
                raise ConfigContradictionError(
                    f"the config contradicts itself: {check.otherwise}{seen}"
                    f" [{check.that.where}: checks.{name}]"
                )

    def model(self, dtype: m.DType, tokens: m.Tokens) -> m.Model:
        spec, resolve, make = self.spec, self.resolve, self.make
        blocks = check_sources(self.blocks())
        same = tuple(copies(spec, blocks))
        return m.Model(
            name=_identifier(spec.arch),
            dtype=dtype,
            vocab=self.dim("V"),
            type_vocab=resolve.optional_size("type_vocab", spec.type_vocab),
            hidden=self.dim("E"),
            max_positions=resolve.optional_size("max_positions", spec.max_positions),
            axes={k: v for k, v in self.dims.items() if k not in _DEFINED_AXES},
            embed=ends.embedding(make, spec.embed),
            blocks=blocks,
            streams=make.part("streams", spec.streams) or self.streams(),
            final_norm=make.norm("final_norm", spec.final_norm),
            head=ends.head(make, spec.head),
            positions=make.part("positions", spec.positions),
            prefix_encoder=make.part("prefix_encoder", spec.prefix_encoder),
            tokens=ends.tokens(make, spec.tokens, tokens),
            tokenizer=spec.tokenizer,
            optional_prefix=spec.optional_prefix,
            old_names=tuple(
                m.OldName(old=old, new=new) for old, new in spec.old_names.items()
            ),
            waivers=(*self.waivers(), *(waived(one) for one in same)),
            expected=(*self.expected(), *chosen_by_table(blocks), *same),
        )

    def streams(self) -> m.HyperStreams | m.ResidualHistory | None:
        """Make the streams that hyper-connections mix, or the snapshots of one, if
        there are any."""
        if self.spec.history:
            mix = self.make.mix("history.head", self.spec.history.head)
            if mix is None:
                expected, given = "must be how names begin", self.spec.history.head
                raise self.resolve.error("history.head", given, expected, None)
            return m.ResidualHistory(head=mix)
        given = self.spec.hyper
        if given is None:
            return None
        head = self.make.maps("hyper.head", given.head)
        return self.make.node(m.HyperStreams, "hyper", given, head=head)

    def dim(self, name: str) -> int:
        if name not in self.dims:
            raise SpecIncompleteError(
                f"spec {self.spec.arch!r}: dims must define {name}"
            )
        return self.dims[name]

    def expected(self) -> Iterator[m.Expected]:
        """Yield the values that tensors which are waived, or read otherwise, are
        assumed to have."""
        for pattern, value in self.spec.constants.items():
            otherwise = f"is not {value} everywhere, as this model takes it to be"
            yield m.Expected(
                pattern=pattern, kind="all", value=value, otherwise=otherwise
            )
        yield from self.make.slots.quantised.expected()
        if self.spec.head.kind == "lm" and ends.tied(self.make):
            own = self.make.slots.optional("head")
            embed = self.make.slots.weight("embed")
            if own and own.storage is None and embed.storage is None:
                yield m.Expected(
                    pattern=own.tensor, kind="same", value=embed.tensor, otherwise=OTHER
                )

    def waivers(self) -> Iterator[m.Waiver]:
        for pattern, reason in self.spec.waive.items():
            yield m.Waiver(pattern=pattern, reason=reason)
        yield from self.make.slots.quantised.waivers()
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
        if self.spec.head.kind == "lm" and ends.tied(self.make):
            own = self.make.slots.optional("head")
            if own:
                yield m.Waiver(pattern=own.tensor, reason=TIED_HEAD)
                if isinstance(own.storage, m.RowQuantized):
                    scale = own.tensor + own.storage.suffix
                    yield m.Waiver(pattern=scale, reason=TIED_HEAD)
        prefix = self.spec.prefix_encoder
        if prefix and self.make.said(prefix, "length") is None:
            module = self.make.slots.weight("prefix").tensor.rsplit(".", 2)[0]
            reason = "a prefix encoder, for which the config has no length"
            yield m.Waiver(pattern=f"{module}.*", reason=reason)

    def blocks(self) -> Iterator[m.Block]:
        """Yield the kinds of block in the order they first appear."""
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
            alike = [resolved[at] for at in layers]
            steps = factored(self.spec, self.steps_of(alike[0]), kind.steps, alike)
            stored = tuple(numbers[at] for at in layers)
            own = stored == tuple(layers)
            more = {"numbers": None if own else stored, "steps": steps}
            yield kind.model_copy(update={**where, **more})

    def number(self, resolve: Resolver) -> int:
        """Return the number that ``{i}`` stands for in the tensor names of a layer."""
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
        """Return the layer whose keys and values a layer attends to; None: its own."""
        for step in self.steps_of(resolve):
            make = Maker(self.spec, resolve)
            name, op = make.named("block.op", step.op)
            if isinstance(op, AttentionSpec) and op.kv_from is not None:
                return kv_source(make, f"ops.{name}", op)
        return None

    def block(self, resolve: Resolver) -> m.Block:
        """Build a kind of block, before it has a name and layers."""
        make, streams = Maker(self.spec, resolve), self.spec.streams
        return m.Block(
            name="",
            layers=(),
            prefix=self.spec.layer_root,
            steps=tuple(self.step(make, step) for step in self.steps_of(resolve)),
            scalar=make.slots.optional("layer_scalar"),
            altup=make.node(m.AltUp, "streams", streams) if streams else None,
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
        """List the per-layer variables that blocks depend on."""
        spec = self.spec
        block = [without(step) for step in spec.block]
        ops = [without(op) for op in spec.ops.values()]
        parts = (block, ops, spec.norm, spec.weights)
        used = {name for e in expressions_in(parts) for name in e.names}
        return [n for n in ("i", *self.spec.per_layer) if n in used or n == "kind"]

    def steps_of(self, resolve: Resolver) -> list[StepSpec]:
        """Return the steps that a layer has."""
        return [s for s in self.spec.block if resolve.flag("block.when", s.when)]

    def step(self, make: Maker, step: StepSpec) -> m.Step:
        """Build a step, before it has the factors of each layer."""
        name, op = make.named("block.op", step.op)
        made = make.part(f"ops.{name}", op)
        one: dict[str, Any] = dict.fromkeys(FACTORS, 1.0)
        one["hyper"] = make.maps("block.hyper", step.hyper)
        one["mix"] = make.mix("block.mix", step.mix)
        one["aside"] = self.aside(make, step)
        return make.node(m.Step, "block", step, op=made, **one)

    def aside(self, make: Maker, step: StepSpec) -> m.Chain | None:
        """Build what is added to a step's input alone, if anything is."""
        if step.aside is None or make.resolve.value(step.aside) is None:
            return None
        name, op = make.named("block.aside", step.aside)
        made = make.part(f"ops.{name}", op)
        if isinstance(made, m.Chain):
            return made
        expected = "must be an op of kind chain"
        raise make.resolve.error("block.aside", step.aside, expected, name)


def scopes(spec: Spec, scope: Scope) -> tuple[Scope, list[Scope]]:
    """Return the scopes of a spec's expressions: the model's, and each layer's."""
    builder = _ModelBuilder(spec, scope)
    layers = (builder.layer(i) for i in range(builder.layers))
    return builder.resolve.scope, [layer.scope for layer in layers]


def chosen_by_table(blocks: Iterable[m.Block]) -> Iterator[m.Expected]:
    """Yield what is expected of the tables that name experts: that there are such."""
    ops = (step.op for block in blocks for step in block.steps)
    named = {
        op.router.table.tensor: op.experts + op.zero_experts
        for op in ops
        if isinstance(op, m.Moe) and op.router.table
    }
    for tensor, experts in named.items():
        yield m.Expected(
            pattern=tensor.replace("{i}", "*"),
            kind="below",
            value=experts,
            otherwise=f"names experts that are not there; there are {experts}",
            bound=True,
        )


# Axis names that blocks, embedding and head define themselves.
_DEFINED_AXES = frozenset(
    {"E", "V", "H", "K", "D", "G", "F", "X", "Fx"}
    | {"Dv", "Dkv", "Dr", "Lq", "Lqq", "Lkv", "Akv", "Hi", "Di", "L", "Ep", "Vp"}
    | {"Hm", "Gm", "Rm", "Dk", "Ec", "Wc", "El"}
    | {"Rd", "Rz", "Ic", "Ns", "Hb", "Bi", "Bo", "Ra", "Ea"}
    | {"N", "NN", "N_in", "Nx", "Rg", "Rl"}
    | {"Nc", "Nh", "Ns", "Tk", "Ev", "Dp", "Go", "Gi", "Lo", "Bd"}
)


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower()
    return name if name and not name[0].isdigit() else f"model_{name}"


def _block_names(labels: list[object]) -> list[str]:
    """Name the kinds of block: ``layer`` if there is one, else after each kind's
    label."""
    if len(labels) == 1:
        return ["layer"]
    names: list[str] = []
    for n, label in enumerate(labels, 1):
        text = label.removesuffix("_attention") if isinstance(label, str) else ""
        name = f"{_identifier(text)}_layer" if text else f"layer_{n}"
        names.append(name if name not in names else f"{name}_{n}")
    return names
