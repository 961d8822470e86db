"""Run builds in vLLM and compare them with themselves: `python worker.py JOBS`.

Each job is forked after vLLM was imported, and writes a file beside JOBS: the class
that ran, how many of four prompts were continued alike, the largest difference of the
log-probabilities of the top five, how many tokens of each prompt were cached.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import vllm
from torch._dynamo.utils import counters
from vllm.compilation.counter import compilation_counter
from vllm.plugins import load_general_plugins

NEW = 16


def prompts(vocab: int) -> list[list[int]]:
    """Four prompts: two of over 180 tokens that begin with the same 140, two short."""
    generator = torch.Generator().manual_seed(3)

    def drawn(count: int) -> list[int]:
        return torch.randint(3, vocab, (count,), generator=generator).tolist()

    shared = drawn(140)
    return [shared + drawn(41), shared + drawn(43), drawn(5), drawn(23)]


def registered(job: dict[str, Any]) -> None:
    """Register the class itself: of a name, vLLM inspects it in another process, which
    imports all again. One job of a run leaves it at the name."""
    load_general_plugins()
    if not job.get("by_name"):
        module = importlib.import_module(f"{job['package']}.vllm_model")
        made = getattr(module, job["architecture"])
        vllm.ModelRegistry.register_model(job["architecture"], made)


def module_of(model: Any) -> str:
    """The module of a model's class; by name, so that other processes find it."""
    return type(model).__module__


def mistaken(model: Any) -> str:
    """Plant a mistake: positions beyond 60 are one too large."""
    run = model.forward
    model.forward = lambda input_ids, positions, *rest, **more: run(
        input_ids, positions + (positions > 60), *rest, **more
    )
    return "planted"


def by_itself(job: dict[str, Any]) -> Any:
    """Import the build that says what is right: the one that vLLM runs, or one of a
    single rank."""
    if "alone" not in job:
        return importlib.import_module(job["package"])
    folder = Path(job["alone"])
    sys.path.insert(0, str(folder.parent))
    return importlib.import_module(folder.name)


def answered(job: dict[str, Any]) -> dict[str, Any]:
    """Generate in vLLM, and by the build itself; compare."""
    registered(job)
    options = {
        "dtype": "float32",
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 48,
        "enforce_eager": not job.get("compiled"),
        "skip_tokenizer_init": True,
        "seed": 0,
    }
    engine = vllm.LLM(job["checkpoint"], **options | job["engine"])
    ran = engine.apply_model(module_of)
    if job.get("mistake"):
        engine.apply_model(mistaken)
    build = by_itself(job)
    rows = prompts(build.Model.vocab_size)
    sampling = vllm.SamplingParams(
        temperature=0, max_tokens=NEW, logprobs=5, ignore_eos=True, detokenize=False
    )
    given = [{"prompt_token_ids": row} for row in rows]
    outputs = engine.generate(given, sampling, use_tqdm=False)
    model = build.load(job["checkpoint"], dtype="float32")
    same, worst = 0, 0.0
    for row, output in zip(rows, outputs, strict=True):
        new = list(output.outputs[0].token_ids)
        wanted = model.generate(
            torch.tensor([row]), max_new_tokens=NEW, eos_token_id=()
        )
        same += new == wanted[0, len(row) :].tolist()
        logits = model(torch.tensor([row + new])).logits[0, len(row) - 1 : -1]
        expected = logits.float().log_softmax(-1)
        for step, top in enumerate(output.outputs[0].logprobs):
            for token, found in top.items():
                worst = max(worst, abs(found.logprob - float(expected[step, token])))
    return {
        "ran": ran,
        "same": same,
        "worst": worst,
        "cached": [output.num_cached_tokens for output in outputs],
        "compiled": compilation_counter.num_models_seen,
        "breaks": dict(counters["graph_break"]),
    }


def refusal(job: dict[str, Any]) -> dict[str, Any]:
    """Say with which sentence vLLM does not begin."""
    registered(job)
    try:
        options = {"max_model_len": 256, "skip_tokenizer_init": True}
        options["enforce_eager"] = True
        vllm.LLM(job["checkpoint"], **options | job["engine"])
    except Exception as error:
        return {"refused": str(error)}
    return {"refused": None}


def main(jobs: Path) -> None:
    """Run every job in a process of its own, one after the other."""
    for job in json.loads(jobs.read_text()):
        child = os.fork()
        if child == 0:
            try:
                found = (refusal if job.get("refused") else answered)(job)
            except BaseException:
                found = {"error": traceback.format_exc()}
            jobs.with_name(f"{job['name']}.json").write_text(json.dumps(found))
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
