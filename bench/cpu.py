"""Decode and prompts on a CPU: builds beside llama.cpp, OpenVINO and transformers.

Each runs in a process of its own, and they take turns within a row, so that what else
a machine does falls on all; a streaming read is timed before and after. Rows that the
file of results has already are passed over: a run may be cut into windows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from checkpoints import HYBRID, MIXTURE, llama, write, write_random
from cpu_codes import write_codes

SHAPES = {
    "0.9b": llama(16, 2048, 5632, 32, 8),
    "0.9b-kv2": llama(16, 2048, 5632, 32, 2),
    "mixture": MIXTURE,
    "hybrid": HYBRID,
}
HERE = Path(__file__).parent
GGUF = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
# What is timed: tokens a call, rows, tokens before, calls a turn, turns.
SCENES = {
    "decode": (1, 1, 16, 6, 6),
    "after 2k": (1, 1, 2048, 6, 4),
    "batch 8": (1, 8, 16, 4, 4),
    "prompt 128": (128, 1, 0, 1, 4),
    "prompt 1024": (1024, 1, 0, 1, 2),
}
START = "cold start"
STARTS = 3


@dataclass
class Peer:
    """A process that computes when it is asked."""

    name: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)

    def ask(self, **asked: Any) -> Any:
        """Send a request and wait for the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """Read a line; none means that the process has ended."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended without an answer")
        return json.loads(line)


def started(name: str, python: str, path: Path, threads: int, *more: str) -> Peer:
    """Start a peer."""
    command = [python, str(HERE / "cpu_peers.py"), name.partition(" ")[0], str(path)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, "--threads", str(threads), *more],
        stdin=pipe,
        stdout=pipe,
        text=True,
        env=environment,
    )
    return Peer(name, process)


def peers(options: argparse.Namespace, kind: str) -> Iterator[Peer]:
    """Start those that compute with weights of a kind."""
    for name, python, path, *more in known(options, kind):
        yield started(name, python, path, options.threads, *more)


def known(options: argparse.Namespace, kind: str) -> Iterator[tuple[Any, ...]]:
    """Yield name, Python, weights and options of those that can compute here."""
    work = options.work / options.shape
    own = work if kind == "bf16" else work / kind
    yield "glmc", sys.executable, own
    file = work / f"{GGUF[kind]}.gguf"
    if options.llama and file.is_file():
        yield "llama.cpp", options.llama, file
        yield "llama.cpp flash", options.llama, file, "--flash"
    if options.openvino and (work / f"openvino-{kind}").is_dir():
        yield "OpenVINO", options.openvino, work / f"openvino-{kind}"
    if kind == "bf16":
        yield "transformers", sys.executable, work
        if options.compiled:
            yield "transformers compiled", sys.executable, work, "--compiled"


def prepare(options: argparse.Namespace) -> None:
    """Make checkpoints, builds and GGUF files that are not there yet."""
    config, work = SHAPES[options.shape], options.work / options.shape
    work.mkdir(parents=True, exist_ok=True)
    dense = config["model_type"] == "llama"
    for kind in ("bf16", "int8", "int4") if dense else ("bf16",):
        folder = work if kind == "bf16" else work / kind
        checkpoint = folder / "checkpoint"
        if not checkpoint.is_dir():
            if not dense:
                write_random(checkpoint, config)
            elif kind == "bf16":
                write(checkpoint, config, kind="safetensors", dtype=torch.bfloat16)
            else:
                write_codes(work / "checkpoint", checkpoint, int(kind[3:]), 32)
        if not (folder / "build").is_dir():
            command = ["compile", str(checkpoint), "-o", str(folder / "build")]
            arguments = [sys.executable, "-m", "glmc", *command, "--target", "cpu"]
            subprocess.run(arguments, check=True)
        command = ["pack", str(folder / "build"), "--weights", str(checkpoint)]
        arguments = [sys.executable, "-m", "glmc", *command, "--dtype", "bfloat16"]
        subprocess.run(arguments, check=True)
    if dense and options.llama and not (work / "q4_0.gguf").is_file():
        script = [str(HERE / "cpu_gguf.py"), str(work / "checkpoint"), str(work)]
        subprocess.run([options.llama, *script], check=True)


def read() -> float:
    """Return the GB/s of a streaming read: the best of some."""
    data = torch.ones(512 << 20, dtype=torch.uint8).view(torch.int64)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - began)
    return data.nbytes / best / 1e9


def measure(scene: str, some: list[Peer]) -> dict[str, Any]:
    """Let peers take turns; rates are of median calls."""
    tokens, rows, past, count, turns = SCENES[scene]
    before = read()
    for peer in some:
        peer.seconds.clear()
        peer.ask(begin=True, past=past, rows=rows, tokens=tokens, count=1)
    for turn in range(turns):
        for peer in some:
            done = 1 + turn * count
            asked = {"past": past, "rows": rows, "tokens": tokens}
            peer.seconds += peer.ask(**asked, count=count, done=done)
    rates = {
        peer.name: tokens * rows / statistics.median(peer.seconds) for peer in some
    }
    return {"read before": before, "read after": read(), **rates}


def starts(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Start everybody some times, by turns: from the start of the process to the first
    token, and the largest memory beyond what was imported. Medians."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(STARTS):
        for name, python, path, *more in known(options, kind):
            ways = {name: more}
            if name == "glmc":
                ways = {"glmc": ["--packed"], "glmc packing": []}
            for way, given in ways.items():
                peer = started(name, python, path, options.threads, *given)
                found.setdefault(way, []).append(peer.answer())
                peer.process.terminate()
                peer.process.wait()
    return {
        way: {fact: statistics.median(one[fact] for one in some) for fact in some[0]}
        for way, some in found.items()
    }


def kept(file: Path, name: str, found: dict[str, Any]) -> None:
    """Write the results with a new row, and show it."""
    file.write_text(json.dumps(found, indent=2) + "\n")
    print(name, json.dumps(found[name]), flush=True)


def main() -> None:
    """Measure the rows that are asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="kept between runs")
    parser.add_argument("--shape", choices=SHAPES, default="0.9b")
    parser.add_argument("--kinds", nargs="+", choices=GGUF, default=list(GGUF))
    parser.add_argument(
        "--scenes", nargs="+", choices=[*SCENES, START], default=list(SCENES)
    )
    parser.add_argument("--llama", help="a Python that has llama-cpp-python and gguf")
    parser.add_argument("--openvino", help="a Python that has openvino")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    parser.add_argument("--json", type=Path, required=True, help="results, added to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.prepare:
        prepare(options)
        return
    found = json.loads(options.json.read_text()) if options.json.is_file() else {}
    for kind in options.kinds:
        names = {scene: f"{options.shape} {kind} {scene}" for scene in options.scenes}
        if (name := names.pop(START, "")) and name not in found:
            found[name] = starts(options, kind)
            kept(options.json, name, found)
        if all(name in found for name in names.values()):
            continue
        some = list(peers(options, kind))
        for peer in some:
            peer.answer()
        for scene, name in names.items():
            if name not in found:
                found[name] = measure(scene, some)
                kept(options.json, name, found)
        for peer in some:
            peer.process.terminate()


if __name__ == "__main__":
    main()
