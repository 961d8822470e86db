"""The whole road on one page: compile a real config, then compile, inspect, check
and run a tiny checkpoint. Needs no download and no GPU; `make demo` calls it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import tiny_chatglm

EXAMPLES = Path(__file__).parent
OUT = EXAMPLES / "out"


def say(text: str) -> None:
    """A line of narration, apart from what glmc itself prints."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def glmc(*arguments: str | Path, lines: int = 0) -> None:
    """Run glmc, showing the command, and at most `lines` lines of its answer."""
    words = [_short(str(a)) for a in arguments]
    print("$ glmc " + shlex.join(words), flush=True)
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "glmc", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    answer = run.stdout.splitlines()
    print("\n".join(answer[:lines] if lines else answer))
    if lines and len(answer) > lines:
        print(f"... and {len(answer) - lines} lines more")
    if run.returncode:
        sys.exit(run.returncode)
    print(f"({time.perf_counter() - started:.1f} s)", flush=True)


def show(file: Path, start: str, lines: int) -> None:
    """Print `lines` lines of an emitted file from the line that begins with `start`."""
    text = file.read_text().splitlines()
    first = next((i for i, line in enumerate(text) if line.startswith(start)), 0)
    print(f"$ sed -n '{first + 1},{first + lines}p' {_short(str(file))}")
    print("\n".join(text[first : first + lines]), flush=True)


def _short(word: str) -> str:
    path = Path(word)
    here = Path.cwd()
    if path.is_absolute() and path.is_relative_to(here):
        return str(path.relative_to(here))
    return word


def main() -> None:
    """The demo, top to bottom."""
    shutil.rmtree(OUT, ignore_errors=True)
    full, tiny, checkpoint = OUT / "chatglm3_6b", OUT / "tiny", OUT / "checkpoint"

    say("1. A 6B model and a 70B model from their config.json alone, no weights needed")
    glmc("compile", EXAMPLES / "configs/chatglm3-6b.json", "-o", full)
    glmc("compile", EXAMPLES / "configs/llama-3.1-70b.json", "-o", OUT / "llama_70b")

    say("2. What came out is a package to read: the decoder layer of ChatGLM3-6B")
    show(full / "model.py", "class Layer", 40)

    say("3. A tiny checkpoint of the same layout, random weights; compile that too")
    tiny_chatglm.write(checkpoint)
    glmc("compile", checkpoint, "-o", tiny)

    say("4. How it got there: the IR stage by stage, and what was fused")
    glmc("inspect", tiny, lines=60)

    say("5. Every tensor accounted for, from the headers alone")
    glmc("check", tiny, "--weights", checkpoint)

    say("6. Run it (the weights are random, so the ids mean nothing)")
    prompt = ("--prompt-ids", "64,179,130", "--max-new-tokens", "16")
    glmc("run", tiny, "--weights", checkpoint, *prompt)

    say(f"Done. The builds lie in {_short(str(OUT))}/: read model.py, edit it, own it.")


if __name__ == "__main__":
    main()
