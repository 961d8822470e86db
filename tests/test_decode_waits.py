"""No emitted line of a decode step waits for the device, but for those named here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import builds
from support.variants import BY_NAME, Tiny, Variant

# Ops whose reference waits, and its function that does; what a step comes to first
# stands last. The experts have a kernel that does not, where they are plain; those of
# attention have none yet; the length of a dynamic rope decides on its frequencies.
WAITING = {
    "moe_experts": "moe_experts",
    "expert_queries": "by_expert",
    "rope_table_dynamic": "rope_table_dynamic",
}
QUICK = ("llama-llama3", "llama-dynamic", "gemma2-capped", "bloom-alibi", "glm4-bare")
IDS = torch.tensor([[5, 9, 3, 41], [0, 0, 7, 30]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])

VARIANTS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(BY_NAME)
]


def waits(build: Any, checkpoint: Path) -> str | None:
    """Return why the first step after a prompt could not be recorded, lengths aside."""
    model = build.load(checkpoint, device="cpu", dtype="float32")
    part = {
        name: importlib.import_module(f"{build.__name__}.{name}")
        for name in ("cache", "decoding", "graphs", "reference", "sampling")
    }
    cache = model.new_cache(2, 9)
    ids = model(IDS, MASK, past_key_values=cache).logits[:, -1:].argmax(-1)
    pos = model.scheme(None, cache, ids, None)
    sampler = part["sampling"].Sampler(temperature=1.0, top_k=9, top_p=0.9, seed=1)
    step = part["decoding"].Step(cache, ids, pos, sampler)
    try:
        with part["graphs"].Watch():
            step.run(model, part["reference"])
    except part["cache"].HostRead as error:
        return str(part["graphs"]._asker(error))
    return None


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_wait_for_nothing(
    tiny: Callable[[Variant], Tiny], compiled: Callable[[Path], Path], name: str
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    build = builds.import_build(compiled(checkpoint))
    text = Path(str(build.__file__)).with_name("model.py").read_text()
    expected = [name for op, name in WAITING.items() if f"ops.{op}(" in text]
    asker = waits(build, checkpoint)
    if expected:
        # The table of a rope is made before the first layer.
        assert asker == f"{expected[-1]} (reference.py)"
    else:
        assert asker is None
