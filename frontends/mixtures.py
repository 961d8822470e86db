"""Mixtures of experts and latent attention of a spec, with the values of a config."""

from typing import Literal, Protocol

from glmc.frontends.resolver import Resolver
from glmc.frontends.slots import Slots
from glmc.frontends.spec import (
    IndexerSpec,
    MlaSpec,
    MoeSpec,
    NormRef,
    NormSpec,
    RopeSpec,
)
from glmc.ir import model as m
from glmc.ir.errors import GlmcError


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

    def norm(self, key: str, name: object, spec: NormSpec) -> m.Norm:
        ref = NormRef(name=name, **dict(spec))
        found = self.parts.layer_norm(f"{self.what}.{key}", self.resolve, ref)
        if found is None:
            expected = "must be the name of a norm"
            raise self.resolve.error(f"{self.what}.{key}", name, expected, None)
        return found


class Mixture(_Sublayer):
    """Builds a :class:`~glmc.ir.model.Moe`."""

    def build(self, spec: MoeSpec) -> m.Moe:
        experts, top_k = (self.size(k, getattr(spec, k)) for k in ("experts", "top_k"))
        router = self.router(spec)
        self.check(experts, top_k, router)
        act = self.parts.activation(self.resolve, f"{self.what}.act", spec.act)
        return m.Moe(
            experts=experts,
            top_k=top_k,
            act=act,
            ff=self.size("ff", spec.ff),
            router=router,
            gate=self.slots.weight("xgate"),
            up=self.slots.weight("xup"),
            down=self.slots.weight("xdown"),
            shared=self.shared(spec, act),
        )

    def router(self, spec: MoeSpec) -> m.Router:
        resolve, what = self.resolve, self.what
        return m.Router(
            weight=self.slots.weight("router"),
            score=spec.score,
            correction=self.slots.optional("correction"),
            groups=self.size("groups", spec.groups),
            top_groups=self.size("top_groups", spec.top_groups),
            renormalise=resolve.flag(f"{what}.renormalise", spec.renormalise),
            scale=resolve.number(f"{what}.scale", spec.scale),
        )

    def shared(self, spec: MoeSpec, act: m.ActivationName) -> m.Mlp | None:
        if spec.shared is None:
            return None
        return m.Mlp(
            act=act,
            ff=self.size("shared.ff", spec.shared.ff),
            gate=self.slots.projection("sgate"),
            up=self.slots.projection("sup"),
            down=self.slots.projection("sdown"),
        )

    def check(self, experts: int, top_k: int, router: m.Router) -> None:
        """Refuse what no router can choose."""
        size, rest = divmod(experts, router.groups)
        if rest or (router.groups > 1 and size < 2):
            count = router.groups
            told = f"{experts} experts do not make {count} groups of two or more"
        elif router.top_groups > router.groups:
            told = f"{router.top_groups} of {router.groups} groups cannot be chosen"
        elif top_k > router.top_groups * size:
            told = f"{top_k} of {router.top_groups * size} experts cannot be chosen"
        else:
            return
        raise GlmcError(f"{self.what}: {told}; the config contradicts itself")


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
            q_a=self.slots.projection("q_a") if ranked else None,
            q_norm=self.norm("q_norm", spec.q_norm, spec.norm) if ranked else None,
            q=self.slots.projection("q"),
            kv_a=self.slots.projection("kv_a"),
            kv_norm=self.norm("kv_norm", spec.kv_norm, spec.norm),
            kv_b=self.slots.projection("kv_b"),
            o=self.slots.projection("o"),
            indexer=self.indexer(spec.indexer, rope_dim) if spec.indexer else None,
        )

    def indexer(
        self, spec: IndexerSpec, rope_dim: int
    ) -> m.Indexer | Literal["shared"]:
        what = f"{self.what}.indexer"
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
