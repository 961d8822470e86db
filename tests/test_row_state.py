"""State for each row, proved by a toy op in a process of its own.

The op is registered there and nowhere else: tests that enumerate ops do not see it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from glmc.ir.op import registry

TESTS = Path(__file__).parent


def test_a_recurrent_op_decodes_as_its_prompt_says() -> None:
    checks = str(TESTS / "support" / "recurrent" / "checks.py")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, checks],
        cwd=TESTS.parent,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "running" not in registry()
