"""Copies of checkpoints and builds with one thing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write config.json to `folder`, made if need be; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def with_config(source: Path, folder: Path, values: Mapping[str, Any]) -> Path:
    """A copy of a model folder with other config values; a dot goes a level down."""
    shutil.copytree(source, folder)
    config = read_config(folder)
    for key, value in values.items():
        *path, last = key.split(".")
        place = config
        for step in path:
            place = place[step]
        assert last in place, f"{key} is not in the config, so it changes nothing"
        assert place[last] != value
        place[last] = value
    return write_config(folder, config)


def with_tensor(source: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint in one file, with a tensor full of `value`."""
    shutil.copytree(source, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, file, {"format": "pt"})
    return folder


def with_source(build: Path, folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of a build whose `file` says `new` where it said `old`."""
    shutil.copytree(build, folder)
    text = (folder / file).read_text()
    assert old in text, f"{file} does not say {old!r}, so nothing would change"
    (folder / file).write_text(text.replace(old, new))
    return folder
