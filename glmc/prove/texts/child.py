"""Read a text in a process: ``python -m glmc.prove.texts.child OUT < JOB``."""

import ctypes
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from glmc.backends.runtime.checkpoint import Checkpoint
from glmc.backends.runtime.faults import WeightsError
from glmc.frontends.code.library import Library
from glmc.frontends.code.room import roomy
from glmc.ir.errors import GlmcError, WeightsUnusableError
from glmc.prove.comparing import Scenario, scenarios
from glmc.prove.references import golden_tensors
from glmc.prove.texts.answers import answers, maker
from glmc.prove.texts.job import Job
from glmc.prove.texts.surveys import staged, survey

_NEW_NETWORK = 0x40000000
_NEW_USER = 0x10000000


def main() -> int:
    """Answer the job on the standard input; a line of JSON says how it went."""
    job = Job.read(sys.stdin.read())
    with Path(sys.argv[1]).open("wb") as out:
        try:
            tensors = read_weights(job.weights) if job.weights else {}
            _warm()
            confine(job)
            told = roomy(lambda: respond(job, tensors, out))
        except GlmcError as error:
            told = {"code": error.code, "message": str(error)}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def _warm() -> None:
    """Import and read everything that is loaded at first use, while files can be
    opened."""
    Library({})
    ones = torch.ones(2, 2)
    save({"product": torch.nn.functional.silu(ones @ ones)})


def respond(job: Job, tensors: dict[str, torch.Tensor], out: Any) -> dict[str, Any]:
    """Do a job; numbers go to ``out`` as a golden file."""
    if job.kind != "verify":
        torch.set_num_threads(1)  # small models: threads would only wait for each other
    if job.kind == "survey":
        return {"found": survey(job)}
    if job.kind == "stages":
        kept = list(staged(job, tensors))
    else:
        make = maker(job.text, job.configs[0], tensors, job.limits)
        kept = list(answers(make, job.numbers, _given(job)))
    out.write(save(golden_tensors(kept)))
    return {"scenarios": [one.name for one, _ in kept]}


def _given(job: Job) -> list[Scenario]:
    given = scenarios(job.vocab)
    if job.prompt:
        ids = torch.tensor([list(job.prompt)])
        given = [replace(given[0], ids=ids), given[1]]
    return given


def read_weights(folder: str) -> dict[str, torch.Tensor]:
    """Map the tensors of a folder; they are read where they are used."""
    try:
        checkpoint = Checkpoint(Path(folder))
        return {name: checkpoint.read(name) for name in checkpoint.headers}
    except WeightsError as error:
        raise WeightsUnusableError(str(error)) from None


def confine(job: Job) -> None:
    """Give up what reading a text does not need: files, network, time, memory."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + job.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)
    resource.setrlimit(resource.RLIMIT_CPU, (job.seconds, job.seconds))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


if __name__ == "__main__":
    raise SystemExit(main())
