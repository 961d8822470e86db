"""Decode rate of a build beside transformers eager: same weights, same process."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from checkpoints import llama, write
from report import Row, show

SHAPES = {
    "0.5b": llama(16, 1536, 4096, 24, 8),
    "0.9b": llama(16, 2048, 5632, 32, 8),
    "tiny": llama(2, 256, 512, 8, 2),
}
WARM_UP = 2


class Decoder:
    """A model in the middle of decoding; each turn goes on from the last.

    The ids are given, not chosen, so that both models compute on the same ones.
    """

    def __init__(self, model: Any, ids: torch.Tensor, prompt: int) -> None:
        self.model, self.ids = model, ids
        self.seconds: list[float] = []
        self.logits, self.cache = self._feed(0, prompt, None)
        self.at = prompt

    def _feed(self, start: int, stop: int, cache: Any) -> tuple[torch.Tensor, Any]:
        with torch.inference_mode():
            ids = self.ids[:, start:stop]
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return out.logits[0, -1].float(), out.past_key_values

    def turn(self, tokens: int) -> None:
        """Decode some tokens, timing each."""
        for _ in range(tokens):
            started = time.perf_counter()
            self.logits, self.cache = self._feed(self.at, self.at + 1, self.cache)
            self.seconds.append(time.perf_counter() - started)
            self.at += 1


def measure(
    folder: Path, checkpoint: Path, dtype: torch.dtype, options: argparse.Namespace
) -> Row:
    """Both models take turns; rates are of median tokens."""
    sys.path.insert(0, str(folder))
    build = importlib.import_module("build")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=dtype, attn_implementation=options.attention
    ).eval()
    ours = build.load(str(checkpoint), device="cpu", dtype=str(dtype).split(".")[1])
    length = options.prompt + WARM_UP + options.rounds * options.tokens
    ids = torch.randint(3, 1000, (1, length))
    pair = [Decoder(model, ids, options.prompt) for model in (ours, theirs)]
    for decoder in pair:
        decoder.turn(WARM_UP)
        decoder.seconds.clear()
    for _ in range(options.rounds):
        for decoder in pair:
            decoder.turn(options.tokens)
    mine, other = (statistics.median(d.seconds) for d in pair)
    difference = (pair[0].logits - pair[1].logits).abs().max() / pair[1].logits.std()
    return {
        "shape": options.shape,
        "dtype": str(dtype).split(".")[1],
        "glmc tok/s": 1 / mine,
        f"hf {options.attention} tok/s": 1 / other,
        "ratio": other / mine,
        "logits differ by": float(difference),
    }


def main() -> None:
    """Measure one shape in bf16 and fp32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4, help="tokens a turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, rows = SHAPES[options.shape], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        compile_command = ["compile", str(folder), "-o", str(folder / "build")]
        subprocess.run([sys.executable, "-m", "glmc", *compile_command], check=True)
        checkpoint = folder / "checkpoint"
        write(checkpoint, config, kind="safetensors", dtype=torch.bfloat16)
        for dtype in (torch.bfloat16, torch.float32):
            rows.append(measure(folder, checkpoint, dtype, options))
            gc.collect()
    show(rows, options.json)


if __name__ == "__main__":
    main()
