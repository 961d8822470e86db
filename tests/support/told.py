"""Answers that published code gave when it was read as text, and how they are kept.

A folder of tests/golden/texts holds config.json, shapes.json (the code's tensors) and
answers.safetensors. The weights are numbers that any machine makes the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from support.reference import Tensors

FOLDER = Path(__file__).parents[1] / "golden" / "texts"
NAMES = tuple(sorted(path.name for path in FOLDER.iterdir()))

Shapes = Mapping[str, list[int]]


def noise(count: int, seed: int) -> torch.Tensor:
    """Numbers in [-1, 1), [count] in fp32, by whole arithmetic alone."""
    state = torch.arange(count, dtype=torch.int64) + seed * 7_368_787
    for _ in range(3):
        state = (state * 2_862_933 + 1_013_904_223) % 2**31
        state = state ^ (state >> 11)
    return (state.double() / 2**30 - 1).float()


def weights(shapes: Shapes) -> Tensors:
    """A tensor for every name, of a size that suits what it is."""
    made = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        found = noise(math.prod(shape), seed + 1).view(shape)
        if len(shape) == 1:
            # A norm's weight or a bias.
            made[name] = 0.4 * found + (0.0 if name.endswith("bias") else 1.0)
        elif re.search(r"embed|wte", name):
            made[name] = found
        else:
            made[name] = found * math.sqrt(3 / min(shape))
    return made


def shapes_of(name: str) -> Shapes:
    """The tensors of a text, as they are called in its checkpoints."""
    found: Shapes = json.loads((FOLDER / name / "shapes.json").read_text())
    return found


def config_of(name: str) -> dict[str, Any]:
    """The config.json of the text's model."""
    found: dict[str, Any] = json.loads((FOLDER / name / "config.json").read_text())
    return found


def checkpoint(name: str, folder: Path) -> Path:
    """Write config.json and model.safetensors as the text's model would be saved."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    save_file(weights(shapes_of(name)), folder / "model.safetensors")
    return folder
