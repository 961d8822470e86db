"""Modeling code written for the tests, in the way that repositories publish theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmc.frontends.code.text import Text
from support.escapes import FOLDER

CONFIGURATION = (FOLDER / "configuration_plain.py.txt").read_text(encoding="utf-8")
MODELING = (FOLDER / "modeling_plain.py.txt").read_text(encoding="utf-8")
_PARTS = ("vision_config", "text_config", "audio_config")

AUTO_MAP = {
    "AutoConfig": "configuration_plain.PlainConfig",
    "AutoModelForCausalLM": "modeling_plain.PlainForCausalLM",
}


def plain(*changes: tuple[str, str]) -> dict[str, str]:
    """The files of Plain by name; ``changes`` (old, new) are made in its modeling."""
    modeling = MODELING
    for old, new in changes:
        assert old in modeling, old
        modeling = modeling.replace(old, new)
    return {"configuration_plain": CONFIGURATION, "modeling_plain": modeling}


def write(folder: Path, texts: Mapping[str, str]) -> Path:
    """Write texts to a folder as .py files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def repository(checkpoint: Path, folder: Path, texts: Mapping[str, str]) -> Path:
    """A repository with the texts of Plain and the weights of a tiny Llama."""
    write(folder, texts)
    for file in checkpoint.glob("*.safetensors"):
        (folder / file.name).write_bytes(file.read_bytes())
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    rope = config.pop("rope_parameters", None) or {}
    config["rope_theta"] = rope.get("rope_theta", 10000.0)
    for key in ("head_dim", "mlp_bias", "attention_bias", "pretraining_tp"):
        config.pop(key, None)
    config |= {
        "model_type": "plain",
        "architectures": ["PlainForCausalLM"],
        "auto_map": AUTO_MAP,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def text_of(model: Any) -> Text:
    """The text of a model's class, with those of the parts that its config names."""
    cls = type(model)
    configs = [getattr(model.config, part, None) for part in _PARTS]
    files = [sys.modules[type(c).__module__].__file__ for c in configs if c is not None]
    own = Path(sys.modules[cls.__module__].__file__ or "")
    texts: dict[str, str] = {}
    for file in (str(own), *files):
        for path in sorted(Path(file or "").parent.glob("*.py")):
            if path.stem.startswith(("modeling_", "configuration_")):
                texts.setdefault(path.stem, path.read_text(encoding="utf-8"))
    return Text(texts, own.stem, cls.__name__)
