"""Steps on a stack of matrices are seen through, where they leave rows whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch.weights import assemble
from glmc.ir.leaves import DequantFloats, Tensor
from glmc.ir.passes.coded import Refusal, split
from glmc.ir.passes.straight import straightened
from glmc.ir.recipe import Permute, Recipe, Slice, View, cat, permute, slice_, view
from support.ranges import examples

X, ROWS, GROUPS, GROUP = 3, 8, 2, 32
WIDTH = GROUPS * GROUP
LEAF = DequantFloats(
    codes=Tensor(name="blocks", stored=(X, ROWS, GROUPS, GROUP // 2)),
    scale=Tensor(name="scales", stored=(X, ROWS, GROUPS)),
    bits=4,
    powers=True,
)


def stored() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, LEAF.codes.stored, generator=generator)
    scales = torch.randint(120, 130, LEAF.scale.stored, generator=generator)
    return {"blocks": blocks.to(torch.uint8), "scales": scales.to(torch.uint8)}


CHECKPOINT = stored()


def values(recipe: Recipe) -> torch.Tensor:
    return assemble(recipe, CHECKPOINT, None)


def half(which: int) -> Recipe:
    """Every second row, as gpt-oss has gate and up: columns of a transposed stack."""
    turned = permute(LEAF, (0, 2, 1))
    paired = view(turned, (X, WIDTH, ROWS // 2, 2))
    one = slice_(paired, 3, which, which + 1)
    return view(permute(one, (0, 2, 1, 3)), (X, ROWS // 2, WIDTH))


def whole_rows(recipe: Recipe) -> bool:
    """True where no step reaches into rows: a recipe of codes may have them all."""
    try:
        split(recipe, lambda bits, width, group: None)
    except Refusal:
        return False
    return True


def test_every_second_row_of_a_transposed_stack() -> None:
    merged = cat([half(0), half(1)], 1)
    assert not whole_rows(merged)
    found = straightened(merged)
    assert whole_rows(found)
    assert torch.equal(values(found), values(merged))
    # A control: the halves the other way round are another matrix.
    other = straightened(cat([half(1), half(0)], 1))
    assert not torch.equal(values(other), values(merged))


@pytest.mark.parametrize(
    "recipe",
    [
        permute(LEAF, (0, 2, 1)),
        slice_(LEAF, 2, 0, GROUP),
        view(LEAF, (X, ROWS * 2, WIDTH // 2)),
        view(permute(LEAF, (0, 2, 1)), (X, ROWS, WIDTH)),
    ],
    ids=["transposed", "columns cut", "rows cut", "columns taken for rows"],
)
def test_what_reaches_into_rows_stays_as_it_is(recipe: Recipe) -> None:
    assert straightened(recipe) == recipe
    assert not whole_rows(recipe)


STEPS = st.lists(
    st.one_of(
        st.permutations(range(3)).map(lambda dims: ("permute", tuple(dims))),
        st.sampled_from([("split", 2), ("split", 4), ("merge", 0)]),
        st.tuples(st.just("slice"), st.integers(0, 3)),
    ),
    max_size=6,
)


def taken(recipe: Recipe, name: str, value: object) -> Recipe:
    """A step on a stack; one that does not fit leaves it as it is."""
    shape = recipe.shape
    match name, value, len(shape):
        case "permute", tuple(), 3:
            return Permute(of=recipe, dims=value)
        case "split", int(), 3 if shape[1] % value == 0:
            to = (shape[0], shape[1] // value, value, shape[2])
            return View(of=recipe, to=to)
        case "merge", _, 4:
            return View(of=recipe, to=(shape[0], shape[1] * shape[2], shape[3]))
        case "slice", int(), count if value < count and shape[value] > 1:
            return Slice(of=recipe, dim=value, start=0, stop=shape[value] // 2)
    return recipe


@given(STEPS)
@examples(200)
def test_values_are_the_same(steps: list[tuple[str, object]]) -> None:
    recipe: Recipe = LEAF
    for name, value in steps:
        recipe = taken(recipe, name, value)
    found = straightened(recipe)
    assert found.shape == recipe.shape
    assert torch.equal(values(found), values(recipe))
