"""Read a text in a process of its own, with limits of memory, time and files.

The tables of the reader are the first wall; this is the second. The child gets a job as
JSON, and gives numbers as a golden file (see docs/verify.md) or an error of glmc's.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glmc.frontends.code.limits import GIB, Limits
from glmc.frontends.code.text import Text
from glmc.ir.errors import TextBudgetError, catalogue

_SECONDS = 300
_PER_SECOND = 5_000_000
"""Weights that are read, cast and multiplied in a second, at the least."""
BEYOND = 13
"""Tokens by which a long prompt is longer than the longest trained length."""


@dataclass(frozen=True)
class Job:
    """The job of the child process."""

    text: Text
    configs: Sequence[dict[str, Any]]
    weights: str = ""
    """A folder; a survey needs none."""
    numbers: Sequence[int] = ()
    """The number of each layer of the build in the checkpoint."""
    vocab: int = 0
    prompt: Sequence[int] = ()
    kind: str = "verify"
    """``verify``, or for a reading ``survey`` and ``stages``."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Stage to the modules that are silent in it."""
    longest: int = 0
    """Tokens of a long prompt."""
    lengths: Sequence[int] = ()
    """For each config of a survey, tokens of a long prompt; 0: none."""
    limits: Limits = field(default_factory=Limits)
    seconds: int = _SECONDS
    """Processor time of the child."""
    memory: int = 5 * GIB
    """Bytes that the child may map beyond what it has when it begins."""

    def sized(self, parameters: int) -> "Job":
        """Return the same job with memory for a model of so many weights."""
        plain = self.limits
        limits = replace(
            plain,
            work=plain.work + 2000 * parameters,
            live=plain.live + 12 * parameters,
        )
        return replace(
            self,
            limits=limits,
            seconds=self.seconds + parameters // _PER_SECOND,
            memory=self.memory + 12 * parameters,
        )

    def write(self) -> str:
        """Write the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, given: str) -> "Job":
        """Parse a job from JSON."""
        found = json.loads(given)
        found["text"] = Text(**found["text"])
        found["limits"] = Limits(**found["limits"])
        return cls(**found)


def run(job: Job, out: Path) -> dict[str, Any]:
    """Have the child answer the scenarios into ``out``; return what it noted.

    Raises:
        GlmcError: the child's own, or that it ran over its time or its memory.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
        given.write(job.write())
        given.seek(0)
        done = subprocess.run(
            [sys.executable, "-m", "glmc.prove.texts.child", str(out)],
            stdin=given,
            capture_output=True,
            text=True,
            check=False,
        )
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        told = json.loads(last)
    except ValueError:
        raise _ended(job, done) from None
    if "code" in told:
        raise catalogue()[told["code"]](told["message"])
    found: dict[str, Any] = told
    return found


def _ended(job: Job, done: subprocess.CompletedProcess[str]) -> Exception:
    """Return the error for a child that answered nothing: it was stopped, or has a bug
    of ours."""
    if done.returncode < 0 or "MemoryError" in done.stderr:
        return TextBudgetError(
            f"{job.text.given}: reading it took more than {job.seconds} seconds of "
            "processor time or more memory than its weights account for."
        )
    return RuntimeError(f"the reader's child ended with:\n{done.stderr[-2000:]}")
