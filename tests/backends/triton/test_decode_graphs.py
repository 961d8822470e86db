"""Emitted models decode by replays: their kernels take nothing from the host."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import GOLDEN, builds
from support.kernels import interpreter, kernels_of
from support.tape import Tapes
from support.variants import BY_NAME, Tiny, Variant

NEW = 4
IDS = torch.arange(12).reshape(2, 6) * 5 % 60
MASK = torch.ones_like(IDS)
MASK[1, :2] = 0

REPLAYED = "one graph replay a token (2 rows, 1024 slots)"
# What is decoded eagerly, and why.
PATHS = {
    "llama-dynamic": "eager: rope_table_dynamic (reference.py) waits for a value of",
    "glm_moe_dsa-selects": "eager: token_write (reference.py) reads on the host",
}
SLOW = [
    *PATHS,
    "bloom-alibi",
    "gemma2-capped",
    "glm4_moe-air",
    "llama-longrope",
    "llama4_text-chunks",
    "qwen3-window",
]


def check(folder: Path, checkpoint: Path, mask: torch.Tensor | None, path: str) -> None:
    """The kernels' tokens, step by step in replays, are the reference's."""
    build = builds.import_build(folder)
    model = build.load(checkpoint, device="cpu", dtype="float32")
    options = {"max_new_tokens": NEW, "eos_token_id": ()}
    want = model.generate(IDS, mask, **options)
    tapes = Tapes()
    decoder = importlib.import_module(f"{build.__name__}.decoder")
    model._decoder = decoder.Decoder(lambda _: tapes)
    with interpreter():
        model.ops = kernels_of(build.__name__)
        got = model.generate(IDS, mask, **options)
    assert model.decode_path.startswith(path)
    assert tapes.replays == (NEW - 1 if path == REPLAYED else 0)
    assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True], ids=str)
def test_chatglm3(compiled: Callable[[Path], Path], padded: bool) -> None:
    folder = GOLDEN / "chatglm3"
    check(compiled(folder), folder, MASK if padded else None, REPLAYED)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_families(
    tiny: Callable[[Variant], Tiny], compiled: Callable[[Path], Path], name: str
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    check(compiled(checkpoint), checkpoint, MASK, PATHS.get(name, REPLAYED))
