"""Tables of tiles of products, as text of kernels.py, and the choice among them."""

import json
from collections.abc import Iterable, Iterator, Mapping

from glmc.backends.layout import item
from glmc.backends.triton import product_body, tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, cores, part


def gemv_tile(form: Form) -> str:
    """Emit the choice of a tile for one row of x."""
    if not product_body.coded(form):
        return "_tile(GEMV, OUT)"
    if form["floats"]:
        return "_tile(SMALL_GEMV, OUT)"
    if form["groups"]:
        return "_group_tile(x.element_size(), IN // scale.shape[1])"
    return "_tile(CODE_GEMV[bits], OUT)"


def tables(model: Model, ops: Iterable[str]) -> Iterator[Part]:
    """Yield the tables of tiles, as data that tuning replaces."""
    kinds = {product_body.coded(form) for form in model.forms(*ops)}
    for codes in sorted(kinds):
        gemv = _by_size(tiles.CODE_GEMV) if codes else _laid(tiles.LINEAR_GEMV, 4)
        skinny = tiles.CODE_SKINNY if codes else tiles.LINEAR_SKINNY
        yield part(
            "product_tiles_codes" if codes else "product_tiles",
            gemv=gemv,
            skinny=_by_size(skinny),
            rows=tiles.CODE_GEMV_ROWS if codes else tiles.ONE_ROW,
            groups=_by_size(tiles.GROUP_GEMV),
        )
    if any(form["floats"] for form in model.forms(*ops)):
        yield part("product_tiles_small", gemv=_laid(tiles.SMALL_GEMV, 4))
    yield cores()
    yield part(
        "product_tables",
        few=tiles.FEW_ROWS,
        counters=tiles.counters(),
        cores=tiles.CORES,
        pdl=json.dumps(tiles.PDL).replace("[", "(").replace("]", ")"),
    )


def _by_size(table: Mapping[int, Mapping[int, tiles.Tile]]) -> Lines:
    """Return a table of tiles for each number of bytes of an element, or of bits."""
    found: list[str] = []
    for size, rows in table.items():
        inner = [f"    {line}" for line in _laid(rows, 8)]
        found += [f"{size}: {{", *inner, "},"]
    return found


def _laid(table: Mapping[int, tiles.Tile], indent: int) -> list[str]:
    """Lay out ``8192: {"ROWS": 8, ...},`` for each entry."""
    rows = []
    for least, found in table.items():
        pairs = [f"{json.dumps(name)}: {size}" for name, size in found.items()]
        text = item(f"{least}: {{", pairs, "}", indent)
        rows += (text + ",").replace("\n" + " " * indent, "\n").split("\n")
    return rows
