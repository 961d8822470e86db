"""Peers of bench/cpu.py, each in a process of its own.

Run by the Python of an environment that has the peer: `llama.cpp` on a GGUF, `OpenVINO`
on an exported model, `transformers` on a checkpoint, `glmc` on a folder with `build`
and `checkpoint`. Reads one request a line, JSON, and answers with the seconds of each
call.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Llama:
    """llama.cpp by its C interface."""

    def __init__(self, path: str, options: argparse.Namespace) -> None:
        import llama_cpp

        threads, flash = options.threads, options.flash

        self.api = api = llama_cpp
        quiet = api.llama_log_callback(lambda *_: None)
        self.quiet = quiet
        api.llama_log_set(quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        given = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(path.encode(), given)
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_seq_max = 4096, 2048, 8
        options.kv_unified = True
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = 1 if flash else 0
        self.context = api.llama_init_from_model(self.model, options)
        self.memory = api.llama_get_memory(self.context)

    def call(self, tokens: int, rows: int, past: int) -> None:
        """Compute the logits of the last of some tokens of each row."""
        api = self.api
        batch = api.llama_batch_init(tokens * rows, 0, 1)
        batch.n_tokens = tokens * rows
        for at in range(tokens * rows):
            row, token = divmod(at, tokens)
            batch.token[at] = 3 + (7 * at) % 1000
            batch.pos[at] = past + token
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = row
            batch.logits[at] = token == tokens - 1
        outcome = api.llama_decode(self.context, batch)
        api.llama_batch_free(batch)
        assert outcome == 0, outcome

    def begin(self) -> None:
        """Forget all tokens."""
        self.api.llama_memory_clear(self.memory, True)


class OpenVino:
    """OpenVINO's own runtime on a model that optimum exported."""

    def __init__(self, path: str, options: argparse.Namespace) -> None:
        import numpy
        import openvino

        self.numpy = numpy
        core = openvino.Core()
        given = {
            "INFERENCE_NUM_THREADS": options.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = core.read_model(Path(path) / "openvino_model.xml")
        self.request = core.compile_model(model, "CPU", given).create_infer_request()
        self.inputs = {name for port in model.inputs for name in port.names}

    def call(self, tokens: int, rows: int, past: int) -> None:
        """Compute the logits of some tokens of each row."""
        np = self.numpy
        given: dict[str, Any] = {
            "input_ids": (np.arange(tokens * rows) * 7 % 1000 + 3).reshape(
                rows, tokens
            ),
            "attention_mask": np.ones((rows, past + tokens), np.int64),
            "position_ids": np.tile(np.arange(past, past + tokens), (rows, 1)),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        self.request.infer({k: v for k, v in given.items() if k in self.inputs})

    def begin(self) -> None:
        """Forget all tokens."""
        self.request.reset_state()


class Torch:
    """A model of torch, with a cache of its own."""

    def __init__(self, model: Any, threads: int) -> None:
        import torch

        self.torch, self.model = torch, model
        torch.set_num_threads(threads)
        self.cache: Any = None

    def call(self, tokens: int, rows: int, past: int) -> None:
        """Compute the logits of the last of some tokens of each row."""
        ids = self.torch.arange(tokens * rows).reshape(rows, tokens) * 7 % 1000 + 3
        given = {"past_key_values": self.cache, "use_cache": True, "logits_to_keep": 1}
        with self.torch.inference_mode():
            self.cache = self.model(input_ids=ids, **given).past_key_values

    def begin(self) -> None:
        """Forget all tokens."""
        self.cache = None


class Compiled(Torch):
    """A model of transformers that torch compiles, with a cache of a fixed size."""

    def __init__(self, model: Any, threads: int) -> None:
        super().__init__(model, threads)
        self.run = self.torch.compile(model, dynamic=False)

    def call(self, tokens: int, rows: int, past: int) -> None:
        """Compute the logits of the last of some tokens of each row."""
        import transformers

        torch = self.torch
        if self.cache is None:
            size = past + tokens + 64
            self.cache = transformers.StaticCache(self.model.config, size)
        ids = torch.arange(tokens * rows).reshape(rows, tokens) * 7 % 1000 + 3
        at = torch.arange(past, past + tokens).expand(rows, -1)
        given = {"past_key_values": self.cache, "use_cache": True, "logits_to_keep": 1}
        with torch.inference_mode():
            self.run(input_ids=ids, position_ids=at, **given)


def of_a_build(path: str, options: argparse.Namespace) -> Torch:
    """Load a build in bf16."""
    sys.path.insert(0, path)
    import build  # and with it torch, before memory is looked at

    marked()
    given = {"pack_cache": True} if options.packed else {}
    model = build.load(Path(path) / "checkpoint", dtype="bfloat16", **given)
    return Torch(model, options.threads)


def of_transformers(path: str, options: argparse.Namespace) -> Torch:
    """Load a checkpoint with transformers, its attention torch's own."""
    import transformers

    kind = transformers.AutoModelForCausalLM
    marked()
    given = {"dtype": "bfloat16", "attn_implementation": "sdpa"}
    model = kind.from_pretrained(Path(path) / "checkpoint", **given).eval()
    made = Compiled if options.compiled else Torch
    return made(model, options.threads)


IMPORTED: list[int] = []


def marked() -> None:
    """Note what memory there is before weights are read."""
    IMPORTED.append(memory("VmRSS"))


def memory(name: str) -> int:
    """Return bytes of this process, as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def age() -> float:
    """Return the seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")


PEERS: dict[str, Callable[[str, argparse.Namespace], Any]] = {
    "llama.cpp": Llama,
    "OpenVINO": OpenVino,
    "glmc": of_a_build,
    "transformers": of_transformers,
}


def main() -> None:
    """Answer requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", action="store_true")
    parser.add_argument("--packed", action="store_true", help="map packed weights")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    peer = PEERS[options.peer](options.path, options)
    peer.call(1, 1, 0)
    peak = memory("VmHWM") - (IMPORTED or [0])[0]
    facts = {"first token s": age(), "peak": peak, "own": memory("RssAnon")}
    peer.begin()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(peer, json.loads(line))), flush=True)


def serve(peer: Any, asked: dict[str, int]) -> list[float]:
    """Time `count` calls of `tokens` tokens after `past` others."""
    if asked.get("begin"):
        peer.begin()
        for past in range(0, asked["past"], 256):
            peer.call(min(256, asked["past"] - past), asked["rows"], past)
    seconds, past = [], asked["past"] + asked.get("done", 0)
    for _ in range(asked["count"]):
        if asked["tokens"] > 1:
            peer.begin()
            past = 0
        started = time.perf_counter()
        peer.call(asked["tokens"], asked["rows"], past)
        seconds.append(time.perf_counter() - started)
        past += asked["tokens"]
    return seconds


if __name__ == "__main__":
    main()
