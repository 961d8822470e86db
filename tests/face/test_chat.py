"""Talking to a model: the template's ids in, transformers' tokens out, as text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.command.cli import main
from glmc.use.chat import Conversation
from support import GOLDEN, builds, talkers


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talkers.glm(tmp_path_factory.mktemp("chat") / "glm")


@pytest.fixture(scope="module")
def chatglm3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talkers.chatglm3(tmp_path_factory.mktemp("chat") / "chatglm3-6b")


@pytest.fixture(scope="module")
def chatglm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talkers.chatglm(tmp_path_factory.mktemp("chat") / "chatglm-6b")


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


@pytest.mark.parametrize("family", ["glm", "chatglm3", "chatglm"])
def test_a_model_takes_what_its_tokenizer_gives(
    family: str, request: pytest.FixtureRequest, compiled: Callable[[Path], Path]
) -> None:
    checkpoint = request.getfixturevalue(family)
    build = builds.import_build(compiled(checkpoint))
    model = build.load(checkpoint, device="cpu", dtype="float32")
    tokenizer = build.load_tokenizer(checkpoint)
    texts = ["今天天气真好", "hello world the weather is good"]
    inputs = tokenizer(texts, return_tensors="pt")
    out = model(**inputs).logits
    # The model finds positions by itself, from the same ids.
    del inputs["position_ids"]
    torch.testing.assert_close(model(**inputs).logits, out)
    whole = model.generate(**tokenizer(texts, return_tensors="pt"), max_new_tokens=4)
    assert torch.equal(whole, model.generate(**inputs, max_new_tokens=4))
    alone = model(**tokenizer(texts[0], return_tensors="pt")).logits
    row = out[0, -alone.shape[1] :]
    torch.testing.assert_close(row, alone[0], rtol=1e-4, atol=1e-4)


def test_a_system_message_and_leaving(glm: Path, talk: Callable[..., str]) -> None:
    plain = talk(glm, "hello", "/exit", "never asked")
    steered = talk(glm, "hello", options=("--system", "the the the"))
    assert plain != steered
    assert len(plain.splitlines()) == 1
    assert "/undo" in talk(glm, "/help")


def test_a_template_is_chosen(
    glm: Path, talk: Callable[..., str], tmp_path: Path
) -> None:
    """By a file, with variables; the words in it decide what is answered."""
    file = tmp_path / "mine.jinja"
    file.write_text("{{ '好' * 9 if loud else messages[-1].content }}")
    plain = talk(glm, "hello", options=("--template", str(file)))
    loud = talk(
        glm, "hello", options=("--template", str(file), "--template-arg", "loud=true")
    )
    quiet = ("--template", str(file), "--template-arg", "loud=false")
    assert plain == talk(glm, "hello", options=quiet)
    assert plain != loud


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--template", "rag"), "'rag' is no template"),
        (("--template-arg", "x"), "expected a variable of"),
        (("--template-arg", "tokenize=false"), "expected a variable of"),
    ],
)
def test_templates_that_cannot_be_chosen(
    glm: Path,
    compiled: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    cause: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    command = ["chat", str(compiled(glm)), "--weights", str(glm), "--device", "cpu"]
    assert main([*command, *options]) == 2
    assert cause in capsys.readouterr().err


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
    assert "compile the model again from the folder" in said
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
