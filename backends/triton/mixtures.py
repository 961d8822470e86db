"""Mixtures of experts: what of a model shapes their kernels, and their launches.

The layers of a model share one form; where they do not, or where an op has what no
kernel knows of, the op is the reference's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from glmc.backends.triton import structure, tiles
from glmc.backends.triton.uses import OpUse

_EXPERTS_ATTRS = frozenset({"fn", "alpha", "limit", "weigh"})
_EXPERTS_OPERANDS = frozenset(
    {"x", "experts", "weights", "gate_up", "down", "gate_up_bias", "down_bias"}
)
_ROUTER_ATTRS = frozenset(
    {"top_k", "score", "after", "groups", "top_groups", "group_score", "renormalise"}
    | {"least_sum", "scale", "ineligible"}
)
_ROUTER_OPERANDS = frozenset({"x", "weight", "bias", "correction"})


@dataclass(frozen=True)
class ExpertsForm:
    """What decides which lines the kernels of experts have."""

    glu: bool
    weighs_input: bool
    gate_up_bias: bool
    down_bias: bool

    @classmethod
    def of(cls, use: OpUse) -> "ExpertsForm":
        """The form of one layer that is not :meth:`unfit`."""
        return cls(
            glu=use.attrs.get("limit") is not None,
            weighs_input=use.text("weigh", "output") == "input",
            gate_up_bias="gate_up_bias" in use.operands,
            down_bias="down_bias" in use.operands,
        )

    @staticmethod
    def unfit(use: OpUse) -> str | None:
        """What a layer has that no kernel knows of."""
        if use.attrs.get("limit") is not None and use.attrs.get("alpha") is None:
            return f"{use.name}: no kernel clamps {use.text('fn')} without an alpha"
        return use.beyond(_EXPERTS_ATTRS, _EXPERTS_OPERANDS)


@dataclass(frozen=True)
class RouterForm:
    """What decides which lines the kernels of a router have."""

    score: str
    after: str
    groups: str
    """By what a group is judged; empty where there is one group."""
    zeroes: bool
    """Experts of other groups count as zero; otherwise they are never chosen."""
    renormalises: bool
    least: bool
    corrected: bool
    biased: bool

    @classmethod
    def of(cls, use: OpUse) -> "RouterForm":
        """The form of one layer that is not :meth:`unfit`."""
        grouped = use.whole("groups", 1) > 1
        return cls(
            score=use.text("score"),
            after=use.text("after", ""),
            groups=use.text("group_score", "top2") if grouped else "",
            zeroes=use.text("ineligible", "never") == "zero",
            renormalises=use.flag("renormalise"),
            least=use.flag("renormalise") and use.optional("least_sum") is not None,
            corrected="correction" in use.operands,
            biased="bias" in use.operands,
        )

    @staticmethod
    def unfit(use: OpUse) -> str | None:
        """What a layer has that no kernel knows of."""
        experts = use.size("weight", 0)
        if experts > tiles.MOST_EXPERTS:
            return (
                f"{use.name}: a program chooses among {tiles.MOST_EXPERTS} experts at"
                f" most, not {experts}"
            )
        return use.beyond(_ROUTER_ATTRS, _ROUTER_OPERANDS)


_FORMS: Mapping[str, type[ExpertsForm] | type[RouterForm]] = {
    "moe_experts": ExpertsForm,
    "moe_router": RouterForm,
}


def unfit(uses: Iterable[OpUse], name: str) -> str | None:
    """Why the kernels of ``moe_experts`` or ``moe_router`` do not take a model's uses:
    a layer has what they do not know of, or layers differ in form."""
    found = structure.named(uses, name)
    reasons = filter(None, map(_FORMS[name].unfit, found))
    if reason := next(reasons, None):
        return reason
    forms = {_FORMS[name].of(use) for use in found}
    differ = f"{name}: its {len(forms)} kinds of layer differ in form, kernels have one"
    return differ if len(forms) > 1 else None


def _form(uses: Iterable[OpUse], name: str) -> dict[str, object] | None:
    """The form that all uses of an op have; None where its kernels are not used."""
    found = structure.named(uses, name)
    return (
        None if not found or unfit(found, name) else asdict(_FORMS[name].of(found[0]))
    )


def variables(uses: Sequence[OpUse]) -> dict[str, object]:
    """What the templates of experts and routers are rendered with."""
    return {
        "experts": _form(uses, "moe_experts"),
        "moe": [
            (size, *map(json.dumps, [*pair, tiles.EXPERT_ROW[size]]))
            for size, pair in tiles.EXPERTS.items()
        ],
        "sort": {
            "rows": tiles.SORTED,
            "step": tiles.SORT_STEP,
            "warps": tiles.SORT_WARPS,
        },
        "router": _form(uses, "moe_router"),
        "scores": {
            "tile": tiles.SCORES,
            "most": tiles.SCORED_TOKENS,
            "warps": tiles.CHOICE_WARPS,
        },
    }
