"""Talking to a model: the template's ids in, transformers' tokens out, as text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.chat import Conversation
from glmc.cli import main
from support import GOLDEN, builds
from support.variants import Variant
from support.vocabularies import sentencepiece_model, tokenizer_json, write

TALKER = Variant(
    "glm",
    "talker",
    {"vocab_size": 400, "eos_token_id": [320, 327], "pad_token_id": 320},
)


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of transformers' glm with a tokenizer.json of GLM-4's roles."""
    from support import tiny

    folder = tmp_path_factory.mktemp("chat") / "glm"
    tiny.make(TALKER, folder)
    return write(folder, {"tokenizer.json": tokenizer_json()})


@pytest.fixture(scope="module")
def chatglm3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden ChatGLM3 with as many rows as its SentencePiece vocabulary needs."""
    rows, source = 448, GOLDEN / "chatglm3"
    tensors: dict[str, torch.Tensor] = {}
    for shard in source.glob("*.bin"):
        tensors |= torch.load(shard, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if "word_embeddings" in name or "output_layer" in name:
            tensors[name] = torch.randn(rows, tensor.shape[1], generator=generator)
    config = json.loads((source / "config.json").read_text())
    config |= {"padded_vocab_size": rows, "vocab_size": rows}
    files = {"config.json": config, "tokenizer.model": sentencepiece_model()}
    folder = write(tmp_path_factory.mktemp("chat") / "chatglm3-6b", files)
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def talk(
    compiled: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., str]:
    """Run `glmc chat` on a checkpoint with these lines in a pipe."""

    def run(checkpoint: Path, *lines: str, options: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        command = ["chat", str(compiled(checkpoint)), "--weights", str(checkpoint)]
        command += ["--device", "cpu", "--dtype", "float32", "--temperature", "0"]
        assert main([*command, "--max-new-tokens", "6", *options]) == 0
        return str(capsys.readouterr().out)

    return run


def test_an_answer_is_what_transformers_generates(
    glm: Path, compiled: Callable[[Path], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    build = builds.import_build(compiled(glm))
    model = build.load(glm, device="cpu", dtype="float32")
    tokenizer = build.load_tokenizer(glm)
    oracle = AutoModelForCausalLM.from_pretrained(glm, dtype=torch.float32)
    conversation = Conversation(model, tokenizer, options={"max_new_tokens": 8})
    for question in ("你好", "the weather"):
        asked = [*conversation.messages, {"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        ends = list(tokenizer.eos_token_ids)
        told = oracle.generate(
            ids, max_new_tokens=8, do_sample=False, eos_token_id=ends
        )[0, ids.shape[1] :]
        expected = tokenizer.decode(told, skip_special_tokens=True)
        assert "".join(conversation.reply(question)) == expected.lstrip()
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize("family", ["glm", "chatglm3"])
def test_history_shapes_the_answers(
    family: str, request: pytest.FixtureRequest, talk: Callable[..., str]
) -> None:
    checkpoint = request.getfixturevalue(family)
    first, second = talk(checkpoint, "hello", "world").splitlines()[:2]
    alone = talk(checkpoint, "world").splitlines()[0]
    again = talk(checkpoint, "hello", "/clear", "world").splitlines()
    undone = talk(checkpoint, "hello", "/undo", "world").splitlines()
    assert first == again[0] == undone[0]
    assert alone == again[2] == undone[2]
    assert second != alone


def test_a_system_message_and_leaving(glm: Path, talk: Callable[..., str]) -> None:
    plain = talk(glm, "hello", "/exit", "never asked")
    steered = talk(glm, "hello", options=("--system", "the the the"))
    assert plain != steered
    assert len(plain.splitlines()) == 1
    assert "/undo" in talk(glm, "/help")


def test_run_takes_text(
    glm: Path, compiled: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(compiled(glm)), "--weights", str(glm), "--dtype", "float32"]
    command += ["--device", "cpu", "--max-new-tokens", "5", "--prompt", "hello"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert text == facts["text"] + "\n"
    assert len(facts["new"]) == 5


def test_refusals_are_sentences(
    compiled: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    golden = GOLDEN / "chatglm3"
    command = ["chat", str(compiled(golden)), "--weights", str(golden)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "holds no tokenizer" in said
    assert "Traceback" not in said
    assert main(["chat", str(golden), "--weights", str(golden)]) == 2
    assert "is not a build" in capsys.readouterr().err


class _Stuck:
    """A model that says these tokens and is then interrupted."""

    device = torch.device("cpu")
    eos_token_id = ()

    def __init__(self, said: list[int]) -> None:
        self.said = said

    def generate(self, *_: Any, **__: Any) -> Iterator[torch.Tensor]:
        yield from torch.tensor(self.said)
        raise KeyboardInterrupt


def test_an_interrupted_answer_is_kept(glm: Path, compiled: Any) -> None:
    tokenizer = builds.import_build(compiled(glm)).load_tokenizer(glm)
    said = tokenizer.encode("world", add_special_tokens=False)
    conversation = Conversation(_Stuck(said), tokenizer)
    with pytest.raises(KeyboardInterrupt):
        list(conversation.reply("hello"))
    question, answer = conversation.messages
    assert question == {"role": "user", "content": "hello"}
    assert answer == {"role": "assistant", "content": "world"}
