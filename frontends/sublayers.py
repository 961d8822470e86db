"""A spec's sublayers and norms, evaluated for a layer."""

from collections.abc import Mapping
from typing import Any

from glmc.frontends.attention_extras import (
    alibi,
    head_experts,
    long_factors,
    output_gate,
    query_scale,
)
from glmc.frontends.carried import kv_source
from glmc.frontends.glu import clamped_glu, cutoff
from glmc.frontends.mixtures import BlockIndexers, LatentAttention, Mixture
from glmc.frontends.resolver import Resolver
from glmc.frontends.rope import rope_node
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    AffineSpec,
    AttentionSpec,
    BranchesSpec,
    LowRankSpec,
    MlaSpec,
    MlpSpec,
    MoeSpec,
    NormGateSpec,
    NormRef,
    OpSpec,
    PerLayerInputSpec,
    QkNorm,
    RopeSpec,
    Spec,
)
from glmc.ir import model as m
from glmc.ir.errors import GlmcError

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


class SublayerBuilder:
    """What lies within a residual step; ``resolve`` knows the layer's values."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

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
            case AffineSpec():
                return m.Affine(map=slots.projection(op.slot))
            case LowRankSpec():
                return m.LowRank(
                    rank=resolve.size(f"{what}.rank", op.rank),
                    down=slots.projection("laurel_down"),
                    up=slots.projection("laurel_up"),
                    norm=self.layer_norm(f"{what}.norm", resolve, op.norm),
                )
            case BranchesSpec():
                return self.branches(resolve, what, op)
            case PerLayerInputSpec():
                return m.PerLayerInput(
                    act=self.activation(resolve, f"{what}.act", op.act),
                    gate=slots.projection("part_gate"),
                    down=slots.projection("part_down"),
                )

    def named(self, resolve: Resolver, what: str, name: object) -> tuple[str, OpSpec]:
        """An op of the spec by its name."""
        found = resolve.text(what, name)
        if found in self.spec.ops:
            return found, self.spec.ops[found]
        expected = f"must be one of the ops {', '.join(self.spec.ops)}"
        raise resolve.error(what, name, expected, found)

    def branches(self, resolve: Resolver, what: str, spec: BranchesSpec) -> m.Branches:
        made = []
        for branch in spec.of:
            name, op = self.named(resolve, f"{what}.of", branch.op)
            if not isinstance(op, MlpSpec | MoeSpec):
                expected = "must be an op of kind mlp or moe"
                raise resolve.error(f"{what}.of", branch.op, expected, name)
            sublayer = self.sublayer(resolve, f"ops.{name}", op)
            assert isinstance(sublayer, m.Mlp | m.Moe)
            pre = self.layer_norm(f"{what}.pre", resolve, branch.pre)
            post = self.layer_norm(f"{what}.post", resolve, branch.post)
            made.append(m.Branch(op=sublayer, pre=pre, post=post))
        return m.Branches(branches=tuple(made))

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
        own = {key: value for key, value in ref if value is not None}
        own.pop("name")
        own.pop("gate", None)
        suffix = "" if own.pop("bare", False) else ".weight"
        spec = self.spec.norm.model_copy(update=own)
        weight = resolve.flag(f"{what}.weight", spec.weight)
        bias = resolve.flag(f"{what}.bias", spec.bias)
        return m.Norm(
            kind=spec.kind,
            eps=resolve.number(f"{what}.eps", spec.eps),
            weight=m.Weight(tensor=name + suffix) if weight else None,
            bias=m.Weight(tensor=f"{name}.bias") if weight and bias else None,
            unit_offset=resolve.flag(f"{what}.unit_offset", spec.unit_offset),
            weight_in=spec.weight_in,
            gate=self.norm_gate(what, resolve, ref.gate, prefix),
        )

    def norm_gate(
        self, what: str, resolve: Resolver, spec: NormGateSpec | None, prefix: str
    ) -> m.NormGate | None:
        what = f"{what}.gate"
        if spec is None or not resolve.flag(f"{what}.when", spec.when):
            return None
        down, up = (
            m.Projection(weight=m.Weight(tensor=f"{prefix}{name}.weight"))
            for name in (
                resolve.text(f"{what}.down", spec.down),
                resolve.text(f"{what}.up", spec.up),
            )
        )
        rank = resolve.size(f"{what}.rank", spec.rank)
        return m.NormGate(rank=rank, down=down, up=up)

    def attention(
        self, resolve: Resolver, what: str, spec: AttentionSpec, slots: Slots
    ) -> m.Attention:
        head_dim = resolve.size(f"{what}.head_dim", spec.head_dim)
        own = kv_source(f"{what}.kv_from", resolve, spec) is None
        equal = resolve.flag(f"{what}.kv_equal", spec.kv_equal)
        norms = self.qk_norms(f"{what}.qk_norm", resolve, spec.qk_norm)
        if not own:
            norms.pop("k_norm", None)
        heads = resolve.size(f"{what}.heads", spec.heads)
        kv_heads = resolve.size(f"{what}.kv_heads", spec.kv_heads)
        group, of = heads / kv_heads, f"{what}.experts"
        return m.Attention(
            **norms,
            heads=heads,
            kv_heads=kv_heads,
            experts=head_experts(of, resolve, spec.experts, slots, group),
            head_dim=head_dim,
            v_dim=resolve.optional_size(f"{what}.v_dim", spec.v_dim),
            v_scale=resolve.number(f"{what}.v_scale", spec.v_scale),
            scale=resolve.number(f"{what}.scale", spec.scale),
            window=resolve.optional_size(f"{what}.window", spec.window),
            mask=spec.mask,
            chunk=resolve.optional_size(f"{what}.chunk", spec.chunk),
            softcap=resolve.optional_number(f"{what}.softcap", spec.softcap),
            clip=resolve.optional_number(f"{what}.clip", spec.clip),
            rope=self.rope(resolve, what, spec.rope, head_dim),
            alibi=alibi(f"{what}.alibi", resolve, spec.alibi),
            q=slots.projection("q"),
            k=slots.projection("k") if own else None,
            v=slots.projection("v") if own and not equal else None,
            o=slots.projection("o"),
            v_norm=self.layer_norm(f"{what}.v_norm", resolve, spec.v_norm)
            if own
            else None,
            q_scale=query_scale(f"{what}.q_scale", resolve, spec.q_scale),
            sinks=slots.optional("sinks"),
            gate=output_gate(f"{what}.gate", resolve, spec.gate, slots),
            indexer=BlockIndexers(self, resolve, what, slots).build(spec.indexer),
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
            raise error.read_by(f"{spec.params.where}: {what}.rope") from None
        sections = resolve.size(f"{what}.rope.sections", spec.sections)
        if dim % (2 * sections):
            expected = f"must pair channels in {dim} // {sections} each"
            raise resolve.error(f"{what}.rope.sections", spec.sections, expected, dim)
        reverse = resolve.flag(f"{what}.rope.reverse", spec.reverse)
        more = {"sections": sections, "frequencies": spec.frequencies}
        scaling = long_factors(f"{what}.rope", resolve, spec, rope)
        update = {**more, "reverse": reverse, "scaling": scaling}
        return rope.model_copy(update=update)

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
            glu=clamped_glu(f"{what}.glu", resolve, spec.glu) if gated else None,
            sub_norm=self.layer_norm(f"{what}.sub_norm", resolve, spec.sub_norm),
            down=slots.projection("down"),
            cutoff=cutoff(f"{what}.sparsity", resolve, spec.sparsity),
        )

    def mlp_activation(
        self, resolve: Resolver, what: str, given: object, slots: Slots
    ) -> m.ActivationName | m.Xielu:
        if resolve.value(given) != "xielu":
            return self.activation(resolve, what, given)
        alphas = (slots.weight("alpha_p"), slots.weight("alpha_n"))
        return m.Xielu(alpha_p=alphas[0], alpha_n=alphas[1])
