"""Builds in the real vLLM, for which `make test-vllm` makes an environment of its own.

Its Python is named by GLMC_VLLM; without that these tests are not collected. All models
run in one process that forks after the import, as the import takes longer than a model.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("GLMC_VLLM", "")
collect_ignore_glob = [] if PYTHON else ["test_*.py"]

HERE = Path(__file__).parent
#: Enough for all models on two loaded cores.
SECONDS = 3600


class Site:
    """A folder of packages beside vLLM's environment, with the builds of a test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = PYTHON
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GLMC_")},
            "PYTHONPATH": str(folder / "site"),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CACHE_ROOT": str(folder / "cache"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
        }

    def install(self, *builds: Path) -> None:
        """Install builds as a user does, but to a folder."""
        command = ["-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        options = ["--disable-pip-version-check", "--target", self.folder / "site"]
        self.run(*command, *options, *builds)

    def run(self, *arguments: str | Path, **environment: str) -> str:
        """The output of vLLM's Python; fails with what it says of an error."""
        ran = subprocess.run(
            [PYTHON, *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
        return ran.stdout

    def answers(self, jobs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The answers of each job's model in vLLM, and how they compare."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        self.run(HERE / "worker.py", file, VLLM_ENABLE_V1_MULTIPROCESSING="0")
        return {
            job["name"]: json.loads((self.folder / f"{job['name']}.json").read_text())
            for job in jobs
        }


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("vllm"))
