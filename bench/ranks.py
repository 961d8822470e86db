"""Bytes that a rank reads and holds of a checkpoint, as parts of the whole.

Each rank is measured alone in a fresh process, with the files out of the page cache.
`holds` are its parameters, `copies` what it takes of the tensors, `touches` the pages
of the files that are in the cache afterwards: where columns are cut, a page holds parts
of several ranks, and the shorter a row is, the more so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from checkpoints import llama, write
from load import sized
from report import Row, show

LOAD = """
import ctypes, importlib, json, mmap, os, pathlib, sys
folder, checkpoint, number, count, stages = sys.argv[1:]
number, count, stages = int(number), int(count), int(stages)
sys.path.insert(0, folder)
import build, torch
from build import checkpoint as reading
from build.ranks import Ranks

class Alone(Ranks):
    def told(self, value):
        return [value] * (self.count * self.stages)

copied = 0
def spend(self, read, known=reading.Checkpoint.spend):
    global copied
    copied += read
    known(self, read)
reading.Checkpoint.spend = spend

files = sorted(pathlib.Path(checkpoint).glob("*.safetensors"))
for file in files:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def cached(file):
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    told = (ctypes.c_ubyte * pages)()
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE)
        at = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(at)), ctypes.c_size_t(size), told
        )
        del at
        mapped.close()
    assert not failed
    return sum(one & 1 for one in told) * mmap.PAGESIZE

before = sum(map(cached, files))
ranks = Alone(number % count, count, number // count, stages)
model = build.load(checkpoint, device="cpu", ranks=ranks)
held = sum(p.nbytes for p in model.parameters())
after = sum(map(cached, files))
print(json.dumps({"held": held, "copied": copied, "touched": after - before}))
"""


def measure(folder: Path, checkpoint: Path, whole: int, *where: int) -> Row:
    """Load one rank in a fresh process."""
    arguments = [str(folder), str(checkpoint), *map(str, where)]
    command = [sys.executable, "-c", LOAD, *arguments]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(told)
    number, count, stages = where
    return {
        "tensor": count,
        "pipeline": stages,
        "rank": number,
        "holds x": found["held"] / whole,
        "copies x": found["copied"] / whole,
        "touches x": found["touched"] / whole,
    }


def wide(gigabytes: float) -> dict[str, int]:
    """A Llama with the layers of one of 8B parameters, as many as take about that
    much, at least two."""
    config: dict[str, int] = llama(1, 4096, 14336, 32, 8)
    one_layer = 2 * (4096 * 4096 * 2 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    ends = 2 * 2 * 32000 * 4096
    config["num_hidden_layers"] = max(2, round((gigabytes * 1e9 - ends) / one_layer))
    return config


def main() -> None:
    """Write a checkpoint, compile for several numbers of ranks, load each rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--wide", action="store_true", help="layers as of 8B")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Two heads of keys: with four ranks, each is held by two.
    made = wide if options.wide else sized
    config = made(options.gigabytes) | {"num_key_value_heads": 2}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "checkpoint"
        write(checkpoint, config, kind="safetensors", dtype=torch.bfloat16)
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
        whole = index["metadata"]["total_size"]
        for count, stages in ((2, 1), (4, 1), (1, 2), (2, 2)):
            folder = Path(name) / f"{count}-{stages}"
            command = ["compile", str(checkpoint), "-o", str(folder / "build")]
            command += ["--tensor-parallel", str(count)]
            command += ["--pipeline-parallel", str(stages)]
            subprocess.run([sys.executable, "-m", "glmc", *command], check=True)
            for number in range(count * stages):
                rows.append(measure(folder, checkpoint, whole, number, count, stages))
    show(rows, options.json)


if __name__ == "__main__":
    main()
