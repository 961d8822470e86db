"""docs/writing-a-spec.md, run line by line.

A draft depends on what the specs know, so a new spec may change the one on the page.
After reading it: ``UPDATE_GOLDEN=1 python -m pytest tests/authoring/test_guide.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from support import ROOT
from support.cli import glmc

GUIDE = ROOT / "docs" / "writing-a-spec.md"
SPEC = "heron.yaml"


def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    counts = {"console": 0, "yaml": 0, "diff": 0}
    spec = tmp_path / SPEC
    for language, text in blocks():
        counts[language] += 1
        if language == "yaml":
            if os.environ.get("UPDATE_GOLDEN"):
                page = GUIDE.read_text()
                GUIDE.write_text(page.replace(text, spec.read_text()))
            else:
                assert text == spec.read_text()
        elif language == "diff":
            spec.write_text(applied(text, spec.read_text()))
        else:
            for command, expected in commands(text):
                got = run(command, tmp_path)
                assert fnmatchcase(got, pattern(expected)), f"{command}\n{got}"
    assert counts == {"console": 6, "yaml": 1, "diff": 3}


def blocks() -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return iter(re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.M | re.S))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints)."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run(command: str, folder: Path) -> str:
    """The output of `glmc …` or `python …`, errors after it."""
    program, *arguments = shlex.split(command)
    arguments = [
        str(ROOT / word) if word.startswith("examples/") else word for word in arguments
    ]
    if program == "glmc":
        done = glmc(*arguments, cwd=folder)
    else:
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "Traceback" not in done.stderr
    return re.sub(r" +\n", "\n", done.stdout + done.stderr)


def pattern(expected: str) -> str:
    """An ellipsis stands for anything, digits of differences and counts for any.

    Which of two differences as small as these is the worst depends on the processor.
    """
    escaped = re.sub(r"([*?[])", r"[\1]", expected)
    rounded = re.sub(r"\d\.\de([+-]\d\d)", r"?.?e\1", escaped)
    rounded = re.sub(r"\d+ marks", "* marks", rounded)
    rounded = re.sub(r"\(single \w+,", "(single *,", rounded)
    return rounded.replace("…\n", "*").replace("…", "*")


def applied(diff: str, text: str) -> str:
    """The text with lines replaced, or added at its end."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line.startswith("-"))
    new = "".join(line[1:] for line in lines if line.startswith("+"))
    assert old in text
    return text.replace(old, new) if old else text + new
