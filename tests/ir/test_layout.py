"""Layouts: the recipe of a slot, evaluated, against the split done by hand."""

import pytest
import torch

from glmc.backends.torch.weights import assemble
from glmc.ir.errors import GlmcError
from glmc.ir.layout import parse, recipe
from glmc.ir.leaves import Tensor
from glmc.ir.recipe import Permute, Slice, cat, permute, slice_, view

AXES = {"H": 4, "K": 2, "G": 2, "D": 6, "E": 10, "F": 7, "M": 2, "Hm": 2}
Q, KV = ("H D", "E"), ("K D", "E")


def read(
    layout: str, part: str | None, slot: tuple[str, ...], w: torch.Tensor
) -> torch.Tensor:
    found = recipe("w", layout, part, slot, AXES)
    assert tuple(found.shape) == tuple(assemble(found, {"w": w}, None).shape)
    return assemble(found, {"w": w}, None)


def test_contiguous_parts() -> None:
    w = torch.randn(48, 10)
    layout = "[q:(H D)|k:(K D)|v:(K D)] E"
    assert torch.equal(read(layout, "q", Q, w), w[:24])
    assert torch.equal(read(layout, "k", KV, w), w[24:36])
    assert torch.equal(read(layout, "v", KV, w), w[36:])


def test_conv1d_is_transposed() -> None:
    w = torch.randn(10, 48)
    layout = "E [q:(H D)|k:(K D)|v:(K D)]"
    assert torch.equal(read(layout, "k", KV, w), w[:, 24:36].T)
    assert torch.equal(read("(H D) E", None, ("E", "H D"), w[:, :24].T), w[:, :24])


def test_interleaved_heads() -> None:
    w = torch.randn(4 * 3 * 6, 10)
    by_head = w.view(4, 3, 6, 10)
    layout = "(H [q:D|k:D|v:D]) E"
    for at, part in enumerate("qkv"):
        want = by_head[:, at].reshape(24, 10)
        assert torch.equal(read(layout, part, Q, w), want)


def test_grouped_heads_take_the_place_of_their_product() -> None:
    w = torch.randn(2 * (2 * 6 + 6 + 6), 10)
    by_group = w.view(2, 4, 6, 10)
    layout = "(K [q:(G D)|k:D|v:D]) E"
    assert torch.equal(read(layout, "q", Q, w), by_group[:, :2].reshape(24, 10))
    assert torch.equal(read(layout, "v", KV, w), by_group[:, 3].reshape(12, 10))


def test_an_inner_axis_moves_outward() -> None:
    w = torch.randn(6 * 4, 10)
    want = w.view(6, 4, 10).transpose(0, 1).reshape(24, 10)
    assert torch.equal(read("(D H) E", None, Q, w), want)


def test_splitting_and_merging_gives_back_the_tensor() -> None:
    layout = "[q:(H D)|k:(K D)|v:(K D)] E"
    slots = {"q": Q, "k": KV, "v": KV}
    parts = [recipe("w", layout, p, s, AXES) for p, s in slots.items()]
    assert cat(parts) == Tensor(name="w", stored=(48, 10))
    turned = [recipe("w", f"E {layout[:-2]}", p, s, AXES) for p, s in slots.items()]
    assert cat(turned) == Permute(of=Tensor(name="w", stored=(10, 48)), dims=(1, 0))


def test_parts_out_of_order_do_not_join() -> None:
    w = Tensor(name="w", stored=(8, 3))
    low, high = slice_(w, 0, 0, 4), slice_(w, 0, 4, 8)
    assert cat([high, low]).shape == (8, 3)
    assert cat([low, high]) == w
    assert cat([high, low]) != w


def test_trivial_steps_vanish() -> None:
    w = Tensor(name="w", stored=(8, 3))
    assert slice_(w, 0, 0, 8) == permute(w, (0, 1)) == view(w, (8, 3)) == w
    assert isinstance(slice_(w, 1, 0, 2), Slice)
    with pytest.raises(ValueError, match="a view of"):
        view(w, (5, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[q:(H D)|k:(K D] E", "expected"),
        ("(H D E", "expected"),
        ("H D; E", "unexpected ';'"),
        ("[(H D)] E", "expected part"),
    ],
)
def test_a_layout_that_is_none_says_where(text: str, message: str) -> None:
    with pytest.raises(GlmcError, match="column") as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "part", "slot"),
    [
        ("[q:(H D)|k:(K D)] E", "v", Q),
        ("(H D) F", None, Q),
        ("(H D) E F", None, Q),
        ("(H X) E", None, Q),
    ],
)
def test_a_layout_of_another_slot_is_refused(
    layout: str, part: str | None, slot: tuple[str, ...]
) -> None:
    with pytest.raises(GlmcError):
        recipe("w", layout, part, slot, AXES)
