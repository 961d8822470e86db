"""Builds for several ranks that processes compute, which talk by gloo.

The processes start once: each test module's four run all jobs one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.backends.runtime.ranks import RanksError
from glmc.command.cli import main
from support import builds, hub_formats, ranked
from support.hub_formats import FORMATS
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Answered = Callable[[str, int], dict[str, Any]]


@dataclass(frozen=True)
class World:
    """A kind of model on so many ranks in each of some stages.

    ``form`` is that of its codes, ``odd`` a vocabulary that does not divide, and with
    ``experts`` whole experts are dealt.
    """

    kind: str
    ranks: int
    stages: int = 1
    experts: bool = False
    form: str = ""
    odd: bool = False

    def __str__(self) -> str:
        more = [self.form, *(["experts"] * self.experts), *(["odd"] * self.odd)]
        return "-".join(
            [self.kind, str(self.ranks), str(self.stages), *filter(None, more)]
        )

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.ranks * self.stages

    def checkpoint(self, tiny: MakeTiny, folder: Path) -> Path:
        """Make, once, what it is loaded from."""
        found = tiny(BY_NAME[self.kind]).checkpoint
        place = folder / f"{self.kind}-{self.form}{'odd' * self.odd}"
        if self.form:
            if not place.exists():
                hub_formats.pair(found, place, FORMATS[self.form])
            return place / "q"
        if self.odd:
            return place if place.exists() else ranked.odd(found, place)
        return found


WORLDS = (
    World("llama-gqa", 2),  # dense, an untied head
    World("llama-gqa", 4),  # two heads of keys: each is held by two
    World("llama-gqa", 2, stages=2),
    World("mixtral-experts", 2),
    World("deepseek_v3-groups", 4),  # latents, and a shared expert
    World("mixtral-experts", 4),
    World("mixtral-experts", 2, experts=True),
    World("deepseek_v3-groups", 4, experts=True),
    World("deepseek_v3-groups", 2),
    World("glm4_moe-air", 2),
    World("glm4_moe-air", 4),
    World("gpt_neox-parallel", 2),
    World("gpt_neox-parallel", 4),
    World("falcon-7b", 2),
    World("qwen2-tied", 2),
    World("qwen2-tied", 4),
    World("llama-gqa", 2, odd=True),
    World("llama-gqa", 4, odd=True),
    World("llama-gqa", 2, form="packed4-zeros"),
    World("llama-gqa", 2, form="awq"),
    World("llama-gqa", 2, form="int8"),
    World("llama-gqa", 4, form="int8"),
    World("llama-gqa", 2, form="gptq-order"),
    World("llama-gqa", 2, form="float8-rows"),
    World("olmo2-gqa", 2),  # a norm over all heads
    World("olmo2-gqa", 4),
    World("qwen3_next-interval", 2),  # a recurrent mixer beside attention
    World("mamba2-groups", 2),
    World("mamba2-groups", 4),
    World("bailing_hybrid-bounded", 2),
    World("bailing_hybrid-bounded", 4),
    World("lfm2-gates", 2),
    World("lfm2-gates", 4),
    World("gpt_oss-sinks", 2),
    World("longcat_flash-zero_experts", 2),
    World("longcat_flash-zero_experts", 4),
    World("longcat_flash-zero_experts", 2, experts=True),
    World("deepseek_v4-rates", 2),
    World("minimax_m3_vl_text-blocks", 2),
    World("minimax_m3_vl_text-blocks", 4),
    World("gpt2-tied", 4),  # LayerNorms, and biases behind cut columns
)


@pytest.fixture(scope="module")
def answered(
    request: pytest.FixtureRequest,
    tiny: MakeTiny,
    tmp_path_factory: pytest.TempPathFactory,
) -> Answered:
    """Give the answers of a rank to a job, from processes that started once."""
    folder = tmp_path_factory.mktemp("gloo")
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {spec.params.get("world") for spec in specs if spec}
    jobs = [_job(tiny, folder, world) for world in WORLDS if world in asked]
    plain = _job(tiny, folder, WORLDS[0], "plain")
    jobs.append({**plain, "name": "few", "ranks": 3})
    edited = shutil.copytree(plain["build"], folder / "edited")
    (edited / "model.py").write_text((edited / "model.py").read_text() + "# mine\n")
    jobs.append({**plain, "name": "other", "other": str(edited)})
    jobs.append({**plain, "name": "saves", "saves": str(folder / "saved")})
    jobs.append({**plain, "name": "dies", "dies": True})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    workers = list(_workers(folder, 4))
    for worker in workers:
        _, told = worker.communicate(timeout=120 + 30 * len(jobs))
        assert worker.returncode == 0, told
    return lambda name, rank: torch.load(folder / f"{name}-{rank}.pt")


def _job(tiny: MakeTiny, folder: Path, world: World, name: str = "") -> dict[str, Any]:
    checkpoint = world.checkpoint(tiny, folder)
    build = compile_model(
        checkpoint,
        folder / f"{name or world}-build",
        tensor_parallel=world.ranks,
        pipeline_parallel=world.stages,
        expert_parallel=world.experts,
    )
    return {
        "name": str(world),
        "build": str(build),
        "checkpoint": str(checkpoint),
        "ranks": world.count,
    }


def _workers(folder: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).parent / "support" / "ranked_worker.py"
    for rank in range(count):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = os.environ | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}
        yield subprocess.Popen(
            [sys.executable, str(script), str(folder / "jobs.json"), str(folder)],
            env=env | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.mark.parametrize("world", first(5, WORLDS), ids=str)
def test_processes_answer_what_one_does(
    world: World, answered: Answered, tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = world.checkpoint(tiny, tmp_path)
    alone = compile_model(checkpoint, tmp_path / "alone")
    want = ranked.answers(builds.load(alone, checkpoint))
    every = [answered(str(world), rank) for rank in range(world.count)]
    for got in every:
        assert "refused" not in got, got
        ranked.same(got, {**want, "drawn": every[0]["drawn"]})


def test_a_build_for_two_is_not_run_by_three(answered: Answered) -> None:
    for rank in range(3):
        got = answered("few", rank)
        assert got["kind"] == "ranks"
        assert f"rank {rank}: this build is for 2 ranks, and 3 run" in got["refused"]


def test_ranks_with_other_builds_say_so(answered: Answered) -> None:
    for rank in range(2):
        got = answered("other", rank)
        assert got["kind"] == "ranks"
        assert f"rank {rank}: the build of rank 1 is another than" in got["refused"]


def test_processes_save_what_one_loads(
    answered: Answered, tiny: MakeTiny, tmp_path: Path
) -> None:
    every = [answered("saves", rank) for rank in range(2)]
    checkpoint = WORLDS[0].checkpoint(tiny, tmp_path)
    alone = compile_model(checkpoint, tmp_path / "alone")
    want = ranked.answers(builds.load(alone, Path(every[0]["saved"])))
    for got in every:
        ranked.same(got, {**want, "drawn": every[0]["drawn"]})


def test_a_rank_that_ends_ends_the_others(answered: Answered) -> None:
    got = answered("dies", 0)
    assert got["kind"] == "ranks"
    assert "rank 0: another rank has ended or does not answer" in got["refused"]


def test_a_process_alone_is_told_how_to_start_all(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    with pytest.raises(ValueError, match="belongs to no group") as caught:
        module.load(checkpoint)
    assert type(caught.value).__name__ == RanksError.__name__
    given = ["--weights", str(checkpoint), "--prompt-ids", "3,4"]
    assert main(["run", str(tmp_path / "build"), *given]) == 2
    assert "torchrun --nproc-per-node 2 -m glmc" in capsys.readouterr().err
    found = subprocess.run(
        [sys.executable, "-m", "build", *given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert found.stderr.startswith("error: this process cannot join the others")


@pytest.mark.slow
def test_verify_sees_the_layers_of_all_stages(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    build = compile_model(checkpoint, tmp_path / "build", pipeline_parallel=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    asked = ["-m", "glmc", "verify", str(build), "--weights", str(checkpoint)]
    found = subprocess.run(
        [*command, *asked, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["equal"]
    assert len(told["ranks"]) == 2
    for rows in told["differences"].values():
        assert {"layer 0", "layer 1", "layer 2", "logits"} <= rows.keys()
