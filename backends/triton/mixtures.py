"""Mixtures of experts: what of a model shapes their kernels, and their launches.

The layers of a model share one form; where they do not, or where an op has what no
kernel knows of, the op is the reference's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from glmc.backends.triton import structure, tiles
from glmc.backends.triton.specs import BYTES, AotSpec, Arguments, Constant, tiled
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
_BLOCKS = ("order", "experts", "firsts", "ends")


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


def moe_experts(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """Rows one by one; and blocks of them, with what sorts a few of these."""
    form = ExpertsForm.of(use)
    sizes: dict[str, Constant] = {"E": use.size("down", 1), "F": use.size("down", 2)}
    top_k: dict[str, Constant] = {"TOP_K": use.size("experts")}
    act: dict[str, Constant] = {}
    if form.glu:
        act = {"ALPHA": use.real("alpha"), "LIMIT": use.real("limit")}
    elif len(structure.functions(uses)) > 1:
        act = {"FN": use.text("fn")}
    width = use.size("x")
    row = tiles.EXPERT_ROW[BYTES[dtype]]
    chosen = _Experts(width, dtype, form, ("chosen",))
    blocks = _Experts(width, dtype, form, _BLOCKS)
    specs = [
        tiled(chosen.first(), "moe_row_gate_up_kernel", top_k | sizes | act, row),
        tiled(chosen.second("out"), "moe_row_down_kernel", top_k | sizes, row),
    ]
    for tile in tiles.EXPERTS[BYTES[dtype]]:
        gate_up = top_k | sizes | act
        specs.append(tiled(blocks.first(), "moe_gate_up_kernel", gate_up, tile))
        specs.append(tiled(blocks.second("parts"), "moe_down_kernel", sizes, tile))
    return specs + _sorts(use, dtype)


@dataclass(frozen=True)
class _Experts:
    """The arguments of both products: of a row each, or of sorted blocks."""

    width: int
    dtype: str
    form: ExpertsForm
    chosen: tuple[str, ...]

    def first(self) -> Arguments:
        """Those of gate and up."""
        made = Arguments(self.dtype).pointers("x", "gate_up")
        if self.form.gate_up_bias:
            made.pointers("gate_up_bias")
        self._choice(made, self.form.weighs_input)
        return made.pointers("hidden").strides(x_row=self.width)

    def second(self, out: str) -> Arguments:
        """Those of the product after them."""
        made = Arguments(self.dtype).pointers("hidden", "down")
        if self.form.down_bias:
            made.pointers("down_bias")
        self._choice(made, not self.form.weighs_input)
        return made.pointers(out)

    def _choice(self, made: Arguments, weighs: bool) -> None:
        made.pointers(*self.chosen, dtype="*i64")
        if weighs:
            made.pointers("shares", dtype="*fp32")


def _sorts(use: OpUse, dtype: str) -> list[AotSpec]:
    """What sorts a few rows, for the tiles that so few can come to."""
    few, many = tiles.EXPERTS[BYTES[dtype]]
    count, top_k = use.size("down", 0), use.size("experts")
    reached = [few] if max(top_k, count // 2) < tiles.SORTED else []
    reached += [many] if count * few["ROWS"] < 2 * tiles.SORTED else []
    found = []
    for tile in reached:
        arguments = Arguments(dtype).pointers("chosen", *_BLOCKS, dtype="*i64")
        arguments.counts("M")
        sizes: dict[str, Constant] = {"ROWS": tile["ROWS"], "BLOCK": tiles.SORTED}
        sizes["STEP"] = tiles.SORT_STEP
        found.append(arguments.spec("moe_sort_kernel", sizes, tiles.SORT_WARPS))
    return found


def moe_router(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """The scores of few tokens, and the choice."""
    form = RouterForm.of(use)
    count, width = use.size("weight", 0), use.size("weight", 1)
    biased = ["bias"] if form.biased else []
    arguments = Arguments(dtype).pointers("x")
    arguments.pointers("weight", *biased, "logits", dtype="*fp32").strides(x_row=width)
    sizes: dict[str, Constant] = {"X": count, "E": width}
    scores = tiled(arguments, "moe_scores_kernel", sizes, tiles.SCORES)
    return [scores, _choice(use, form, count)]


def _choice(use: OpUse, form: RouterForm, count: int) -> AotSpec:
    corrected = ["correction"] if form.corrected else []
    arguments = Arguments("f32").pointers("logits", *corrected)
    arguments.pointers("chosen", dtype="*i64").pointers("weights")
    top_k, groups = use.whole("top_k"), use.whole("groups", 1)
    constants: dict[str, Constant] = {"X": count, "TOP_K": top_k}
    if form.groups:
        constants |= {"GROUPS": groups, "TOP_GROUPS": use.whole("top_groups", 1)}
        constants["G_BLOCK"] = tiles.power_of_two(groups)
    if form.least:
        constants["LEAST"] = use.real("least_sum")
    constants["SCALE"] = use.real("scale", 1.0)
    constants["S_BLOCK"] = tiles.power_of_two(count // groups)
    constants["K_BLOCK"] = tiles.power_of_two(top_k)
    return arguments.spec("moe_choice_kernel", constants, tiles.CHOICE_WARPS)
