"""Make nodes of the Model from a spec's sections with the values of a config."""

from collections.abc import Callable
from inspect import isclass
from typing import Any, TypeVar

from glmc.frontends.build.slots import Slots
from glmc.frontends.language.derived import IN_SLOTS, Makes
from glmc.frontends.language.evaluation import Value
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import Section
from glmc.frontends.spec import NormGateSpec, NormRef, NormSpec, OpSpec, Spec
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.node import Node

NodeT = TypeVar("NodeT", bound=Node)
Build = Callable[["Maker", str, Any], Any]
BUILDS: dict[type[Section], Build] = {}
"""The function that makes the node of a section which says more than its node has
fields for."""


def builds(*sections: type[Section]) -> Callable[[Build], Build]:
    """Register the function that makes the node of these sections."""

    def register(build: Build) -> Build:
        BUILDS.update(dict.fromkeys(sections, build))
        return build

    return register


class Maker:
    """Makes nodes with the values of a layer, or of the model where there is none.

    ``what`` names the entry of the spec that a section stands at, for messages.
    """

    def __init__(self, spec: Spec, resolve: Resolver, *, layer: bool = True) -> None:
        self.spec, self.resolve = spec, resolve
        self.slots = Slots(spec, resolve)
        self.prefix = spec.layer_root if layer else spec.tensor_prefix

    def part(self, what: str, section: Section | None) -> Any:
        """Make the node of a section; None where the section says that there is none.

        Raises:
            GlmcError: when a value is missing, of the wrong kind or out of bounds.
        """
        if section is None or not self._there(what, section):
            return None
        build = BUILDS.get(type(section))
        if build:
            return build(self, what, section)
        return self.node(next(iter(section.made)), what, section)

    def _there(self, what: str, section: Section) -> bool:
        if section.null and self.said(section, section.null) is None:
            return False
        when = getattr(section, "when", True)
        return self.resolve.flag(f"{what}.when", when)

    def node(
        self, kind: type[NodeT], what: str, section: Section, **known: Any
    ) -> NodeT:
        """Make a node of a section's values; ``known`` fields are not asked of it."""
        return kind(**known, **self.values(kind, what, section, *known))

    def values(
        self, kind: type[Node], what: str, section: Section, *known: str
    ) -> dict[str, Any]:
        """Return the fields of a node that the section gives."""
        makes = section.made[kind]
        return {
            name: self._field(makes, name, what, section)
            for name in makes.fields
            if name not in known
        }

    def value(self, kind: type[Node], name: str, what: str, section: Section) -> Any:
        """Return a single field of a node."""
        return self._field(section.made[kind], name, what, section)

    def said(self, section: Section, key: str) -> Value:
        """Return the value of a section's key, unchecked."""
        return self.resolve.value(getattr(section, key))

    def refusal(
        self, what: str, section: Section, key: str, expected: str, found: Value
    ) -> GlmcError:
        """Make an error about the value of a section's key; ``expected`` begins
        "must"."""
        given = getattr(section, key)
        return self.resolve.error(f"{what}.{key}", given, expected, found)

    def _field(self, makes: Makes, name: str, what: str, section: Section) -> Any:
        wanted, key = makes.fields[name], makes.key(name)
        if wanted.kind in IN_SLOTS:
            return self._stored(makes, name, what, section)
        given, where = getattr(section, key), f"{what}.{key}"
        if wanted.kind is m.Norm:
            base = getattr(section, makes.norms) if makes.norms else None
            return self.norm(where, given, base, optional=wanted.optional)
        if not isclass(wanted.kind) or not issubclass(wanted.kind, Node):
            return self.resolve.field(where, given, wanted)
        if wanted.many:
            return tuple(self.part(where, one) for one in given)
        return self.part(where, given)

    def _stored(self, makes: Makes, name: str, what: str, section: Section) -> Any:
        """Make a weight or a projection from its slot."""
        slot, wanted, slots = makes.slot(name), makes.fields[name], self.slots
        if slot.bias:
            return slots.bias(slot.name)
        optional = wanted.optional
        if slot.when:
            given = getattr(section, slot.when)
            if not self.resolve.flag(f"{what}.{slot.when}", given):
                return None
            optional = False
        if slot.unless_null:
            if self.said(section, slot.unless_null) is None:
                return None
            optional = False
        if wanted.kind is m.Weight:
            return slots.optional(slot.name) if optional else slots.weight(slot.name)
        read = slots.optional_projection if optional else slots.projection
        return read(slot.name)

    def norm(
        self,
        what: str,
        ref: NormRef | None,
        base: NormSpec | None = None,
        *,
        optional: bool = True,
    ) -> m.Norm | None:
        """Make the norm of a reference; what it leaves open ``base`` says, or the
        spec's ``norm``."""
        if ref is None or self.resolve.value(ref.name) is None:
            if optional:
                return None
            expected, given = "must be the name of a norm", ref and ref.name
            raise self.resolve.error(what, given, expected, None)
        name = self.resolve.text(what, ref.name)
        shared = name.startswith("/")
        name = self.spec.tensor_prefix + name[1:] if shared else self.prefix + name
        own = {key: value for key, value in ref if value is not None}
        suffix = "" if own.pop("bare", False) else ".weight"
        gate, _ = own.pop("gate", None), own.pop("name")
        spec = (base or self.spec.norm).model_copy(update=own)
        weight = self.resolve.flag(f"{what}.weight", spec.weight)
        bias = self.resolve.flag(f"{what}.bias", spec.bias)
        return self.node(
            m.Norm,
            what,
            spec,
            weight=m.Weight(tensor=name + suffix) if weight else None,
            bias=m.Weight(tensor=f"{name}.bias") if weight and bias else None,
            gate=self.part(f"{what}.gate", gate),
        )

    def maps(self, what: str, begin: object) -> m.HyperMaps | None:
        """Make the maps of hyper-connections from how their names begin, null for
        none."""
        if begin is None or self.resolve.value(begin) is None:
            return None
        name = self.prefix + self.resolve.text(what, begin)
        names = {one: m.Weight(tensor=name + one) for one in ("fn", "base", "scale")}
        return m.HyperMaps(**names)

    def mix(self, what: str, begin: object) -> m.ResidualMix | None:
        """Make a mixture of snapshots from how its names begin, null for none."""
        if begin is None or self.resolve.value(begin) is None:
            return None
        name = self.prefix + self.resolve.text(what, begin)
        norm, row = (m.Weight(tensor=f"{name}{one}.weight") for one in ("norm", "proj"))
        eps = self.value(m.Norm, "eps", "norm", self.spec.norm)
        return m.ResidualMix(norm=norm, project=row, eps=eps)

    def named(self, what: str, name: object) -> tuple[str, OpSpec]:
        """Return an op of the spec by its name, with the name."""
        found = self.resolve.text(what, name)
        if found in self.spec.ops:
            return found, self.spec.ops[found]
        expected = f"must be one of the ops {', '.join(self.spec.ops)}"
        raise self.resolve.error(what, name, expected, found)


@builds(NormGateSpec)
def norm_gate(make: Maker, what: str, spec: NormGateSpec) -> m.NormGate:
    """Make the gate of a norm, whose matrices are named beside it."""

    def stored(key: str, given: object) -> m.Projection:
        name = make.resolve.text(f"{what}.{key}", given)
        return m.Projection(weight=m.Weight(tensor=f"{make.prefix}{name}.weight"))

    down, up = stored("down", spec.down), stored("up", spec.up)
    return make.node(m.NormGate, what, spec, down=down, up=up)
