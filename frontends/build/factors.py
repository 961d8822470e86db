"""Constants in which the layers of one block may differ."""

from collections.abc import Sequence
from typing import Any, TypeVar

from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import Section
from glmc.frontends.spec import MixerSpec, Spec, StepSpec
from glmc.ir import model as m

FACTORS = ("scale", "residual_scale")
"""The factors of a step; a scan's steady decay has one, too, its ``scale``."""

SectionT = TypeVar("SectionT", bound=Section)


def without(section: SectionT) -> SectionT:
    """Return a step or an op of a spec without the constants in which layers of a block
    may differ."""
    same: dict[str, Any] = {}
    if isinstance(section, StepSpec):
        same = dict.fromkeys(FACTORS, 1.0)
    elif isinstance(section, MixerSpec) and section.steady:
        same["steady"] = section.steady.model_copy(update={"scale": 1.0})
    return section.model_copy(update=same)


def factored(
    spec: Spec,
    given: Sequence[StepSpec],
    steps: Sequence[m.Step],
    layers: Sequence[Resolver],
) -> tuple[m.Step, ...]:
    """Give the steps of a block the constants of each of its layers, where layers
    differ in them."""
    made = []
    for step, said in zip(steps, given, strict=True):
        found: dict[str, Any] = {
            name: _each(f"block.{name}", getattr(said, name), layers)
            for name in FACTORS
        }
        named = layers[0].text("block.op", said.op)
        op = spec.ops[named]
        if isinstance(step.op, m.Mixer) and step.op.steady:
            assert isinstance(op, MixerSpec)
            assert op.steady
            scale = _each(f"ops.{named}.steady.scale", op.steady.scale, layers)
            steady = step.op.steady.model_copy(update={"scale": scale})
            found["op"] = step.op.model_copy(update={"steady": steady})
        made.append(step.model_copy(update=found))
    return tuple(made)


def _each(
    what: str, given: object, layers: Sequence[Resolver]
) -> float | tuple[float, ...]:
    """Return a number of each layer, or one where it is the same in all."""
    each = tuple(layer.number(what, given) for layer in layers)
    return each if len(set(each)) > 1 else each[0]
