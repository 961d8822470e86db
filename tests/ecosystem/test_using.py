"""Pipelines, lm-eval, accelerate, sentence-transformers and a server take a build as
they take any model."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from glmc import compile_model
from glmc.command.cli import main
from support import GOLDEN, builds
from support import encoders as enc
from support.vocabularies import tokenizer_json, write

TEXTS = ["the weather is", "numbers: 1 2"]


def test_a_pipeline(ours: Any, theirs: Any, tokenizer: Any) -> None:
    found = []
    for model in (ours, theirs):
        pipe = transformers.pipeline(
            "text-generation", model=model, tokenizer=tokenizer
        )
        asked = {"max_new_tokens": 6, "do_sample": False, "batch_size": 2}
        found.append(pipe(TEXTS, **asked))
    assert found[0] == found[1]


def test_log_likelihoods_of_lm_eval(ours: Any, theirs: Any, tokenizer: Any) -> None:
    found = []
    for model in (ours, theirs):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
        pairs = [("the weather", " is fine"), ("a", " b c"), ("numbers: 1", " 2 3 4 5")]
        asked = [
            Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)
        ]
        rolling = [Instance("loglikelihood_rolling", {}, (TEXTS[0],), 0)]
        found.append((lm.loglikelihood(asked), lm.loglikelihood_rolling(rolling)))
    for (a, greedy), (b, other) in zip(found[0][0], found[1][0], strict=True):
        assert a == pytest.approx(b, abs=1e-4)
        assert greedy == other
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A local task of lm-eval: which of two goes on."""
    rows = [
        {"text": "the weather is", "choices": [" fine", " seven"], "gold": 0},
        {"text": "numbers: 1 2", "choices": [" of a model", " 3 4"], "gold": 1},
        {"text": "a model of", "choices": [" a", " 9 9 9"], "gold": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        "doc_to_text: '{{text}}'\n"
        "doc_to_choice: '{{choices}}'\n"
        "doc_to_target: '{{gold}}'\n"
        "metric_list: [{metric: acc}]\n"
    )
    return tmp_path


def test_a_task_of_lm_eval_by_model_and_by_path(
    ours: Any, theirs: Any, tokenizer: Any, repository: Path, task: Path
) -> None:
    asked: dict[str, Any] = {
        "tasks": ["tiny"],
        "task_manager": TaskManager(include_path=str(task), include_defaults=False),
        "log_samples": True,
        "bootstrap_iters": 0,
    }
    models = [HFLM(pretrained=one, tokenizer=tokenizer) for one in (ours, theirs)]
    found = [simple_evaluate(model=model, **asked) for model in models]
    path = {"pretrained": str(repository), "trust_remote_code": True, "device": "cpu"}
    found.append(simple_evaluate(model="hf", model_args=path, **asked))
    scores = [
        [
            float(part[0])
            for row in one["samples"]["tiny"]
            for part in row["filtered_resps"]
        ]
        for one in found
    ]
    assert len(scores[0]) == 6
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[2] == pytest.approx(scores[1], abs=1e-4)


def test_parts_on_disk_and_cpu(
    package: Any, checkpoint: Path, theirs: Any, tokenizer: Any, tmp_path: Path
) -> None:
    places = {
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
    }
    own = {f"model.{name}": "cpu" for name in ("embed_tokens", "norm", "lm_head")}
    placed = package.hf.from_pretrained(
        checkpoint,
        dtype="float32",
        device_map=places | own,
        offload_folder=str(tmp_path / "off"),
    )
    assert placed.model.layers[1].qkv.device.type == "meta"
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    asked = {"max_new_tokens": 6, "do_sample": False}
    assert placed.generate(**batch, **asked).tolist() == (
        theirs.generate(**batch, **asked).tolist()
    )
    alone = package.hf.from_pretrained(
        checkpoint, dtype="float32", device_map={"": "cpu"}
    )
    assert torch.equal(alone(**batch).logits, placed(**batch).logits)


def test_hooks_and_pickles(ours: Any, tokenizer: Any) -> None:
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    seen = []
    layers = list(ours.model.layers)
    hooks = [
        layer.register_forward_hook(lambda it, *_: seen.append(it)) for layer in layers
    ]
    logits = ours(ids).logits
    assert seen == layers
    for hook in hooks:
        hook.remove()
    again = pickle.loads(pickle.dumps(ours))
    assert torch.equal(again(ids).logits, logits)
    assert len(seen) == len(layers)
    asked = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(again.generate(ids, **asked), ours.generate(ids, **asked))


def test_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    enc.make(enc.BY_NAME["gelu"], tmp_path / "bert")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
    }
    ids = json.loads((tmp_path / "bert/config.json").read_text())["vocab_size"]
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config}
    write(tmp_path / "bert", files)
    build = compile_model(tmp_path / "bert", tmp_path / "build")
    out = tmp_path / "exported"
    argv = ["export", str(build), "--weights", str(tmp_path / "bert"), "-o", str(out)]
    assert main(argv) == 0
    found = []
    for folder in (out, tmp_path / "bert"):
        model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
        encoder = model[0]
        rows = torch.randint(3, ids, (2, 9), generator=torch.Generator().manual_seed(1))
        features = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        with torch.no_grad():
            found.append(model(features)["sentence_embedding"])
        wanted = "BuildModel" if folder == out else "BertModel"
        held = getattr(encoder, "model", None) or encoder.auto_model
        assert type(held).__name__ == wanted
    assert torch.allclose(found[0], found[1], atol=1e-5)
    ours = builds.import_build(build).hf.from_pretrained(tmp_path / "bert")
    assert ours.config.model_type == "bert"


