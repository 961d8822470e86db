"""Read published modeling code as text and keep its answers as golden numbers.

    python bench/golden_texts.py NAME --text modeling_x.py --origin OWNER/REPO

NAME is a folder of tests/golden/texts with config.json. The code's tensors get made-up
weights (tests/support/told.py). Written are shapes.json and answers.safetensors: the
logits of a prompt, of cached decoding and of a left-padded batch. A text.json says what
the code calls otherwise than checkpoints do: its `class`, keys of `config`, `names` of
tensors. Nothing of the code is kept, nor run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from glmc.frontends.code.oracle import TextModel  # noqa: E402
from glmc.frontends.code.room import roomy  # noqa: E402
from glmc.frontends.code.sources import find_text  # noqa: E402
from glmc.frontends.code.text import Text  # noqa: E402
from glmc.frontends.read.hub import Hub  # noqa: E402
from support import reference, told  # noqa: E402
from support.reference import PROMPT, STEPS, Tensors  # noqa: E402

WIDTH = 128
"""Logits of so many words are kept."""


def answers(
    text: Text, config: dict[str, Any], names: Mapping[str, str]
) -> tuple[told.Shapes, Tensors]:
    """Return the shapes of the text's tensors and its logits, as `told` describes."""
    first = TextModel(text, config)
    own = {_saved(slot.names): list(slot.tensor.shape) for slot in first.slots()}
    called = {name: _called(name, names) for name in own}
    shapes = {called[name]: shape for name, shape in own.items()}
    vocab = int(config["vocab_size"])

    def model() -> TextModel:
        made, weights = TextModel(text, config), told.weights(shapes)
        made.load({name: weights[called[name]] for name in own})
        return made

    batch = reference.padded_batch(vocab)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocab, (1, PROMPT + STEPS), generator=generator)
    with torch.no_grad():
        found = {"ids": ids, "prompt": model()(input_ids=ids).logits}
    found["decode"] = reference.cached(model(), ids)[:, PROMPT:]
    found |= {f"padded.{name}": value for name, value in vars(batch).items()}
    found["padded"] = reference.cached(model(), batch.ids, batch.mask, batch.positions)
    logits = {name: found[name][..., :WIDTH] for name in ("prompt", "decode", "padded")}
    return shapes, found | logits


def _saved(names: list[str]) -> str:
    """Return the name that a tensor is saved by: a tied head is left out of files."""
    return next((name for name in names if "head" not in name), names[0])


def _called(name: str, names: Mapping[str, str]) -> str:
    """Return the checkpoint's name of a tensor: the first pattern that fits counts."""
    fitting = (p for p in names if re.fullmatch(p, name))
    pattern = next(fitting, None)
    return name if pattern is None else re.sub(pattern, names[pattern], name)


def main() -> int:
    """Write the shapes and the answers of one text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a folder of tests/golden/texts")
    parser.add_argument("--text", required=True, help="the modeling file, or a folder")
    parser.add_argument("--origin", required=True, help="where the file was published")
    options = parser.parse_args()
    folder = told.FOLDER / options.name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    beside = folder / "text.json"
    own = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    if "class" in own:
        config["architectures"] = [own["class"]]
    config |= own.get("config", {})
    text = find_text(options.text, config, Hub())
    shapes, found = roomy(lambda: answers(text, config, own.get("names", {})))
    (folder / "shapes.json").write_text(
        json.dumps(shapes, indent=1) + "\n", encoding="utf-8"
    )
    digest = hashlib.sha256(text.texts[text.file].encode()).hexdigest()
    about = {"origin": options.origin, "file": f"{text.file}.py", "sha256": digest}
    kept = {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(kept, folder / "answers.safetensors", metadata=about)
    print(f"{options.name}: {len(shapes)} tensors of {text.model_class}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
