"""A spec evaluated against a config: the Model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from glmc.frontends.evaluation import Scope, Value, seen_values
from glmc.frontends.mixtures import LatentAttention, Mixture
from glmc.frontends.resolver import Resolver
from glmc.frontends.rope import rope_node
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    AttentionSpec,
    MlaSpec,
    MlpSpec,
    MoeSpec,
    NormSpec,
    OpSpec,
    PerLayer,
    RopeSpec,
    Spec,
    StepSpec,
    expressions_in,
)
from glmc.frontends.wording import numbers_from, show
from glmc.ir import model as m
from glmc.ir.errors import GlmcError

_MAX_LAYERS = 10_000

_ACTIVATIONS: Mapping[str, m.ActivationName] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


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
        raise GlmcError(
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
        self.slots = Slots(spec, resolve)

    def _check(self) -> None:
        for name, check in self.spec.checks.items():
            if not self.resolve.flag(f"checks.{name}", check.that):
                seen = seen_values(check.that, self.resolve.scope)
                raise GlmcError(
                    f"the config contradicts itself: {check.otherwise}{seen}"
                    f" [{check.that.where}: checks.{name}]"
                )

    def model(self, dtype: m.DType, tokens: m.Tokens) -> m.Model:
        spec, resolve = self.spec, self.resolve
        max_positions = resolve.value(spec.max_positions)
        if max_positions is not None:
            max_positions = resolve.size("max_positions", spec.max_positions, 1 << 31)
        return m.Model(
            name=_identifier(spec.arch),
            dtype=dtype,
            vocab=self.dim("V"),
            hidden=self.dim("E"),
            max_positions=max_positions,
            axes={k: v for k, v in self.dims.items() if k not in _DEFINED_AXES},
            embed=m.Embedding(
                weight=self.slots.weight("embed"),
                positions=self.slots.optional("positions"),
            ),
            blocks=tuple(self.blocks()),
            final_norm=self.final_norm(),
            head=self.head(),
            tokens=tokens,
            optional_prefix=spec.optional_prefix,
            waivers=tuple(self.waivers()),
        )

    def dim(self, name: str) -> int:
        if name not in self.dims:
            raise GlmcError(f"spec {self.spec.arch!r}: dims must define {name}")
        return self.dims[name]

    def final_norm(self) -> m.Norm | None:
        name = self.resolve.value(self.spec.final_norm)
        if name is None:
            return None
        text = self.resolve.text("final_norm", self.spec.final_norm)
        return self.norm(self.resolve, text)

    def head(self) -> m.Head:
        if self.resolve.flag("head.tied", self.spec.head.tied):
            return m.Head(weight=self.slots.weight("embed"))
        return m.Head(weight=self.slots.weight("head"), bias=self.slots.bias("head"))

    def waivers(self) -> Iterator[m.Waiver]:
        for pattern, reason in self.spec.waive.items():
            yield m.Waiver(pattern=pattern, reason=reason)
        if self.spec.beyond_layers:
            for pattern in numbers_from(self.layers):
                pattern = self.spec.layer_prefix.replace("{i}", pattern) + "*"
                yield m.Waiver(pattern=pattern, reason=self.spec.beyond_layers)
        if self.resolve.flag("head.tied", self.spec.head.tied):
            own = self.slots.optional("head")
            if own:
                reason = "the head is tied to the embedding"
                yield m.Waiver(pattern=own.tensor, reason=reason)

    def blocks(self) -> Iterator[m.Block]:
        """Kinds of block in the order they first appear."""
        kinds: dict[tuple[m.Step, ...], list[int]] = {}
        labels: dict[tuple[m.Step, ...], object] = {}
        known: dict[str, tuple[m.Step, ...]] = {}
        used = self._layer_names()
        for i in range(self.layers):
            resolve = self.layer(i)
            key = repr({name: resolve.scope.variables[name] for name in used})
            if key not in known:
                known[key] = self.steps(resolve)
            kinds.setdefault(known[key], []).append(i)
            labels.setdefault(known[key], resolve.scope.variables.get("kind"))
        names = _block_names([labels[steps] for steps in kinds])
        for name, (steps, layers) in zip(names, kinds.items(), strict=True):
            prefix = self.spec.layer_prefix
            yield m.Block(name=name, layers=tuple(layers), prefix=prefix, steps=steps)

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
        parts = (spec.block, spec.ops, spec.norm, spec.weights)
        used = {name for e in expressions_in(parts) for name in e.names}
        return [n for n in ("i", *self.spec.per_layer) if n in used or n == "kind"]

    def steps(self, resolve: Resolver) -> tuple[m.Step, ...]:
        return tuple(self.step(resolve, step) for step in self.spec.block)

    def step(self, resolve: Resolver, step: StepSpec) -> m.Step:
        name = resolve.text("block.op", step.op)
        op = self.spec.ops.get(name)
        if op is None:
            known = ", ".join(self.spec.ops)
            expected = f"must be one of the ops {known}"
            raise resolve.error("block.op", step.op, expected, name)
        made = self.sublayer(resolve, f"ops.{name}", op)
        pre, post = (self.layer_norm(resolve, norm) for norm in (step.pre, step.post))
        return m.Step(op=made, pre=pre, post=post)

    def sublayer(self, resolve: Resolver, what: str, op: OpSpec) -> m.Sublayer:
        slots = Slots(self.spec, resolve)
        match op:
            case AttentionSpec():
                return self.attention(resolve, what, op, slots)
            case MlaSpec():
                return LatentAttention(self, resolve, what, slots).build(op)
            case MlpSpec():
                return self.mlp(resolve, what, op, slots)
            case MoeSpec():
                return Mixture(self, resolve, what, slots).build(op)

    def layer_norm(
        self, resolve: Resolver, name: object, spec: NormSpec | None = None
    ) -> m.Norm | None:
        value = resolve.value(name)
        if value is None:
            return None
        text = resolve.text("the norm", name)
        return self.norm(resolve, self.spec.layer_prefix + text, spec)

    def norm(
        self, resolve: Resolver, name: str, spec: NormSpec | None = None
    ) -> m.Norm:
        spec = spec or self.spec.norm
        bias = resolve.flag("norm.bias", spec.bias)
        return m.Norm(
            kind=spec.kind,
            eps=resolve.number("norm.eps", spec.eps),
            weight=m.Weight(tensor=f"{name}.weight"),
            bias=m.Weight(tensor=f"{name}.bias") if bias else None,
            weight_in=spec.weight_in,
        )

    def attention(
        self, resolve: Resolver, what: str, spec: AttentionSpec, slots: Slots
    ) -> m.Attention:
        window = resolve.value(spec.window)
        if window is not None:
            window = resolve.size(f"{what}.window", spec.window, 1 << 31)
        head_dim = resolve.size(f"{what}.head_dim", spec.head_dim)
        norms = spec.qk_norm
        return m.Attention(
            heads=resolve.size(f"{what}.heads", spec.heads),
            kv_heads=resolve.size(f"{what}.kv_heads", spec.kv_heads),
            head_dim=head_dim,
            scale=resolve.number(f"{what}.scale", spec.scale),
            window=window,
            rope=self.rope(resolve, what, spec.rope, head_dim),
            q=slots.projection("q"),
            k=slots.projection("k"),
            v=slots.projection("v"),
            o=slots.projection("o"),
            q_norm=self.layer_norm(resolve, norms.q) if norms else None,
            k_norm=self.layer_norm(resolve, norms.k) if norms else None,
        )

    def rope(
        self, resolve: Resolver, what: str, spec: RopeSpec | None, head_dim: int
    ) -> m.Rope | None:
        if spec is None:
            return None
        params: Any = resolve.value(spec.params)
        if not isinstance(params, Mapping):
            expected = "must be an object, as rope() gives"
            raise resolve.error(f"{what}.rope.params", spec.params, expected, params)
        dim = resolve.size(f"{what}.rope.dim", spec.dim)
        if dim > head_dim:
            expected = f"must be at most head_dim ({head_dim})"
            raise resolve.error(f"{what}.rope.dim", spec.dim, expected, dim)
        style = self.rope_style(resolve, f"{what}.rope", spec.style)
        try:
            return rope_node(params, dim, style)
        except GlmcError as error:
            raise GlmcError(f"{error} [{spec.params.where}: {what}.rope]") from None

    def rope_style(self, resolve: Resolver, what: str, given: object) -> m.RopeStyle:
        style = resolve.text(f"{what}.style", given)
        match style:
            case "half" | "interleaved":
                return style
        expected = "must be half or interleaved"
        raise resolve.error(f"{what}.style", given, expected, style)

    def mlp(self, resolve: Resolver, what: str, spec: MlpSpec, slots: Slots) -> m.Mlp:
        gated = resolve.flag(f"{what}.gated", spec.gated)
        return m.Mlp(
            act=self.activation(resolve, what, spec.act),
            ff=resolve.size(f"{what}.ff", spec.ff),
            gate=slots.projection("gate") if gated else None,
            up=slots.projection("up"),
            down=slots.projection("down"),
        )

    def activation(
        self, resolve: Resolver, what: str, given: object
    ) -> m.ActivationName:
        name = resolve.text(f"{what}.act", given)
        if name not in _ACTIVATIONS:
            expected = f"must be one of {', '.join(_ACTIVATIONS)}"
            raise resolve.error(f"{what}.act", given, expected, name)
        return _ACTIVATIONS[name]


# Axis names that blocks, embedding and head define themselves.
_DEFINED_AXES = frozenset(
    {"E", "V", "H", "K", "D", "G", "F", "X", "Fx"}
    | {"Dv", "Dkv", "Lq", "Lkv", "Akv", "Hi", "Di"}
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
