"""A spec evaluated against a config: the Model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from glmc.frontends.attention_extras import alibi, output_gate, query_scale
from glmc.frontends.evaluation import Scope, Value, seen_values
from glmc.frontends.mixtures import LatentAttention, Mixture
from glmc.frontends.resolver import Resolver
from glmc.frontends.rope import rope_node
from glmc.frontends.sections import expressions_in
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    AttentionSpec,
    MlaSpec,
    MlpSpec,
    MoeSpec,
    NormRef,
    OpSpec,
    PerLayer,
    QkNorm,
    RopeSpec,
    Spec,
    StepSpec,
    TransformSpec,
)
from glmc.frontends.wording import numbers_from, show
from glmc.ir import model as m
from glmc.ir.errors import GlmcError

TIED_HEAD = "the head is tied to the embedding"
"""Why a checkpoint's own copy of the head's weight is waived."""

_MAX_LAYERS = 10_000

_ACTIVATIONS: Mapping[str, m.ActivationName] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "relu_squared": "relu2",
    "tanh": "tanh",
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
        return m.Model(
            name=_identifier(spec.arch),
            dtype=dtype,
            vocab=self.dim("V"),
            type_vocab=resolve.optional_size("type_vocab", spec.type_vocab),
            hidden=self.dim("E"),
            max_positions=resolve.optional_size("max_positions", spec.max_positions),
            axes={k: v for k, v in self.dims.items() if k not in _DEFINED_AXES},
            embed=self.embedding(),
            blocks=tuple(self.blocks()),
            final_norm=self.norm("final_norm", resolve, spec.final_norm),
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
            raise GlmcError(f"spec {self.spec.arch!r}: dims must define {name}")
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
            norm=self.norm("embed_norm", resolve, self.spec.embed_norm),
        )

    def head(self) -> m.Head | m.Pooler | None:
        spec, resolve = self.spec.head, self.resolve
        if spec.kind == "none":
            return None
        if spec.kind == "pooler":
            act = self.activation(resolve, "head.act", spec.act)
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
        norm = self.norm("head.transform.norm", self.resolve, spec.norm)
        if norm is None:
            raise GlmcError(f"spec {self.spec.arch!r}: head.transform needs a norm")
        return m.Transform(
            dense=self.slots.projection("transform"),
            act=self.activation(self.resolve, "head.transform.act", spec.act),
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
        if self.spec.beyond_layers:
            for pattern in numbers_from(self.layers):
                pattern = self.spec.layer_prefix.replace("{i}", pattern) + "*"
                yield m.Waiver(pattern=pattern, reason=self.spec.beyond_layers)
        if self.spec.head.kind == "lm" and self.tied():
            own = self.slots.optional("head")
            if own:
                yield m.Waiver(pattern=own.tensor, reason=TIED_HEAD)
                if own.storage:
                    scale = own.tensor + own.storage.suffix
                    yield m.Waiver(pattern=scale, reason=TIED_HEAD)
        if self.spec.prefix_encoder and self.prefix_encoder() is None:
            module = self.slots.weight("prefix").tensor.rsplit(".", 2)[0]
            reason = "a prefix encoder, for which the config has no length"
            yield m.Waiver(pattern=f"{module}.*", reason=reason)

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
            prefix = self.spec.layer_root
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
        return m.Step(
            op=made,
            pre=self.layer_norm("block.pre", resolve, step.pre),
            post=self.layer_norm("block.post", resolve, step.post),
            after=self.layer_norm("block.after", resolve, step.after),
            residual=step.residual,
            residual_scale=resolve.number("block.residual_scale", step.residual_scale),
            scale=resolve.number("block.scale", step.scale),
            parallel=resolve.flag("block.parallel", step.parallel),
        )

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
        self, what: str, resolve: Resolver, ref: NormRef | None
    ) -> m.Norm | None:
        return self.norm(what, resolve, ref, self.spec.layer_root)

    def norm(
        self,
        what: str,
        resolve: Resolver,
        ref: NormRef | None,
        prefix: str | None = None,
    ) -> m.Norm | None:
        """The norm a reference stands for; what it leaves open is ``norm``'s."""
        if ref is None or resolve.value(ref.name) is None:
            return None
        prefix = self.spec.tensor_prefix if prefix is None else prefix
        name = prefix + resolve.text(what, ref.name)
        own = {key: value for key, value in ref if value is not None and key != "name"}
        spec = self.spec.norm.model_copy(update=own)
        weight = resolve.flag(f"{what}.weight", spec.weight)
        bias = resolve.flag(f"{what}.bias", spec.bias)
        return m.Norm(
            kind=spec.kind,
            eps=resolve.number(f"{what}.eps", spec.eps),
            weight=m.Weight(tensor=f"{name}.weight") if weight else None,
            bias=m.Weight(tensor=f"{name}.bias") if weight and bias else None,
            unit_offset=resolve.flag(f"{what}.unit_offset", spec.unit_offset),
            weight_in=spec.weight_in,
        )

    def attention(
        self, resolve: Resolver, what: str, spec: AttentionSpec, slots: Slots
    ) -> m.Attention:
        head_dim = resolve.size(f"{what}.head_dim", spec.head_dim)
        norms = self.qk_norms(f"{what}.qk_norm", resolve, spec.qk_norm)
        return m.Attention(
            **norms,
            heads=resolve.size(f"{what}.heads", spec.heads),
            kv_heads=resolve.size(f"{what}.kv_heads", spec.kv_heads),
            head_dim=head_dim,
            scale=resolve.number(f"{what}.scale", spec.scale),
            window=resolve.optional_size(f"{what}.window", spec.window),
            mask=spec.mask,
            chunk=resolve.optional_size(f"{what}.chunk", spec.chunk),
            softcap=resolve.optional_number(f"{what}.softcap", spec.softcap),
            clip=resolve.optional_number(f"{what}.clip", spec.clip),
            rope=self.rope(resolve, what, spec.rope, head_dim),
            alibi=alibi(f"{what}.alibi", resolve, spec.alibi),
            q=slots.projection("q"),
            k=slots.projection("k"),
            v=slots.projection("v"),
            o=slots.projection("o"),
            v_norm=self.layer_norm(f"{what}.v_norm", resolve, spec.v_norm),
            q_scale=query_scale(f"{what}.q_scale", resolve, spec.q_scale),
            sinks=slots.optional("sinks"),
            gate=output_gate(f"{what}.gate", resolve, spec.gate, slots),
            sub_norm=self.layer_norm(f"{what}.sub_norm", resolve, spec.sub_norm),
        )

    def qk_norms(
        self, what: str, resolve: Resolver, spec: QkNorm | None
    ) -> dict[str, Any]:
        if spec is None:
            return {}
        return {
            "q_norm": self.layer_norm(f"{what}.q", resolve, spec.q),
            "k_norm": self.layer_norm(f"{what}.k", resolve, spec.k),
            "qk_norm_scope": spec.scope,
            "qk_norm_after_rope": resolve.flag(f"{what}.after_rope", spec.after_rope),
        }

    def rope(
        self, resolve: Resolver, what: str, spec: RopeSpec | None, head_dim: int
    ) -> m.Rope | None:
        if spec is None or not resolve.flag(f"{what}.rope.when", spec.when):
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
            rope = rope_node(params, dim, style)
        except GlmcError as error:
            raise GlmcError(f"{error} [{spec.params.where}: {what}.rope]") from None
        sections = resolve.size(f"{what}.rope.sections", spec.sections)
        if dim % (2 * sections):
            expected = f"must pair channels in {dim} // {sections} each"
            raise resolve.error(f"{what}.rope.sections", spec.sections, expected, dim)
        reverse = resolve.flag(f"{what}.rope.reverse", spec.reverse)
        more = {"sections": sections, "frequencies": spec.frequencies}
        return rope.model_copy(update={**more, "reverse": reverse})

    def rope_style(self, resolve: Resolver, what: str, given: object) -> m.RopeStyle:
        style = resolve.text(f"{what}.style", given)
        match style:
            case "half" | "interleaved":
                return style
        expected = "must be half or interleaved"
        raise resolve.error(f"{what}.style", given, expected, style)

    def activation(
        self, resolve: Resolver, what: str, given: object
    ) -> m.ActivationName:
        name = resolve.text(what, given)
        if name not in _ACTIVATIONS:
            expected = f"must be one of {', '.join(_ACTIVATIONS)}"
            raise resolve.error(what, given, expected, name)
        return _ACTIVATIONS[name]

    def mlp(self, resolve: Resolver, what: str, spec: MlpSpec, slots: Slots) -> m.Mlp:
        gated = resolve.flag(f"{what}.gated", spec.gated)
        return m.Mlp(
            act=self.mlp_activation(resolve, f"{what}.act", spec.act, slots),
            ff=resolve.size(f"{what}.ff", spec.ff),
            gate=slots.projection("gate") if gated else None,
            up=slots.projection("up"),
            sub_norm=self.layer_norm(f"{what}.sub_norm", resolve, spec.sub_norm),
            down=slots.projection("down"),
        )

    def mlp_activation(
        self, resolve: Resolver, what: str, given: object, slots: Slots
    ) -> m.ActivationName | m.Xielu:
        if resolve.value(given) != "xielu":
            return self.activation(resolve, what, given)
        alphas = (slots.weight("alpha_p"), slots.weight("alpha_n"))
        return m.Xielu(alpha_p=alphas[0], alpha_n=alphas[1])


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
