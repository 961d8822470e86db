"""Tokens a second inside vLLM: a build beside vLLM's own class of the same model.

    python bench/vllm_speed.py [--dtype bfloat16] [--rounds 5] [--eager]

Two processes, one with the plugin and one without, read the same random checkpoint and
generate by turns, batch 1 and batch 8; the ratio is that of the medians. vLLM's Python
is named by GLMC_VLLM, by default the one of `make test-vllm`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("GLMC_VLLM", str(ROOT / ".venv-vllm/bin/python"))
BATCHES = (1, 8)
PROMPT, NEW = 64, 48
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 16000,
    "max_position_embeddings": 1024,
}
#: What each process runs: a line with a batch comes in, seconds go out.
WORKER = f"""
import json, sys, time
import vllm
checkpoint, dtype, eager = sys.argv[1:]
engine = vllm.LLM(checkpoint, dtype=dtype, max_model_len=512, seed=0,
    enforce_eager=eager == "True", skip_tokenizer_init=True,
    enable_prefix_caching=False)
(ran,) = engine.apply_model(lambda model: type(model).__module__)
sampling = vllm.SamplingParams(temperature=0, max_tokens={NEW}, ignore_eos=True,
    detokenize=False)
def turn(batch):
    rows = [[(7 * at + 11 * row) % 15000 + 3 for at in range({PROMPT})]
            for row in range(batch)]
    began = time.perf_counter()
    engine.generate([{{"prompt_token_ids": row}} for row in rows], sampling,
        use_tqdm=False)
    return time.perf_counter() - began
print(json.dumps(ran), flush=True)
for line in sys.stdin:
    print(json.dumps(turn(int(line))), flush=True)
"""


class Engine:
    """vLLM in a process, with the plugin of a build or without any."""

    def __init__(
        self, site: Path, checkpoint: Path, asked: argparse.Namespace, *, plugin: bool
    ):
        environment = {
            **os.environ,
            "PYTHONPATH": str(site),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CACHE_ROOT": str(site / "cache"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        }
        if not plugin:
            environment["VLLM_PLUGINS"] = ""
        words = [checkpoint, asked.dtype, asked.eager]
        self.process = subprocess.Popen(
            [PYTHON, "-c", WORKER, *map(str, words)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if asked.verbose else subprocess.DEVNULL,
            text=True,
        )
        self.ran = str(self._read())

    def _read(self) -> object:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                return json.loads(line)
            except ValueError:
                continue  # what vLLM prints
        raise SystemExit(f"vLLM ended with {self.process.wait()}; see --verbose")

    def turn(self, batch: int) -> float:
        """Generate for so many rows; return seconds."""
        assert self.process.stdin is not None
        print(batch, file=self.process.stdin, flush=True)
        found = self._read()
        assert isinstance(found, float)
        return found

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def made(folder: Path) -> tuple[Path, Path]:
    """Write a random Llama; install its build. Return its folder and the packages."""
    import torch
    import transformers

    from glmc import compile_model

    checkpoint, site = folder / "llama", folder / "site"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(checkpoint)
    build = compile_model(checkpoint, folder / "build", engine="vllm")
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(build)]
    subprocess.run([PYTHON, *pip], check=True)
    return checkpoint, site


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--verbose", action="store_true", help="show vLLM's log")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glmc-vllm-") as folder:
        checkpoint, site = made(Path(folder))
        engines = {
            "build": Engine(site, checkpoint, asked, plugin=True),
            "own": Engine(site, checkpoint, asked, plugin=False),
        }
        assert engines["build"].ran.startswith("glmc_"), engines["build"].ran
        assert engines["own"].ran.startswith("vllm."), engines["own"].ran
        for batch in BATCHES:
            seconds: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(asked.rounds + 1):  # the first is for what is lazy
                for name, engine in engines.items():
                    seconds[name].append(engine.turn(batch))
            rates = {
                name: batch * NEW / statistics.median(taken[1:])
                for name, taken in seconds.items()
            }
            told = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
            ratio = rates["build"] / rates["own"]
            print(f"batch {batch}: {told} tokens/s; {ratio:.2f}x", flush=True)
        for engine in engines.values():
            engine.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
