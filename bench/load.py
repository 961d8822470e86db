"""Peak memory of `build.load` over the size of the weights, in a fresh process."""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import torch
from checkpoints import llama, write
from report import Row, show

# Announces itself on stdout before and after the load; the parent reads /proc.
LOAD = """
import sys
folder, checkpoint, dtype = sys.argv[1:]
sys.path.insert(0, folder)
import build, torch
torch.ones(2) @ torch.ones(2)
print("ready", flush=True); sys.stdin.readline()
model = build.load(checkpoint, device="cpu", dtype=dtype)
print("loaded", flush=True); sys.stdin.readline()
total = sum({p.data_ptr(): p.nbytes for p in model.parameters()}.values())
print(total, flush=True)
"""
FIELDS = ("RssAnon", "RssFile", "VmRSS", "VmHWM")


def memory(process: int) -> dict[str, int]:
    """The figures of /proc/PID/status, in bytes."""
    text = Path(f"/proc/{process}/status").read_text()
    pairs = (line.split(":", 1) for line in text.splitlines())
    return {k: int(v.split()[0]) * 1024 for k, v in pairs if k in FIELDS}


def watch(process: int, speech: IO[str]) -> int:
    """The largest anonymous memory until the process speaks; sampled each 2 ms."""
    peak = 0
    while not select.select([speech], [], [], 0.002)[0]:
        peak = max(peak, memory(process)["RssAnon"])
    return peak


def measure(folder: Path, checkpoint: Path, dtype: str) -> Row:
    """Load once in a fresh process."""
    command = [sys.executable, "-c", LOAD, str(folder), str(checkpoint), dtype]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise SystemExit("the build could not be imported; see above")
        before = memory(child.pid)
        started = time.perf_counter()
        child.stdin.write("go\n")
        child.stdin.flush()
        anonymous = watch(child.pid, child.stdout)
        if child.stdout.readline() != "loaded\n":
            raise SystemExit("the checkpoint could not be loaded; see above")
        seconds = time.perf_counter() - started
        after = memory(child.pid)
        child.stdin.write("end\n")
        child.stdin.flush()
        size = int(child.stdout.readline())
    return {
        "weights MB": size / 1e6,
        "seconds": seconds,
        "anonymous x": (max(anonymous, after["RssAnon"]) - before["RssAnon"]) / size,
        "resident x": (after["VmHWM"] - before["VmRSS"]) / size,
    }


def sized(gigabytes: float) -> dict[str, int]:
    """A Llama whose bf16 weights take about that much."""
    config: dict[str, int] = llama(4, 2048, 5632, 32, 8)
    one_layer = 2 * (2048 * 2048 * 2 + 2 * 512 * 2048 + 3 * 2048 * 5632)
    ends = 2 * 2 * 32000 * 2048
    config["num_hidden_layers"] = max(1, round((gigabytes * 1e9 - ends) / one_layer))
    return config


def main() -> None:
    """Write the checkpoint in both formats and load each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--dtype", default="bfloat16", help="what to load as")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = sized(options.gigabytes)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        compile_command = ["compile", str(folder), "-o", str(folder / "build")]
        subprocess.run([sys.executable, "-m", "glmc", *compile_command], check=True)
        for kind in ("safetensors", "bin"):
            checkpoint = folder / kind
            write(checkpoint, config, kind=kind, dtype=torch.bfloat16)
            row = measure(folder, checkpoint, options.dtype)
            rows.append({"format": kind, "as": options.dtype, **row})
    show(rows, options.json)


if __name__ == "__main__":
    main()
