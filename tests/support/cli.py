"""The command line as a user meets it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import ROOT

Run = subprocess.CompletedProcess[str]


def glmc(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Run:
    """Run `python -m glmc ARGUMENTS`."""
    command = [sys.executable, "-m", "glmc", *map(str, arguments)]
    return _run(command, cwd or ROOT, env)


def python(script: str, *arguments: str | Path, cwd: Path, **env: str) -> Run:
    """Run a script in an isolated interpreter: no PYTHONPATH, no current folder."""
    command = [sys.executable, "-I", "-c", script, *map(str, arguments)]
    return _run(command, cwd, env)


def refused(run: Run) -> str:
    """The one paragraph of a refusal; fails unless it is one, with exit code 2."""
    assert run.returncode == 2, f"exit code {run.returncode}\n{run.stderr}"
    assert "Traceback" not in run.stderr + run.stdout
    message = run.stderr.strip()
    assert message, "a refusal says why"
    assert "\n\n" not in message, f"one paragraph, not several:\n{message}"
    return message


def _run(command: list[str], cwd: Path, env: dict[str, str]) -> Run:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
