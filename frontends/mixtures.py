"""Mixtures of experts and latent attention of a spec, with the values of a config."""

from typing import Any, Literal, Protocol

from glmc.frontends.attention_extras import output_gate, query_scale
from glmc.frontends.glu import clamped_glu
from glmc.frontends.resolver import Resolver
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    BlockIndexerSpec,
    IndexerSpec,
    MlaSpec,
    MoeSpec,
    NormRef,
    NormSpec,
    RopeSpec,
    SharedSpec,
)
from glmc.ir import model as m
from glmc.ir.errors import ConfigContradictionError


class Parts(Protocol):
    """What sublayers share, as the model's builder makes it."""

    def rope(
        self, resolve: Resolver, what: str, spec: RopeSpec | None, head_dim: int
    ) -> m.Rope | None: ...

    def rope_style(
        self, resolve: Resolver, what: str, given: object
    ) -> m.RopeStyle: ...

    def layer_norm(
        self, what: str, resolve: Resolver, ref: NormRef | None
    ) -> m.Norm | None: ...

    def activation(
        self, resolve: Resolver, what: str, given: object
    ) -> m.ActivationName: ...


class _Sublayer:
    """A sublayer of one layer; ``what`` is the spec's key, for messages."""

    def __init__(
        self, parts: Parts, resolve: Resolver, what: str, slots: Slots
    ) -> None:
        self.parts, self.resolve, self.what, self.slots = parts, resolve, what, slots

    def size(self, key: str, given: object) -> int:
        return self.resolve.size(f"{self.what}.{key}", given)

    def optional_norm(self, key: str, name: object, spec: NormSpec) -> m.Norm | None:
        ref = NormRef(name=name, **dict(spec))
        return self.parts.layer_norm(f"{self.what}.{key}", self.resolve, ref)

    def norm(self, key: str, name: object, spec: NormSpec) -> m.Norm:
        found = self.optional_norm(key, name, spec)
        if found is None:
            expected = "must be the name of a norm"
            raise self.resolve.error(f"{self.what}.{key}", name, expected, None)
        return found


class Mixture(_Sublayer):
    """Builds a :class:`~glmc.ir.model.Moe`."""

    def build(self, spec: MoeSpec) -> m.Moe:
        experts, top_k = (self.size(k, getattr(spec, k)) for k in ("experts", "top_k"))
        router = self.router(spec)
        zero = self.resolve.size(f"{self.what}.zero", spec.zero_experts, least=0)
        self.check(experts + zero, top_k, router)
        act = self.parts.activation(self.resolve, f"{self.what}.act", spec.act)
        return m.Moe(
            experts=experts,
            top_k=top_k,
            act=act,
            ff=self.size("ff", spec.ff),
            router=router,
            zero_experts=zero,
            norm=self.parts.layer_norm(f"{self.what}.norm", self.resolve, spec.norm),
            gate=self.slots.weight("xgate"),
            up=self.slots.weight("xup"),
            down=self.slots.weight("xdown"),
            gate_bias=self.slots.bias("xgate"),
            up_bias=self.slots.bias("xup"),
            down_bias=self.slots.bias("xdown"),
            bias=self.slots.optional("xbias"),
            glu=clamped_glu(f"{self.what}.glu", self.resolve, spec.glu),
            weigh=spec.weigh,
            **self.shared(spec.shared, act),
        )

    def router(self, spec: MoeSpec) -> m.Router:
        resolve, what = self.resolve, self.what
        norm = self.parts.layer_norm(f"{what}.router_norm", resolve, spec.router_norm)
        return m.Router(
            weight=self.slots.weight("router"),
            bias=self.slots.bias("router"),
            softcap=resolve.optional_number(f"{what}.softcap", spec.softcap),
            score=spec.score,
            jitter=resolve.optional_number(f"{what}.jitter", spec.jitter),
            after=self.after(spec),
            correction=self.slots.optional("correction"),
            norm=norm,
            pre_scale=resolve.number(f"{what}.router_scale", spec.router_scale),
            expert_scale=self.slots.optional("expert_scale"),
            groups=self.size("groups", spec.groups),
            top_groups=self.size("top_groups", spec.top_groups),
            group_score=spec.group_score,
            ineligible=spec.ineligible,
            renormalise=resolve.flag(f"{what}.renormalise", spec.renormalise),
            least_sum=resolve.optional_number(f"{what}.least_sum", spec.least_sum),
            scale=resolve.number(f"{what}.scale", spec.scale),
        )

    def after(self, spec: MoeSpec) -> Literal["softmax", "sigmoid"] | None:
        """What becomes of the chosen logits; other scores stay what they are."""
        after = self.resolve.value(spec.after)
        match after:
            case "softmax" | "sigmoid":
                if spec.score == "logit":
                    return after
            case None:
                if spec.score != "logit":
                    return None
        expected = "must be softmax or sigmoid with score: logit, and else null"
        raise self.resolve.error(f"{self.what}.after", spec.after, expected, after)

    def shared(self, spec: SharedSpec | None, act: m.ActivationName) -> dict[str, Any]:
        """The MLP that all tokens share, and how it is added."""
        what = f"{self.what}.shared"
        if spec is None or not self.resolve.flag(f"{what}.when", spec.when):
            return {}
        mlp = m.Mlp(
            act=act,
            ff=self.size("shared.ff", spec.ff),
            gate=self.slots.projection("sgate"),
            up=self.slots.projection("sup"),
            glu=clamped_glu(f"{what}.glu", self.resolve, spec.glu),
            down=self.slots.projection("sdown"),
        )
        gated = self.resolve.flag(f"{what}.gate", spec.gate)
        return {
            "shared": mlp,
            "shared_gate": self.slots.weight("shared_gate") if gated else None,
            "averaged": self.resolve.flag(f"{what}.averaged", spec.averaged),
        }

    def check(self, experts: int, top_k: int, router: m.Router) -> None:
        """Refuse what no router can choose."""
        size, rest = divmod(experts, router.groups)
        least = 2 if router.groups > 1 and router.group_score == "top2" else 1
        if rest or size < least:
            what = f"{router.groups} groups" + " of two or more" * (least > 1)
            told = f"{experts} experts do not make {what}"
        elif router.top_groups > router.groups:
            told = f"{router.top_groups} of {router.groups} groups cannot be chosen"
        elif top_k > router.top_groups * size:
            told = f"{top_k} of {router.top_groups * size} experts cannot be chosen"
        else:
            return
        raise ConfigContradictionError(
            f"{self.what}: {told}; the config contradicts itself"
        )


