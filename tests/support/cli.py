"""The command line as a user meets it: a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from support import ROOT

Run = subprocess.CompletedProcess[str]

TIMEOUT = 120
"""Seconds that a command may take."""

PRELOADED = [
    "torch",
    "glmc.command.cli",
    "glmc.compile.driver",
    "glmc.backends.triton.registry",
]
"""The modules imported once for all commands. Nothing that reads the environment when
it is imported: triton and huggingface_hub do."""


def glmc(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Run:
    """Run `glmc ARGUMENTS` in a process of its own.

    It is forked from one that has imported what most commands import, which is most of
    what a command takes. With an environment of its own it is a new interpreter.
    """
    words = [str(argument) for argument in arguments]
    if env:
        return _run([sys.executable, "-m", "glmc", *words], cwd or ROOT, env)
    with tempfile.TemporaryDirectory(prefix="glmc-run-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        given = (words, str(cwd or ROOT), _environment({}), str(out), str(err))
        child = _forks().Process(target=_command, args=given)
        child.start()
        child.join(TIMEOUT)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise subprocess.TimeoutExpired(["glmc", *words], TIMEOUT)
        told = [file.read_text() if file.exists() else "" for file in (out, err)]
        return Run(["glmc", *words], child.exitcode, *told)


@cache
def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _command(
    words: list[str], cwd: str, environment: dict[str, str], out: str, err: str
) -> None:
    """Be the command: its streams, its folder, its environment, its exit code."""
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["glmc", *words]
    from glmc.command.cli import main

    sys.exit(main())


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
        env=_environment(env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", **more}