def test_repositories_of_other_kinds(tmp_path: Path) -> None:
    """A masked language model, and a type that transformers does not know."""
    enc.make(enc.BY_NAME["roberta-masked-lm"], tmp_path / "masked")
    kinds = {"masked": tmp_path / "masked", "glm": GOLDEN / "chatglm3"}
    for name, checkpoint in kinds.items():
        build, out = tmp_path / f"{name}_build", tmp_path / f"{name}_out"
        compile_model(checkpoint, build)
        argv = ["--weights", str(checkpoint), "-o", str(out)]
        assert main(["export", str(build), *argv]) == 0
        auto = "AutoModelForMaskedLM" if name == "masked" else "AutoModelForCausalLM"
        model = getattr(transformers, auto).from_pretrained(
            out, trust_remote_code=True, dtype=torch.float32
        )
        emitted = builds.load(build, checkpoint)
        ids = torch.tensor([[5, 17, 9, 42]])
        assert torch.equal(model(ids).logits, emitted(ids).logits)
        assert model.config.num_hidden_layers == 3


LOADED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "glmc":
            raise ImportError(f"the repository reached for {name}")

sys.meta_path.insert(0, Blocker())
import torch, transformers

model = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, dtype=torch.float32
)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("the weather is", return_tensors="pt")["input_ids"]
made = model.generate(ids, max_new_tokens=6, do_sample=False)
print(type(model).__name__, made.tolist())
model.save_pretrained(sys.argv[2])
again = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[2], trust_remote_code=True
)
print(torch.equal(again(ids).logits, model(ids).logits))
"""


def test_a_repository_loads_without_glmc(
    repository: Path, theirs: Any, tokenizer: Any, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOADED, str(repository), str(tmp_path / "again")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    ids = tokenizer("the weather is", return_tensors="pt")["input_ids"]
    expected = theirs.generate(ids, max_new_tokens=6, do_sample=False).tolist()
    assert run.stdout.splitlines() == [f"BuildForCausalLM {expected}", "True"]


def environment(folder: Path) -> dict[str, str]:
    """Modules of repositories go to a cache of the test's own."""
    import os

    return {**os.environ, "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    command += ["--trust-remote-code", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment(tmp_path),
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def test_a_server_streams_a_chat(
    server: str, repository: Path, theirs: Any, tokenizer: Any, tmp_path: Path
) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{server}/health", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    message = {"role": "user", "content": "the weather is"}
    body = {"model": str(repository), "stream": True, "max_tokens": 6}
    data = json.dumps({**body, "temperature": 0, "messages": [message]}).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/v1/chat/completions", data, head)
    with urllib.request.urlopen(request, timeout=300) as answer:
        lines = answer.read().decode().split("\n\n")
    chunks = [
        json.loads(line.removeprefix("data: ")) for line in lines if line[6:7] == "{"
    ]
    assert all("error" not in one for one in chunks), chunks
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    asked = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    ids = tokenizer.apply_chat_template([message], **asked)["input_ids"]
    row = theirs.generate(ids, max_new_tokens=6, do_sample=False)[0]
    expected = tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True)
    assert said == expected
    assert len(chunks) > 3
    assert "loading" in (tmp_path / "log").read_text().lower()
