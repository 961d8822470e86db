"""A process of the gloo tests: rank RANK of the largest world answers every job.

Arguments: a file of jobs, a folder for answers. Each job is a build for some number of
ranks and its checkpoint; the first so many processes form a group and run it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from support import builds, ranked


def main() -> None:
    torch.set_num_threads(1)
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    for number, job in enumerate(jobs):
        if rank >= job["ranks"]:
            continue
        dist.init_process_group(
            "gloo",
            init_method=f"file://{out}/meeting-{number}",
            rank=rank,
            world_size=job["ranks"],
        )
        made = _answer(job, rank)
        torch.save(made, out / f"{job['name']}-{rank}.pt")
        dist.destroy_process_group()


def _answer(job: dict[str, Any], rank: int) -> dict[str, object]:
    """Return the answers of a build, or the sentence in which it refuses."""
    other = rank and "other" in job
    module = builds.import_build(Path(job["other"] if other else job["build"]))
    try:
        model = module.load(job["checkpoint"], dtype="float32")
        if rank and "dies" in job:
            os._exit(0)
        if "saves" in job:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.25)
            module.save(model, job["saves"])
        return ranked.answers(model) | {"saved": job.get("saves")}
    except ValueError as error:
        return {"refused": str(error), "kind": getattr(error, "kind", "other")}
    finally:
        importlib.import_module(f"{module.__name__}.ranks").leave()


if __name__ == "__main__":
    main()
