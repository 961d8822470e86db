"""Layers whose numbers in tensor names are not their own, and layers left out."""

from __future__ import annotations

import pytest

from glmc.ir import model as m
from glmc.ir.lower import lower
from glmc.ir.text import parse_program, print_program
from support.configs import FAMILIES
from support.loading import Load

NUMBERED = {
    "mllama": [0, 2, 4],
    "mixformer-sequential": [1, 2, 3],
    "longcat_flash": [0, 0, 1, 1],
}


def numbers(model: m.Model) -> list[int]:
    """Return what ``{i}`` is for each layer, in the order of the layers."""
    pairs = [
        pair
        for block in model.blocks
        for pair in zip(block.layers, block.numbers or block.layers, strict=True)
    ]
    assert [layer for layer, _ in sorted(pairs)] == list(range(len(pairs)))
    return [number for _, number in sorted(pairs)]


@pytest.mark.parametrize("family", NUMBERED)
def test_numbers_in_names(load: Load, family: str) -> None:
    model = load(FAMILIES[family]).model
    assert numbers(model) == NUMBERED[family]
    program = lower(model)
    assert parse_program(print_program(program)) == program
    found = {path.split(".")[1]: number for path, number, _ in program.bindings()
             if path.startswith("layers.")}  # fmt: skip
    assert [found[str(at)] for at in range(len(found))] == NUMBERED[family]


def test_a_layer_that_does_nothing_is_waived(load: Load) -> None:
    waived = {w.pattern: w.reason for w in load(FAMILIES["mllama"]).model.waivers}
    assert "image" in waived["language_model.model.layers.1.*"]
    assert "language_model.model.layers.2.*" not in waived


def test_sublayers_that_a_layer_lacks(load: Load) -> None:
    config = FAMILIES["nemotron-nas"]
    kinds = {block.name: [step.op.kind for step in block.steps]
             for block in load(config).model.blocks}  # fmt: skip
    assert sorted(kinds.values()) == [
        ["affine"],
        ["attention", "affine"],
        ["attention", "mlp"],
        ["mlp"],
    ]
    program = lower(load(config).model)
    kept = {block.name: len(block.states) for block in program.blocks}
    attends = {name: "attention" in steps for name, steps in kinds.items()}
    assert kept == attends
