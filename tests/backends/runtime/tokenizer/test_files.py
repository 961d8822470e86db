"""The folder, the arguments, and what is missing or damaged among them."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from glmc.backends.runtime.tokenizer import files as tokenizer_files
from glmc.backends.runtime.tokenizer.files import FILES, Folder, TokenizerError
from glmc.backends.runtime.tokenizer.identity import check_ids
from support.hub_server import only_hub, serving
from support.vocabularies import ice_model, tiktoken_file, tokenizer_json, write


@pytest.fixture
def glm4(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(write(tmp_path, {"tokenizer.model": tiktoken_file()}))


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"config.json": {}}, "no tokenizer: there is none of"),
    "only code": ({"tokenization_chatglm.py": "1 / 0"}, "Python files .* not used"),
    "a pointer": (
        {"tokenizer.model": b"version https://git-lfs.github.com/spec/v1\n"},
        "Git LFS pointer",
    ),
    "no JSON": ({"tokenizer_config.json": b"{"}, "tokenizer_config.json is no JSON"),
    "deep JSON": ({"config.json": b"[" * 200000}, "config.json is no JSON"),
    "a list": ({"config.json": b"[]"}, "config.json holds a list"),
    "no text": ({"generation_config.json": b"\xff"}, "no UTF-8 text"),
    "an id of words": (
        {
            "tokenizer.model": tiktoken_file(),
            "tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}},
        },
        "entry 'x', which is not an id",
    ),
    "two ids": (
        {
            "tokenizer.model": tiktoken_file(),
            "tokenizer_config.json": {
                "added_tokens_decoder": {"300": {"content": "a"}, "301": "a"}
            },
        },
        "gives 'a' two ids, 300 and 301",
    ),
    "tokens of another model": (
        {
            "tokenizer.model": tiktoken_file(),
            "tokenizer_config.json": {"added_tokens_decoder": {"300": "a"}},
        },
        r"but not '<\|endoftext\|>'",
    ),
    "a number of words": (
        {
            "ice_text.model": ice_model(),
            "tokenizer_config.json": {"num_image_tokens": "many"},
        },
        "num_image_tokens is 'many'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_folders(tmp_path: Path, case: str) -> None:
    files, cause = DAMAGED[case]
    with pytest.raises(TokenizerError, match=cause) as refusal:
        load_tokenizer(write(tmp_path, files))
    assert len(str(refusal.value)) < 600


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"tokenizer.json": tokenizer_json(), "config.json": {"x": "y" * 999}}
    folder = write(tmp_path, files)
    load_tokenizer(folder)
    monkeypatch.setattr(tokenizer_files, "MAX_JSON", 900)
    with pytest.raises(TokenizerError, match=r"config.json is larger than 0 KiB"):
        load_tokenizer(folder)


def test_no_code_is_run_and_no_name_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only files of known names are opened, whatever the JSON files name."""
    own = {
        "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]},
        "vocab_file": "../secret.model",
        "tokenizer_file": "/etc/hostname",
    }
    folder = write(
        tmp_path / "repo",
        {
            "tokenization_evil.py": "raise SystemExit('run')",
            "tokenizer.json": tokenizer_json(),
            "tokenizer_config.json": own,
        },
    )
    opened = []
    real = Path.open

    def spy(self: Path, *args: Any, **named: Any) -> Any:
        opened.append(self)
        return real(self, *args, **named)

    monkeypatch.setattr(Path, "open", spy)
    monkeypatch.setattr(builtins, "open", pytest.fail)
    load_tokenizer(folder)
    assert opened
    assert all(file.parent == folder and file.name in FILES for file in opened)


def test_what_is_no_folder(tmp_path: Path) -> None:
    file = write(tmp_path, {"config.json": {}}) / "config.json"
    with pytest.raises(TokenizerError, match="is a file; give the folder"):
        load_tokenizer(file)
    with pytest.raises(TokenizerError, match="does not exist; give a folder"):
        load_tokenizer(tmp_path / "nowhere" / "..")


def test_a_hub_id_asks_for_data_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"tokenizer.model": tiktoken_file(), "tokenization.py": b"raise"}
    with serving(THUDM__glm_4_9b=files) as server:
        hub = only_hub(server, tmp_path, monkeypatch)
        for options in ({}, {"offline": True}):
            found = load_tokenizer("THUDM/glm_4_9b", endpoint=hub.url, **options)
            assert found.variant == "glm-4"
        assert hub.names == {*FILES, "additional_chat_templates"}
        with pytest.raises(TokenizerError, match="has no revision 'r'"):
            load_tokenizer("THUDM/glm_4_9b", endpoint=hub.url, revision="r")
    assert not any("*" in name or name.endswith(".py") for name in FILES)


