"""Quantised matrices, as the packages that publish them write and read them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glmc.backends.runtime import quantization
from glmc.backends.runtime.codes import DequantBlocks, DequantFloats, DequantGroups
from glmc.backends.runtime.evaluation import evaluate
from glmc.backends.runtime.quantization import dequantize, pack_codes, unpack_codes
from glmc.backends.runtime.recipes import (
    Recipe,
    Repacked,
    Tensor,
)
from support import GOLDEN, hub_formats

GROUPS = {
    "gptq4": ("gptq", 4, 16, "qweight", "scales", "qzeros", ""),
    "gptq8": ("gptq", 8, 16, "qweight", "scales", "qzeros", ""),
    "gptq4-order": ("gptq", 4, 16, "qweight", "scales", "qzeros", "g_idx"),
    "gptq4-v2": ("gptq_v2", 4, 16, "qweight", "scales", "qzeros", ""),
    "gptq8-v2": ("gptq_v2", 8, 16, "qweight", "scales", "qzeros", ""),
    "gptq4-order-v2": ("gptq_v2", 4, 16, "qweight", "scales", "qzeros", "g_idx"),
    "awq4": ("awq", 4, 16, "qweight", "scales", "qzeros", ""),
    "packed4": ("packed", 4, 16, "weight_packed", "weight_scale", "", ""),
    "packed4-zeros": (
        *("packed", 4, 16, "weight_packed", "weight_scale", "weight_zero_point"),
        "",
    ),
    "packed4-channel": ("packed", 4, 64, "weight_packed", "weight_scale", "", ""),
    "packed8-zeros": (
        *("packed", 8, 16, "weight_packed", "weight_scale", "weight_zero_point"),
        "",
    ),
    "int8": ("plain", 8, 64, "weight", "weight_scale", "", ""),
    "int8-zeros": ("plain", 8, 16, "weight", "weight_scale", "weight_zero_point", ""),
}
BLOCKS = {"float8": (32, 64), "float8-channel": (1, 64), "float8-block": (16, 32)}


@cache
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "quantised/matrices.safetensors")


def leaf(name: str, packing: str | None = None) -> DequantGroups:
    """The recipe of a matrix in groups; ``packing`` another one than it has."""
    own, bits, group, *endings = GROUPS[name]

    def tensor(ending: str) -> Tensor | None:
        full = f"{name}.{ending}"
        return Tensor(full, tuple(tensors()[full].shape)) if ending else None

    codes, scale, zeros, index = map(tensor, endings)
    assert codes
    assert scale
    return DequantGroups(codes, scale, bits, group, packing or own, zeros, index)


def read(recipe: Recipe) -> torch.Tensor:
    return evaluate(recipe, tensors().__getitem__)


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str) -> None:
    torch.testing.assert_close(read(leaf(name)), tensors()[f"{name}.dequantised"])


@pytest.mark.parametrize("name", BLOCKS)
def test_float8(name: str) -> None:
    block = BLOCKS[name]
    grid = (32 // block[0], 64 // block[1])
    codes = Tensor(f"{name}.weight", (32, 64))
    recipe = DequantBlocks(codes, Tensor(f"{name}.weight_scale", grid), block)
    torch.testing.assert_close(read(recipe), tensors()[f"{name}.dequantised"])


def test_mxfp4() -> None:
    codes, scale = (
        Tensor(f"mxfp4.{name}", tuple(tensors()[f"mxfp4.{name}"].shape))
        for name in ("blocks", "scales")
    )
    made = read(DequantFloats(codes, scale, bits=4, powers=True))
    # transformers has the last two dimensions the other way round.
    expected = tensors()["mxfp4.dequantised"].transpose(-1, -2)
    assert torch.equal(made, expected)
    half = evaluate(
        DequantFloats(codes, scale, bits=4, powers=True),
        tensors().__getitem__,
        torch.bfloat16,
    )
    assert torch.equal(half.float(), expected)


@pytest.mark.parametrize(
    ("name", "packing"),
    [("gptq4", "gptq_v2"), ("gptq4-v2", "gptq"), ("gptq8", "gptq_v2")],
)
def test_control_the_other_version_shows(name: str, packing: str) -> None:
    wrong = (read(leaf(name, packing)) - tensors()[f"{name}.dequantised"]).abs()
    assert wrong.max() > 0.01


def test_control_another_order_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nibbles the other way round, and AWQ's words in the order of the matrix."""

    def swapped(words: torch.Tensor, bits: int) -> torch.Tensor:
        codes = right(words, bits)
        return codes.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)  # type: ignore[no-any-return, no-untyped-call]

    right = quantization.words_to_codes
    for name, function, wrong in (
        ("gptq4", "words_to_codes", swapped),
        ("packed4", "words_to_codes", swapped),
        ("awq4", "in_awq_order", lambda codes: codes),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(quantization, function, wrong)
            off = read(leaf(name)) - tensors()[f"{name}.dequantised"]
        assert off.abs().max() > 0.1, name


@pytest.mark.parametrize("name", [name for name in GROUPS if "order" not in name])
def test_repacked_it_is_the_same(name: str) -> None:
    of, source = leaf(name), tensors().__getitem__
    parts = {
        part: evaluate(Repacked(of, part), source)
        for part in ("codes", "scale", *(["zeros"] if of.zeros else []))
    }
    made = dequantize(
        parts["codes"], parts["scale"], torch.float32, of.bits, parts.get("zeros")
    )
    assert torch.equal(made, read(of))
    rows = of.kept("codes", source, slice(8, 24))
    assert torch.equal(rows, parts["codes"][8:24])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [8, 24, 64, 128, 136, 896, 13696])
def test_the_order_of_repacked_codes(bits: int, width: int) -> None:
    """Word by word, and its inverse."""
    half = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(-half, half, (3, width), generator=generator).to(torch.int8)
    packed = pack_codes(codes, bits)
    assert torch.equal(unpack_codes(packed, bits), codes)
    many = 32 // bits
    run = next(n for n in (16, 8, 4, 2, 1) if width // many % n == 0)
    words = packed.view(torch.int32).numpy().view(np.uint32)
    at = np.arange(width)
    word = at // (run * many) * run + at % run
    plane = at % (run * many) // run
    found = words[:, word] >> (bits * plane).astype(np.uint32) & (2**bits - 1)
    assert (found == codes.numpy().astype(np.int64) % 2**bits).all()


def test_the_packings_of_the_tests_are_the_published_ones() -> None:
    """The writer of whole checkpoints in the tests writes these words too."""
    codes = hub_formats.words(np.arange(64).reshape(2, 32) % 16, 4)
    assert codes[0, 0] == 0x76543210
    for name in ("packed4", "gptq4", "awq4"):
        own = leaf(name)
        plain = quantization.code_rows(
            tensors()[own.codes.name], own.bits, own.packing, slice(None)
        )
        unsigned = plain.numpy().astype(np.int64) + 8
        written = {
            "packed4": lambda u: hub_formats.words(u, 4),
            "gptq4": lambda u: hub_formats.words_down(u.T, 4),
            "awq4": lambda u: hub_formats.words(u.T, 4, hub_formats.AWQ),
        }[name](unsigned)
        assert (written == tensors()[own.codes.name].numpy()).all(), name