class BlockIndexers(_Sublayer):
    """Builds the :class:`~glmc.ir.model.BlockIndexer` of an attention."""

    def build(self, spec: BlockIndexerSpec | None) -> m.BlockIndexer | None:
        what = f"{self.what}.indexer"
        if spec is None or not self.resolve.flag(f"{what}.when", spec.when):
            return None
        sizes = {key: self.size(f"indexer.{key}", getattr(spec, key)) for key in _SIZES}
        local = self.resolve.size(f"{what}.local", spec.local, least=0)
        norms = {
            key: self.parts.layer_norm(
                f"{what}.{key}", self.resolve, getattr(spec, key)
            )
            for key in ("q_norm", "k_norm")
        }
        q, k = self.slots.projection("iq"), self.slots.projection("ik")
        return m.BlockIndexer(**sizes, **norms, local=local, q=q, k=k)  # type: ignore[arg-type]


_SIZES = ("heads", "dim", "block", "top_k")


class LatentAttention(_Sublayer):
    """Builds a :class:`~glmc.ir.model.Mla`."""

    def build(self, spec: MlaSpec) -> m.Mla:
        ranked = self.resolve.value(spec.q_rank) is not None
        rope_dim = self.size("rope.dim", spec.rope.dim)
        rope = self.parts.rope(self.resolve, self.what, spec.rope, rope_dim)
        assert rope
        return m.Mla(
            heads=self.size("heads", spec.heads),
            nope=self.size("nope", spec.nope),
            v_dim=self.size("v_dim", spec.v_dim),
            q_rank=self.size("q_rank", spec.q_rank) if ranked else None,
            kv_rank=self.size("kv_rank", spec.kv_rank),
            scale=self.resolve.number(f"{self.what}.scale", spec.scale),
            rope=rope,
            window=self.resolve.optional_size(f"{self.what}.window", spec.window),
            q_scale=query_scale(f"{self.what}.q_scale", self.resolve, spec.q_scale),
            q_a=self.slots.projection("q_a") if ranked else None,
            q_norm=self.norm("q_norm", spec.q_norm, spec.norm) if ranked else None,
            q_reads=spec.q_reads,
            q=self.slots.projection("q"),
            kv_a=self.slots.projection("kv_a"),
            k_norm=self.optional_norm("k_norm", spec.k_norm, spec.norm),
            kv_norm=self.norm("kv_norm", spec.kv_norm, spec.norm),
            kv_scale=self.resolve.number(f"{self.what}.kv_scale", spec.kv_scale),
            kv_b=self.slots.projection("kv_b"),
            o=self.slots.projection("o"),
            gate=output_gate(f"{self.what}.gate", self.resolve, spec.gate, self.slots),
            indexer=self.indexer(spec.indexer, rope_dim),
        )

    def indexer(
        self, spec: IndexerSpec | None, rope_dim: int
    ) -> m.Indexer | Literal["shared"] | None:
        what = f"{self.what}.indexer"
        if spec is None or not self.resolve.flag(f"{what}.when", spec.when):
            return None
        if self.resolve.flag(f"{what}.shared", spec.shared):
            return "shared"
        dim = self.size("indexer.dim", spec.dim)
        if dim < rope_dim:
            expected = f"must be at least the {rope_dim} rotary channels"
            raise self.resolve.error(f"{what}.dim", spec.dim, expected, dim)
        return m.Indexer(
            heads=self.size("indexer.heads", spec.heads),
            dim=dim,
            top_k=self.size("indexer.top_k", spec.top_k),
            style=self.parts.rope_style(self.resolve, what, spec.style),
            q=self.slots.projection("iq"),
            k=self.slots.projection("ik"),
            k_norm=self.norm("indexer.k_norm", spec.k_norm, spec.norm),
            weights=self.slots.weight("iweights"),
        )