def test_a_hub_id_has_templates_of_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also offline, from the cache; names that are no names are not read."""
    files = {
        "tokenizer.json": tokenizer_json().encode(),
        "chat_template.jinja": b"{{ 'D' }}",
        "additional_chat_templates/rag.jinja": b"{{ 'R' }}",
        "additional_chat_templates/code.py": b"raise",
    }
    with serving(org__glm=files) as server:
        hub = only_hub(server, tmp_path, monkeypatch)
        for options in ({}, {"offline": True}):
            found = load_tokenizer("org/glm", endpoint=hub.url, **options)
            chat = [{"role": "user", "content": "x"}]
            for name, text in ((None, "D"), ("rag", "R")):
                assert text == found.apply_chat_template(
                    chat, chat_template=name, tokenize=False
                )
        assert "code.py" not in hub.names


@pytest.mark.parametrize(
    ("package", "files"),
    [
        ("sentencepiece", {"ice_text.model": ice_model()}),
        ("tiktoken", {"tokenizer.model": tiktoken_file()}),
        ("tokenizers", {"tokenizer.json": tokenizer_json()}),
    ],
)
def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, files: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TokenizerError, match=rf"pip install {package}.*\[tokenizers\]"):
        load_tokenizer(write(tmp_path, files))


def test_generations_are_named(tmp_path: Path) -> None:
    """§13: "150001 is not in list", before it can happen."""
    config = {"gmask_token_id": 130001, "eos_token_id": [1, 2]}
    folder = Folder(write(tmp_path, {"config.json": config}), "x")
    check_ids(folder, "f", {"gmask_token_id": 130001, "bos_token_id": 5})
    check_ids(folder, "f", {"eos_token_id": 2})
    with pytest.raises(TokenizerError, match=r"\(a 150528 tokenizer, a 130528 model\)"):
        check_ids(folder, "f", {"gmask_token_id": 150001})


class TestArguments:
    def test_tensors_or_lists(self, glm4: Tokenizer) -> None:
        batch = glm4("你好", return_tensors="pt")
        assert {v.dtype for v in batch.values()} == {torch.int64}
        assert batch.input_ids.shape == (1, 3)
        flat = glm4("你好")
        assert flat.input_ids == glm4.encode("你好") == batch.input_ids[0].tolist()
        assert glm4(["你好"]).input_ids == [flat.input_ids]
        assert dict(**flat).keys() == {"input_ids", "attention_mask", "position_ids"}
        with pytest.raises(AttributeError, match="no labels, only input_ids"):
            _ = flat.labels

    def test_padding(self, glm4: Tokenizer) -> None:
        texts = ["你好", "x the the"]
        loose = glm4(texts, padding=False)
        assert [len(row) for row in loose.input_ids] == [3, 5]
        with pytest.raises(TokenizerError, match="padding=True"):
            glm4(texts, padding=False, return_tensors="pt")
        glm4.padding_side = "right"
        assert glm4(texts).attention_mask[0] == [1, 1, 1, 0, 0]

    def test_decode_takes_ids_of_any_kind(self, glm4: Tokenizer) -> None:
        ids = glm4.encode("你好 the", add_special_tokens=False)
        forms: list[Any] = [ids, tuple(ids), torch.tensor(ids), list(torch.tensor(ids))]
        assert {glm4.decode(form) for form in forms} == {"你好 the"}
        assert glm4.decode(ids[0]) == glm4.decode(ids[:1])
        assert glm4.batch_decode(torch.tensor([ids, ids])) == ["你好 the"] * 2
        assert glm4.decode([ids, ids]) == ["你好 the"] * 2
        for wrong in ([[[1]]], [-1], ["a"], None, [1.5]):
            with pytest.raises(TokenizerError, match="decode takes the ids"):
                glm4.decode(wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            (b"x", "not a bytes"),
            ([], "list is empty"),
            (["x", 1], "not a int"),
            ("a\ud800", "half a surrogate pair at 1"),
        ],
    )
    def test_what_is_no_text(self, glm4: Tokenizer, text: Any, cause: str) -> None:
        with pytest.raises(TokenizerError, match=cause):
            glm4(text)

    def test_other_mistakes(self, glm4: Tokenizer) -> None:
        with pytest.raises(TokenizerError, match="'np'; 'pt' gives torch"):
            glm4("x", return_tensors="np")
        with pytest.raises(TokenizerError, match="2 texts but 1 in text_pair"):
            glm4(["x", "y"], "z")


def test_bert_like_files_have_types_and_pad_right(tmp_path: Path) -> None:
    files = {"tokenizer.json": tokenizer_json(), "config.json": {"model_type": "bert"}}
    found = load_tokenizer(write(tmp_path, files))
    batch = found(["你好", "x"], ["the", "the the is"])
    assert batch.token_type_ids[0].count(1) == 1
    assert batch.attention_mask[0][-1] == 0


def test_a_printed_tokenizer_says_what_it_is(glm4: Tokenizer) -> None:
    assert repr(glm4).startswith("Tokenizer(Tiktoken, variant='glm-4', vocab_size=")
    assert len(glm4) == glm4.vocab_size
    assert json.dumps(glm4.special_tokens)
