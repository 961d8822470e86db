"""Models of every kind in the real vLLM: equal to the build by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from support import edits
from support import served as models

TOLERANCE = 1e-4
Answers = dict[str, dict[str, Any]]

NAMES = [*models.VARIANTS, "chatglm3", "gptq"]


@pytest.fixture(scope="module")
def answers(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answers of all models; one run of vLLM's Python."""
    folder = tmp_path_factory.mktemp("models")
    sources = {n: models.variant(n, folder / n) for n in models.VARIANTS}
    sources["chatglm3"] = models.chatglm3(folder / "chatglm3")
    builds = {n: compile_model(one, folder / f"{n}-build", engine="vllm")
              for n, one in sources.items()}  # fmt: skip
    jobs = [job(name, sources[name]) for name in sources]
    jobs[0]["by_name"] = True
    llama, mixtral = sources["llama-gqa"], sources["mixtral-window"]
    jobs += [
        job("llama-gqa", llama, name="mistake", mistake=True),
        job("llama-gqa", llama, name="compiled", compiled=True),
        job("mixtral-window", mixtral, name="experts", compiled=True),
        job("llama-gqa", llama, name="two", refused=True, tensor_parallel_size=2),
    ]
    other = edits.with_config(llama, folder / "other", {"rms_norm_eps": 0.5})
    jobs.append(job("llama-gqa", other, name="other", refused=True))
    large = edits.with_tensor(llama, folder / "large", "model.norm.weight", 1e5)
    jobs.append(job("llama-gqa", large, name="large", refused=True, dtype="float16"))
    site.install(*builds.values())
    found: Answers = site.answers(jobs)
    # Another build of the same architecture takes the place of the first.
    coded = models.gptq(folder / "gptq", llama)
    site.install(compile_model(coded, folder / "gptq-build", engine="vllm"))
    found |= site.answers([job("gptq", coded)])
    return found


#: Models that are dealt to two processes of vLLM, and whether their body is compiled.
DEALT = {"llama-gqa": True, "mixtral-window": False, "qwen3_next-interval": False}


@pytest.fixture(scope="module")
def dealt(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answers of models that two processes compute together."""
    folder = tmp_path_factory.mktemp("dealt")
    sources = {n: models.variant(n, folder / n) for n in DEALT}
    options = {"engine": "vllm", "tensor_parallel": 2}
    site.install(*(
        compile_model(one, folder / f"{n}-build", **options)
        for n, one in sources.items()
    ))  # fmt: skip
    jobs = []
    for number, (name, source) in enumerate(sources.items()):
        alone = compile_model(source, folder / f"alone{number}")
        jobs.append(
            job(name, source, tensor_parallel_size=2, compiled=DEALT[name])
            | {"alone": str(alone), "by_name": True}
        )
    jobs.append(job("llama-gqa", sources["llama-gqa"], name="one", refused=True))
    found: Answers = site.answers(jobs)
    return found


def job(model: str, checkpoint: Path, name: str = "", **more: Any) -> dict[str, Any]:
    """The description of a model that the worker is given."""
    engine = dict(models.ENGINE.get(model, {}))
    of_engine = ("tensor_parallel_size", "dtype")
    engine |= {k: more.pop(k) for k in of_engine if k in more}
    architecture = models.architecture(checkpoint)
    return {
        "name": name or model,
        "checkpoint": str(checkpoint),
        "architecture": architecture,
        "package": f"glmc_{architecture.lower()}",
        "engine": engine,
        **more,
    }


@pytest.mark.parametrize("name", NAMES)
def test_four_prompts_in_one_batch(name: str, answers: Answers) -> None:
    found = answers[name]
    assert "error" not in found, found["error"]
    (module,) = found["ran"]
    assert module.startswith("glmc_")
    assert found["same"] == 4
    assert found["worst"] <= TOLERANCE
    shared = name not in models.UNSHARED
    assert found["cached"] == ([0, 128, 0, 0] if shared else [0] * 4)


@pytest.mark.parametrize("name", DEALT)
def test_two_processes_compute_one_model(name: str, dealt: Answers) -> None:
    found = dealt[name]
    assert "error" not in found, found["error"]
    assert len(found["ran"]) == 2
    assert all(module.startswith("glmc_") for module in found["ran"])
    assert found["same"] == 4
    assert found["worst"] <= TOLERANCE
    assert "--tensor-parallel-size is 1: give 2" in dealt["one"]["refused"]


def test_control_positions_that_are_one_too_large(answers: Answers) -> None:
    assert answers["mistake"]["worst"] > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["compiled", "experts"])
def test_compiled_in_one_graph(name: str, answers: Answers) -> None:
    found = answers[name]
    assert "error" not in found, found["error"]
    assert (found["same"], found["compiled"], found["breaks"]) == (4, 1, {})
    assert found["worst"] <= TOLERANCE


def test_what_vllm_was_asked_for_and_a_build_cannot_do(answers: Answers) -> None:
    assert "again with --engine vllm and --tensor-par" in answers["two"]["refused"]
    assert "rms_norm_eps is 0.5, compiled was" in answers["other"]["refused"]
    assert "float16" in answers["large"]["refused"]
    assert "model.norm.weight" in answers["large"]["refused"]
