"""Products: what the kernels of a model have to know of them all."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from glmc.backends.layout import item
from glmc.backends.triton import structure, tiles
from glmc.backends.triton.uses import OpUse, Presence, presence

NORMING = {"rms_norm_linear": "rms_norm", "layer_norm_linear": "layer_norm"}
OPS = structure.PRODUCT_OPS
PARTS = ("rows", "products", "product_gemv", "product_skinny", "product")


def with_parts(uses: Iterable[OpUse]) -> Iterator[OpUse]:
    """The uses, and after each product the ops that its launcher calls on many rows."""
    for use in uses:
        yield use
        if use.name in NORMING:
            yield _norm(use)
        if use.name in OPS and "fn" in use.attrs:
            yield _activation(use)
        if use.name in OPS and "bits" in use.attrs:
            yield _gemm(use)


def _norm(use: OpUse) -> OpUse:
    names = ("eps", "weight_in", "unit_offset")
    attrs = {name: use.attrs[name] for name in names if name in use.attrs}
    bias = frozenset({"bias"} if "norm_bias" in use.operands else ())
    shapes = {"weight": use.shapes["norm"]} if "norm" in use.shapes else {}
    return OpUse(NORMING[use.name], attrs, bias, shapes)


def _activation(use: OpUse) -> OpUse:
    name, operand = ("act_mul", "gate_up") if use.flag("gated") else ("activation", "x")
    shapes = {operand: use.shapes["weight"][:1]} if "weight" in use.shapes else {}
    return OpUse(name, {"fn": use.attrs["fn"]}, shapes=shapes)


def _gemm(use: OpUse) -> OpUse:
    names = ("weight", "scale", "zeros")
    shapes = {name: use.shapes[name] for name in names if name in use.shapes}
    operands = use.operands & {"zeros", "bias"}
    return OpUse("quantized_gemm", {"bits": use.attrs["bits"]}, operands, shapes)


@dataclass(frozen=True)
class Plan:
    """Which arguments the kernels have, because some product needs them."""

    coded: Presence
    grouped: bool
    zeroed: bool
    biased: bool
    added: bool
    rms: bool
    layer: bool
    shifted: bool
    unit: Presence
    gated: bool
    chosen: bool
    mixed: bool

    @property
    def simple(self) -> bool:
        """Whether the only norm is an RMSNorm, the same everywhere."""
        return self.rms and not (self.layer or self.mixed or self.unit == "some")

    @classmethod
    def of(cls, uses: Iterable[OpUse]) -> "Plan":
        """From all uses of a model, :func:`with_parts`."""
        every = list(uses)
        found = structure.named(every, *OPS)
        normed = structure.named(found, *NORMING)
        acting = [use for use in found if "fn" in use.attrs]
        codes = [use for use in found if "bits" in use.attrs]
        several = len(structure.functions(every)) > 1
        return cls(
            coded=presence("bits" in use.attrs for use in found),
            grouped=structure.grouped(codes),
            zeroed=any("zeros" in use.operands for use in codes),
            biased=any("bias" in use.operands for use in found),
            added=bool(structure.named(found, "linear_add")),
            rms=bool(structure.named(found, "rms_norm_linear")),
            layer=bool(structure.named(found, "layer_norm_linear")),
            shifted=any("norm_bias" in use.operands for use in found),
            unit=presence(use.flag("unit_offset") for use in normed),
            gated=any(use.flag("gated") for use in acting),
            chosen=any(several or not use.flag("gated") for use in acting),
            mixed=structure.weight_in(every) == "mixed",
        )


def variables(uses: list[OpUse]) -> Mapping[str, object]:
    """What the templates of products show."""
    plan = Plan.of(uses)
    return {
        **{name: getattr(plan, name) for name in vars(plan) if name != "mixed"},
        "simple": plan.simple,
        "acts": {name: _acts(structure.named(uses, name)) for name in OPS},
        "many": _many(uses, plan),
        "table_gemv": _rows(_gemv_tiles(plan, False), 4),
        "table_skinny": _by_size(tiles.LINEAR_SKINNY),
        "code_gemv": _rows(_gemv_tiles(plan, True), 4),
        "code_skinny": _by_size(tiles.CODE_SKINNY),
        "one": tiles.ONE_ROW,
        "coded_rows": tiles.CODE_GEMV_ROWS,
        "few_rows": tiles.FEW_ROWS,
        "counters": tiles.counters(),
    }


def _acts(uses: Iterable[OpUse]) -> list[str]:
    """How an op's products are activated."""
    acting = [use for use in uses if "fn" in use.attrs]
    return sorted({"gated" if use.flag("gated") else "alone" for use in acting})


def _many(uses: list[OpUse], plan: Plan) -> str:
    """What multiplies many rows in launchers of fused products."""
    if plan.coded == "none":
        return "torch.nn.functional.linear"
    fused = (name for name in OPS if name not in ("linear", "quantized_linear"))
    several = plan.coded == "some" and structure.named(uses, *fused)
    return "_many" if several else "quantized_gemm"


def _gemv_tiles(plan: Plan, coded: bool) -> Mapping[int, tiles.Tile]:
    """The tiles of gemv; a span is of norms."""
    table = tiles.CODE_GEMV if coded else tiles.LINEAR_GEMV
    if plan.rms or plan.layer:
        return table
    return {
        least: {name: size for name, size in tile.items() if name != "SPAN"}
        for least, tile in table.items()
    }


def _by_size(table: Mapping[int, Mapping[int, tiles.Tile]]) -> list[object]:
    return [(size, _rows(tiles_of, 8)) for size, tiles_of in table.items()]


def _rows(table: Mapping[int, tiles.Tile], indent: int) -> list[str]:
    """``8192: {"ROWS": 8, ...}`` for each, laid out."""
    return [
        item(
            f"{least}: {{",
            [f"{json.dumps(k)}: {v}" for k, v in tile.items()],
            "}",
            indent,
        )
        for least, tile in table.items()
    ]
