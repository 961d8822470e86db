"""Builds for several ranks answer what a build for one does.

Every kind of model runs on threads; the gloo tests run some on processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc.backends.runtime.ranks import RanksError
from glmc.command.cli import main
from glmc.ir.errors import NotDealtError
from support import builds, hub_formats, ranked
from support.hub_formats import FORMATS
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]

KINDS = (
    "llama-gqa",  # two heads of keys: with four ranks each is held by two
    "mixtral-experts",
    "deepseek_v3-groups",  # latents, and a shared expert beside the routed ones
    "gpt_neox-parallel",  # one sum a layer for both branches
    "qwen2-tied",
    "olmo2-gqa",  # a norm over all heads
    "qwen3_next-interval",  # a recurrent mixer beside attention
    "llama-mqa",
    "falcon-7b",
    "gpt2-tied",  # biases behind the products whose columns are cut
    "bloom-alibi",
    "gpt_oss-sinks",
    "glm4_moe-air",
    "mamba2-groups",  # two groups to norm: what is normed is gathered
    "bailing_hybrid-bounded",  # with four ranks one head each
    "lfm2-gates",
    "gemma3_text-two_ropes",
    "minimax_m2-corrected",
    "stablelm-parallel",
)


# Its six heads of values do not go to four.
CASES = [(name, n) for name in KINDS for n in (2, 4) if (name, n) != (KINDS[6], 4)]


@pytest.mark.parametrize(("name", "ranks"), first(13, CASES))
def test_ranks_answer_what_one_does(
    name: str, ranks: int, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    _compare(checkpoint, compiled(checkpoint), tmp_path, ranks)


@pytest.mark.parametrize("name", ["mixtral-experts", "gpt_oss-sinks"])
def test_whole_experts_go_to_ranks(
    name: str, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    alone = compiled(checkpoint)
    found = _compare(checkpoint, alone, tmp_path, 2, expert_parallel=True)
    assert found["bytes"] < 0.56 * _bytes(checkpoint)


# Three layers, in stages of two and one; heads that are tied to the embedding; a delta
# that is handed on beside x; a mixer with a state for each row.
STAGED = ("llama-gqa", "qwen2-tied", "gpt_neox-parallel", "qwen3_next-interval")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", first(2, STAGED))
def test_stages_answer_what_one_does(
    name: str, ranks: int, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    alone = compiled(checkpoint)
    every = _compare(checkpoint, alone, tmp_path, ranks, pipeline_parallel=2)
    assert every["bytes"] < 0.8 * _bytes(checkpoint)


FORMS: tuple[tuple[str, dict[str, int]], ...] = (
    ("packed4-zeros", {}),
    ("gptq-order", {}),  # columns of any group, and all scales on every rank
    ("int8", {}),
    ("awq", {"ranks": 4}),
    ("float8-rows", {}),
    ("nvfp4", {}),
)


@pytest.mark.parametrize(("name", "more"), first(3, FORMS))
def test_codes_are_cut_as_they_are_stored(
    name: str, more: dict[str, int], tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS[name])
    alone = _compiled(ours, tmp_path / "alone", {})
    found = _compare(ours, alone, tmp_path, more.get("ranks", 2))
    whole = sum(p.nbytes for p in builds.load(alone, ours).parameters())
    assert found["bytes"] < 0.52 * whole


def test_codes_are_not_cut_within_a_group(tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS["float8-blocks"])
    said = "each would have 32 of dimension 1 of @o_proj, whose codes are cut in"
    with pytest.raises(NotDealtError, match=said):
        _compiled(ours, tmp_path / "build", {"tensor_parallel": 2})


def test_a_layer_that_reads_another_is_in_its_stage(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["gemma4_text-shared"]).checkpoint
    with pytest.raises(NotDealtError, match=r"layer \d reads %kv of layer \d, and"):
        _compiled(checkpoint, tmp_path / "build", {"pipeline_parallel": 2})


def _compare(
    checkpoint: Path, alone: Path, folder: Path, ranks: int, **options: Any
) -> dict[str, Any]:
    want = ranked.answers(builds.load(alone, checkpoint))
    module = ranked.compiled(checkpoint, folder / "build", ranks, **options)
    every = ranked.on_threads(
        module,
        ranks,
        lambda here: ranked.answers(
            module.load(checkpoint, dtype="float32", ranks=here)
        ),
        options.get("pipeline_parallel", 1),
    )
    drawn = every[0]["drawn"]
    for got in every:
        # A draw is of all logits, which differ in their last bits from one rank's.
        ranked.same(got, {**want, "drawn": drawn})
    found: dict[str, Any] = every[0]
    return found


def _bytes(checkpoint: Path) -> int:
    files = checkpoint.glob("*.safetensors")
    return sum(t.nbytes for file in files for t in load_file(file).values())


def test_a_vocabulary_that_does_not_divide_is_padded(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    odd = _odd(checkpoint, tmp_path / "odd")
    alone = _compiled(odd, tmp_path / "alone", {})
    assert _compare(odd, alone, tmp_path, 2)["logits"].shape[-1] == 61


def _compiled(source: Path, folder: Path, options: dict[str, Any]) -> Path:
    from glmc import compile_model

    return compile_model(source, folder, **options)


def _odd(checkpoint: Path, folder: Path) -> Path:
    """The same checkpoint with a vocabulary of 61."""
    folder.mkdir()
    config = json.loads((checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 61}))
    tensors = load_file(checkpoint / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:61].clone()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_what_one_rank_cannot_load_ends_all(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    said: list[str] = []

    def load(here: Any) -> None:
        source = checkpoint if here.rank else tmp_path / "nowhere"
        try:
            module.load(source, ranks=here)
        except ValueError as error:
            said.append(f"{here.rank}: {error}")

    ranked.on_threads(module, 2, load)
    zero, one = sorted(said)
    assert "nowhere does not exist" in zero
    assert one.startswith("1: rank 1 ends because rank 0 failed: ")
    assert "nowhere does not exist" in one


def test_other_weights_are_told_apart(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, other / "model.safetensors")
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    with pytest.raises(ValueError, match="the checkpoint of rank 1 is another than"):
        ranked.on_threads(
            module,
            2,
            lambda here: module.load((checkpoint, other)[here.rank], ranks=here),
        )


def test_ranks_that_are_given_other_prompts_say_so(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)

    def generate(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        model.generate(torch.tensor([[3, 4 + here.rank]]), max_new_tokens=2)

    with pytest.raises(ValueError, match="the prompt of rank 1 is another"):
        ranked.on_threads(module, 2, generate)


def test_what_ends_some_ranks_only_is_refused(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)

    def generate(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        model.generate(torch.tensor([[3, 4]]), max_time=1.0)

    with pytest.raises(ValueError, match="max_time may decide otherwise"):
        ranked.on_threads(module, 2, generate)


# --- processes ------------------------------------------------------------------------

GLOO = (
    ("llama-gqa", 2, 1),
    ("llama-gqa", 4, 1),
    ("llama-gqa", 2, 2),
    ("mixtral-experts", 2, 1),
    ("deepseek_v3-groups", 4, 1),
)


@pytest.fixture(scope="module")
def answered(
    tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], dict[str, Any]]:
    """Give the answers of a rank to a job, from processes that started once."""
    folder = tmp_path_factory.mktemp("gloo")
    jobs = [_job(tiny, folder, *row) for row in GLOO]
    llama = jobs[0]
    jobs.append({**llama, "name": "few", "ranks": 3})
    edited = shutil.copytree(llama["build"], folder / "edited")
    (edited / "model.py").write_text((edited / "model.py").read_text() + "# mine\n")
    jobs.append({**llama, "name": "other", "other": str(edited)})
    jobs.append({**llama, "name": "dies", "dies": True})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    workers = list(_workers(folder, 4))
    for worker in workers:
        _, told = worker.communicate(timeout=240)
        assert worker.returncode == 0, told
    return lambda name, rank: torch.load(folder / f"{name}-{rank}.pt")


def _job(
    tiny: MakeTiny, folder: Path, name: str, ranks: int, stages: int
) -> dict[str, Any]:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    build = folder / f"{name}-{ranks}-{stages}-build"
    options = {"tensor_parallel": ranks, "pipeline_parallel": stages}
    _compiled(checkpoint, build, options)
    return {
        "name": f"{name}-{ranks}-{stages}",
        "build": str(build),
        "checkpoint": str(checkpoint),
        "ranks": ranks * stages,
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


@pytest.mark.parametrize(("name", "ranks", "stages"), GLOO)
def test_processes_answer_what_one_does(
    name: str,
    ranks: int,
    stages: int,
    answered: Callable[[str, int], dict[str, Any]],
    tiny: MakeTiny,
    compiled: Compile,
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    want = ranked.answers(builds.load(compiled(checkpoint), checkpoint))
    job, world = f"{name}-{ranks}-{stages}", ranks * stages
    every = [answered(job, rank) for rank in range(world)]
    for got in every:
        ranked.same(got, {**want, "drawn": every[0]["drawn"]})


def test_a_build_for_two_is_not_run_by_three(
    answered: Callable[[str, int], dict[str, Any]],
) -> None:
    for rank in range(3):
        got = answered("few", rank)
        assert got["kind"] == "ranks"
        assert f"rank {rank}: this build is for 2 ranks, and 3 run" in got["refused"]


def test_ranks_with_other_builds_say_so(
    answered: Callable[[str, int], dict[str, Any]],
) -> None:
    for rank in range(2):
        got = answered("other", rank)
        assert got["kind"] == "ranks"
        assert f"rank {rank}: the build of rank 1 is another than" in got["refused"]


def test_a_rank_that_ends_ends_the_others(
    answered: Callable[[str, int], dict[str, Any]],
) -> None:
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


# --- blame ----------------------------------------------------------------------------


def test_bisect_names_the_op_of_a_stage_of_several_ranks(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    build = _compiled(checkpoint, tmp_path / "build", {"tensor_parallel": 4})
    asked = ["bisect", str(build), "--weights", str(checkpoint)]
    assert main(asked) == 0
    assert "glmc verify compares it" in capsys.readouterr().out
    dump = build / "ir/2-place.glmc"
    turned = dump.read_text().replace(
        "rope(%qh, %cos, %sin, style=half)", "rope(%qh, %cos, %sin, style=interleaved)"
    )
    dump.write_text(turned)
    assert main([*asked, "--json"]) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("place", 0)
    assert culprit["op"].startswith("%qr: f32[B,T,1,16] shard(2) = rope(%qh")
