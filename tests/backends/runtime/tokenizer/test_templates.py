"""Chat templates, what goes into them and what comes out, equal to transformers."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from transformers import AutoTokenizer
from transformers.utils import get_json_schema

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.schema import tool_schema
from support.chat_templates import GENERATION, QWEN, RAG, TEMPLATES
from support.vocabularies import tokenizer_json, write

Messages = list[dict[str, Any]]
CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<sop>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
}


def folder(at: Path, **files: Any) -> Path:
    """A repository; `config` goes on CONFIG, `__` in a name is a `.`, `_in_` a `/`."""
    config = CONFIG | files.pop("config", {})
    named = {k.replace("__", ".").replace("_in_", "/"): v for k, v in files.items()}
    for name in named:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {k: v for k, v in config.items() if v is not None},
        "config.json": {"model_type": "llama"},
        **named,
    }
    return write(at, whole)


def pair(at: Path) -> tuple[Tokenizer, Any]:
    """Ours and transformers' tokenizer of a folder."""
    return load_tokenizer(at), AutoTokenizer.from_pretrained(at)


def both(at: Path, chat: Any, **options: Any) -> str:
    """The text that both render; their ids are compared as well."""
    ours, theirs = pair(at)
    said = [
        t.apply_chat_template(chat, tokenize=False, **options) for t in (ours, theirs)
    ]
    assert said[0] == said[1]
    options = {"encode_special_tokens": True} | options
    found = ours.apply_chat_template(chat, return_dict=False, **options)
    del options["encode_special_tokens"]
    assert found == theirs.apply_chat_template(chat, return_dict=False, **options)
    return str(said[0])


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


def weather(city: str, unit: Unit = Unit.C, days: int | None = None) -> str:
    """
    Tells the weather of a city.

    Of any city there is.

    Args:
        city: The city, <with> its country &
            in full.
        unit: What to measure in (choices: ["celsius", "fahrenheit"])
        days: So many days

    Returns:
        The weather.
    """
    return city


def search(
    words: list[str],
    where: dict[str, float],
    how: Literal["fast", "slow"] = "fast",
    at: tuple[int, str] = (1, "a"),
    more: list[int] | str | None = None,
    rest: Any = None,
) -> None:
    """Searches.

    Args:
        words: what for
        where: a place: with numbers
        how: how fast
        at: from where
        more: and more
        rest: the rest
    """


class Tools:
    def own(self, x: float, y: bool | int = 0) -> object:
        """Of a class.

        Args:
            x: the x
            y: the y

        Raises:
            ValueError: never
        """
        return x


SYSTEM = {"role": "system", "content": "Be brief. 100% 好 <&>"}
USER = {"role": "user", "content": " Hello\nthere 你好 "}
ANSWER = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes 'it' is. "}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"a": [1, "<好>"]}}}
    ],
}
TOLD = {"role": "tool", "content": '{"b": 2}', "name": "f"}
CHATS: dict[str, Messages] = {
    "question": [USER],
    "system": [SYSTEM, USER],
    "rounds": [SYSTEM, USER, ANSWER, USER],
    "answered": [USER, ANSWER],
    "tools": [SYSTEM, USER, CALL, TOLD, ANSWER, USER],
    "thought": [USER, {"role": "assistant", "content": "b", "thinking": "a"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "prompt": {"add_generation_prompt": True},
    "tools": {"tools": [weather, search, Tools().own], "add_generation_prompt": True},
    "schemas": {"tools": [get_json_schema(weather)]},
    "no tools": {"tools": []},
    "documents": {"documents": [{"title": "A", "text": "b"}, {"text": "c"}]},
    "variables": {"enable_thinking": False, "add_generation_prompt": True},
    "a token": {"bos_token": "<eop>"},
    "open": {"continue_final_message": True},
}


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call answers, or that it refuses."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__ == "TokenizerError" or "refused"


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_as_transformers(tmp_path: Path, template: str) -> None:
    """Every chat with every option: text and ids, or a refusal by both."""
    at = folder(tmp_path, chat_template__jinja=TEMPLATES[template])
    ours, theirs = pair(at)
    rendered = 0
    for chat in CHATS.values():
        for options in OPTIONS.values():
            for form in ({"tokenize": False}, {"return_dict": False}):
                a = outcome(
                    lambda c=chat, o=options, f=form: ours.apply_chat_template(
                        c, **o, **f, encode_special_tokens=True
                    )
                )
                b = outcome(
                    lambda c=chat, o=options, f=form: theirs.apply_chat_template(
                        c, **o, **f
                    )
                )
                refused = b == "refused"
                assert (a is True) if refused else (a == b), (chat, options)
                rendered += not refused
    # Control: what is compared are not refusals.
    assert rendered > len(CHATS) * len(OPTIONS)


@pytest.mark.parametrize("function", [weather, search, Tools().own])
def test_functions_as_transformers(function: Callable[..., Any]) -> None:
    assert tool_schema(function) == get_json_schema(function)


def _nothing(x: int) -> None:
    pass


def _undescribed(x: int, y: int) -> None:
    """Has one.

    Args:
        x: this
    """


def _unhinted(x) -> None:  # type: ignore[no-untyped-def]
    """Has none.

    Args:
        x: this
    """


def _odd(x: Path) -> None:
    """Has a type of its own.

    Args:
        x: this
    """


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (_nothing, "_nothing is no tool: it lacks a docstring"),
        (_undescribed, "a description of y"),
        (_unhinted, "x has no type hint"),
        (_odd, "it takes Path, which JSON does not know"),
    ],
)
def test_functions_that_are_no_tools(function: Any, cause: str) -> None:
    with pytest.raises(TokenizerError, match=cause):
        tool_schema(function)
    with pytest.raises(Exception, match=r"JSON schema|type hint"):
        get_json_schema(function)


class TestWhichTemplate:
    def test_files_stand_above_the_config(self, tmp_path: Path) -> None:
        at = folder(
            tmp_path,
            config={"chat_template": "{{ 'config' }}"},
            chat_template__jinja="{{ 'file' }}",
            additional_chat_templates_in_rag__jinja="{{ 'rag' }}",
            additional_chat_templates_in_tool_use__jinja="{{ 'tools' }}",
        )
        assert both(at, [USER]) == "file"
        assert both(at, [USER], chat_template="rag") == "rag"
        assert both(at, [USER], tools=[]) == "tools"
        assert both(at, [USER], chat_template="{{ 'own' }}") == "own"

    def test_names_of_the_config(self, tmp_path: Path) -> None:
        named = [
            {"name": "default", "template": "{{ 'D' }}"},
            {"name": "rag", "template": RAG},
        ]
        at = folder(tmp_path, config={"chat_template": named})
        assert both(at, [USER]) == "D"
        documents = [{"title": "t", "text": "x"}]
        assert "title: t" in both(at, [USER], chat_template="rag", documents=documents)

    def test_a_word_that_names_none(self, tmp_path: Path) -> None:
        at = folder(tmp_path, chat_template__jinja="{{ 'file' }}")
        with pytest.raises(TokenizerError, match=r"'rag' is no template.* is default"):
            load_tokenizer(at).apply_chat_template([USER], chat_template="rag")

    def test_several_and_no_default(self, tmp_path: Path) -> None:
        at = folder(tmp_path, additional_chat_templates_in_rag__jinja="{{ 'rag' }}")
        assert both(at, [USER], chat_template="rag") == "rag"
        with pytest.raises(TokenizerError, match=r"no default; .* one of rag"):
            load_tokenizer(at).apply_chat_template([USER])

    @pytest.mark.parametrize("given", [7, [{"name": "x"}], {"a": "b"}, ["x"]])
    def test_what_is_no_template(self, tmp_path: Path, given: object) -> None:
        at = folder(tmp_path, config={"chat_template": given})
        with pytest.raises(TokenizerError, match="chat_template is neither a text"):
            load_tokenizer(at)


class TestTokens:
    """Tokens that the files beside tokenizer.json name."""

    ECHO = (
        "{{ bos_token }}|{{ image_token }}|{{ x_token }}|{{ sep_token }}"
        "{% for m in messages %}{{ m.content }}<tool_x><new><a><b><|user|>{% endfor %}"
    )
    CASES: ClassVar[dict[str, dict[str, Any]]] = {
        "added_tokens.json": {"added_tokens__json": {"<tool_x>": 335}},
        "two of them": {"added_tokens__json": {"<new>": 336, "<tool_x>": 335}},
        "the map": {
            "config": {"bos_token": None},
            "special_tokens_map__json": {
                "bos_token": {"content": "<new>", "lstrip": True},
                "additional_special_tokens": ["<tool_x>", "<a>"],
                "x_token": "<b>",
            },
        },
        "the map wins": {"special_tokens_map__json": {"bos_token": "<eop>"}},
        "the table wins": {
            "config": {
                "added_tokens_decoder": {
                    "335": {"content": "<tool_x>", "special": True, "lstrip": True}
                }
            },
            "special_tokens_map__json": {"bos_token": "<eop>"},
            "added_tokens__json": {"<new>": 336},
        },
        "additional": {"config": {"additional_special_tokens": ["<tool_x>", "<new>"]}},
        "extra": {"config": {"extra_special_tokens": ["<tool_x>"]}},
        "extra by name": {
            "config": {
                "extra_special_tokens": {"image_token": "<new>", "y_token": "<a>"},
                "x_token": "<b>",
            }
        },
        "all": {
            "config": {
                "sep_token": "<b>",
                "additional_special_tokens": ["<a>"],
            },
            "added_tokens__json": {"<tool_x>": 335, "<a>": 336},
            "special_tokens_map__json": {"bos_token": "<new>"},
        },
    }

    @pytest.mark.parametrize("case", CASES)
    def test_as_transformers(self, tmp_path: Path, case: str) -> None:
        at = folder(tmp_path, chat_template__jinja=self.ECHO, **self.CASES[case])
        both(at, [{"role": "user", "content": "a <b> c <tool_x> d"}])
        ours, theirs = pair(at)
        for text in ("x <tool_x> y<new>z", "<a> <b>", "<eop> <sop>"):
            ids = theirs.encode(text)
            assert ours.encode(text, encode_special_tokens=True) == ids
            for skip in (False, True):
                said = theirs.decode(ids, skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == said
        assert ours.vocab_size == len(theirs)

    def test_control_the_files_matter(self, tmp_path: Path) -> None:
        seen = set()
        for name, files in self.CASES.items():
            at = folder(tmp_path / name, **files)
            found = load_tokenizer(at)
            text = "<tool_x> <new> <a> <b>"
            seen.add(tuple(found.encode(text, encode_special_tokens=True)))
        assert len(seen) > 4

    @pytest.mark.parametrize(
        ("files", "cause"),
        [
            ({"added_tokens__json": {"<x>": 400}}, r"335 for '<x>', but added_tokens"),
            ({"added_tokens__json": {"<x>": "1"}}, "not a token with its id"),
            ({"added_tokens__json": {"": 1}}, "not a token with its id"),
            ({"special_tokens_map__json": b"[]"}, "holds a list"),
        ],
    )
    def test_what_is_damaged(self, tmp_path: Path, files: Any, cause: str) -> None:
        with pytest.raises(TokenizerError, match=cause):
            load_tokenizer(folder(tmp_path, **files))


OPEN = (
    "{% for m in messages %}<|user|>{{ m.content | trim if trim else m.content }}"
    "{{ m.reasoning_content }}<|endoftext|>\n{% endfor %}"
)


class TestContinuing:
    @pytest.mark.parametrize("trim", [False, True])
    @pytest.mark.parametrize("said", ["The answer", " The answer ", "a\n", "x"])
    def test_as_transformers(self, tmp_path: Path, said: str, trim: bool) -> None:
        at = folder(tmp_path, chat_template__jinja=OPEN)
        chat = [USER, {"role": "assistant", "content": said}]
        text = both(at, chat, continue_final_message=True, trim=trim)
        assert text.endswith(said.strip() if trim else said)

    def test_other_texts(self, tmp_path: Path) -> None:
        at = folder(tmp_path, chat_template__jinja=OPEN)
        chat = [{"role": "assistant", "content": "a", "thinking": "so"}]
        text = both(at, chat, continue_final_message="reasoning_content")
        assert text.endswith("aso")
        assert chat == [{"role": "assistant", "content": "a", "thinking": "so"}]
        parts = "{% for m in messages %}{{ m.content[0].text }}.{% endfor %}"
        chat = [{"role": "user", "content": [{"type": "text", "text": "so"}]}]
        at = folder(tmp_path, chat_template__jinja=parts)
        assert both(at, chat, continue_final_message=True) == "so"

    @pytest.mark.parametrize(
        ("message", "options", "cause"),
        [
            ({"content": "a"}, {"add_generation_prompt": True}, "needs it closed"),
            ({"x": "a"}, {}, "'content', but the final message has no such key"),
            ({"content": "a"}, {"continue_final_message": "y"}, "no such key"),
            ({"y": "a"}, {"continue_final_message": "y"}, "template reads no such"),
            ({"content": [{"type": "image"}]}, {}, "no part with text"),
            ({"content": 7}, {}, "which is a int"),
        ],
    )
    def test_what_cannot_go_on(
        self, tmp_path: Path, message: Any, options: Any, cause: str
    ) -> None:
        at = folder(tmp_path, chat_template__jinja="{{ messages[0].content }}{{ 1 }}")
        options = {"continue_final_message": True} | options
        with pytest.raises(TokenizerError, match=cause):
            load_tokenizer(at).apply_chat_template(
                [{"role": "assistant", **message}], **options
            )

    def test_a_template_that_drops_the_message(self, tmp_path: Path) -> None:
        at = folder(tmp_path, chat_template__jinja="{{ messages[0].content[:3] }}")
        with pytest.raises(TokenizerError, match="does not write the final message"):
            load_tokenizer(at).apply_chat_template(
                [{"role": "assistant", "content": "long"}], continue_final_message=True
            )

    @pytest.mark.parametrize("length", [40, 41])
    def test_of_a_long_message_the_beginning_is_told(
        self, tmp_path: Path, length: int
    ) -> None:
        at = folder(tmp_path, chat_template__jinja="{{ messages[0].content[:3] }}")
        chat = [{"role": "assistant", "content": "xyz" + "a" * (length - 3)}]
        with pytest.raises(TokenizerError) as caught:
            load_tokenizer(at).apply_chat_template(chat, continue_final_message=True)
        assert str(caught.value).endswith(f"begins with {'xyz' + 'a' * 37!r}.")


class TestAnswers:
    CHAT: ClassVar[Messages] = [
        USER,
        {"role": "assistant", "content": "你好 the weather"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "🌍 ok"},
    ]

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"truncation": True, "max_length": 70},
            {"add_generation_prompt": True},
            {"padding": "max_length", "max_length": 200},
            {"return_tensors": "pt"},
        ],
    )
    def test_masks_as_transformers(self, tmp_path: Path, options: Any) -> None:
        ours, theirs = pair(folder(tmp_path, chat_template__jinja=GENERATION))
        options = {"return_assistant_tokens_mask": True} | options
        for chats in (self.CHAT, [self.CHAT, self.CHAT[:2] * 2]):
            several = {} if chats is self.CHAT else {"padding": True}
            a = ours.apply_chat_template(chats, **several | options)
            b = theirs.apply_chat_template(chats, **several | options)
            for name in ("input_ids", "attention_mask", "assistant_masks"):
                assert torch.equal(torch.tensor(a[name]), torch.tensor(b[name])), name
            assert torch.tensor(a["assistant_masks"]).sum() > 5

    def test_masks_where_messages_spell_tokens(self, tmp_path: Path) -> None:
        """The marks around them move no place."""
        ours = load_tokenizer(folder(tmp_path, chat_template__jinja=GENERATION))
        chat = [
            {"role": "user", "content": "a<|user|>b<|endoftext|>"},
            {"role": "assistant", "content": "你<|user|>好"},
        ]
        batch = ours.apply_chat_template(chat, return_assistant_tokens_mask=True)
        kept = zip(batch["input_ids"], batch["assistant_masks"], strict=True)
        said = ours.decode([number for number, mask in kept if mask])
        assert said == "你<|user|>好<|im_end|>"
        specials = set(ours.special_tokens.values())
        assert not specials & set(batch["input_ids"])

    def test_what_has_no_mask(self, tmp_path: Path) -> None:
        ours = load_tokenizer(folder(tmp_path, chat_template__jinja=QWEN))
        for options, cause in (
            ({}, r"block \{% generation %\}, and chat_template.jinja has none"),
            ({"tokenize": False}, "with tokenize=True and return_dict"),
            ({"continue_final_message": True}, "needs it closed"),
        ):
            with pytest.raises(TokenizerError, match=cause):
                ours.apply_chat_template(
                    self.CHAT, return_assistant_tokens_mask=True, **options
                )


class TestArguments:
    """An argument that transformers names is obeyed, or refused by name."""

    def test_batches_of_chats(self, tmp_path: Path) -> None:
        ours, theirs = pair(folder(tmp_path, chat_template__jinja=QWEN))
        chats = [CHATS["question"], CHATS["rounds"]]
        for options in (
            {"tokenize": False},
            {},
            {"padding": True, "return_tensors": "pt"},
            {"padding": "max_length", "max_length": 300, "return_dict": False},
            {"truncation": True, "max_length": 9},
            {"padding": True, "tokenizer_kwargs": {"pad_to_multiple_of": 8}},
            {"padding": True, "tokenizer_kwargs": {"padding_side": "right"}},
            {"tokenizer_kwargs": {"return_attention_mask": False}},
        ):
            a = ours.apply_chat_template(chats, **options)
            b = theirs.apply_chat_template(chats, **options)
            if isinstance(a, dict):
                assert ("attention_mask" in a) == ("attention_mask" in b)
                for name in {"input_ids", "attention_mask"} & a.keys():
                    x, y = a[name], b[name]
                    same = torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
                    assert same, (name, options)
            else:
                assert a == b

    @pytest.mark.parametrize(
        ("options", "cause"),
        [
            ({"return_attention_mask": False}, "give tokenizer_kwargs="),
            ({"tokenizer_kwargs": {"stride": 4}}, "does not obey stride=4"),
            ({"tokenizer_kwargs": {"colour": 4}}, "no argument of that name"),
            ({"sanitize_control_tokens": True}, "sanitize_control_tokens=True is not"),
            ({"documents": ["x"]}, "documents is a list of mappings"),
            ({"tools": [7]}, "a tool is a JSON schema or a function"),
            ({"tools": "x"}, "tools is a list"),
            ({"chat_template": 7}, "takes a template or the name"),
            ({"padding": "widest"}, "padding is 'widest'"),
            ({"truncation": "x"}, "truncation is 'x'"),
            ({"max_length": 0}, "max_length is 0"),
            ({"return_tensors": "tf"}, "return_tensors is 'tf'"),
        ],
    )
    def test_what_is_not_obeyed(self, tmp_path: Path, options: Any, cause: str) -> None:
        ours = load_tokenizer(folder(tmp_path, chat_template__jinja=QWEN))
        with pytest.raises(TokenizerError, match=cause):
            ours.apply_chat_template([USER], **options)

    def test_special_tokens_may_be_called(self, tmp_path: Path) -> None:
        ours, theirs = pair(folder(tmp_path, chat_template__jinja=QWEN))
        chat = [{"role": "user", "content": "a<|user|>b"}]
        loud = ours.apply_chat_template(chat, sanitize_control_tokens=False)
        assert loud["input_ids"] == theirs.apply_chat_template(chat)["input_ids"]
        assert loud["input_ids"] != ours.apply_chat_template(chat)["input_ids"]

    CALLS: tuple[dict[str, Any], ...] = (
        {"truncation": True, "max_length": 7},
        {"max_length": 7},
        {"truncation": "only_first", "max_length": 9},
        {"truncation": "only_second", "max_length": 9},
        {"truncation": "longest_first", "max_length": 6},
        {"truncation": True, "max_length": 7, "add_special_tokens": False},
        {"padding": "max_length", "max_length": 30},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": "longest", "padding_side": "right"},
        {"padding": "do_not_pad", "return_token_type_ids": True},
        {"truncation": True},
        {"split_special_tokens": True},
    )

    @pytest.mark.parametrize("options", CALLS)
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_calls_as_transformers(
        self, tmp_path: Path, options: dict[str, Any], side: str
    ) -> None:
        config = {"truncation_side": side, "model_max_length": 12}
        ours, theirs = pair(folder(tmp_path, config=config))
        texts = ["the weather is good today", "你好", "a b c d e f g h i<|user|>"]
        pairs = ["language 12345", "the the the the good", "x"]
        options = {"split_special_tokens": False, "padding": False} | options
        for arguments in ((texts,), (texts, pairs), (texts[0],), (texts[0], pairs[0])):
            mine = outcome(lambda a=arguments: ours(*a, **options))
            their = outcome(lambda a=arguments: theirs(*a, **options))
            if their == "refused":
                assert mine is True
                continue
            names = ["input_ids", "attention_mask"]
            names += ["token_type_ids"] * bool(options.get("return_token_type_ids"))
            for name in names:
                assert mine[name] == their[name], (name, arguments)

    def test_what_a_call_does_not_obey(self, tmp_path: Path) -> None:
        ours = load_tokenizer(folder(tmp_path))
        assert ours("a", stride=0, verbose=True, return_offsets_mapping=False)
        for name in ("stride", "return_offsets_mapping", "text_target", "colour"):
            with pytest.raises(TokenizerError, match=f"does not obey {name}="):
                ours("a", **{name: "x"})
        with pytest.raises(TokenizerError, match="padding_side is 'up'"):
            ours("a", padding_side="up")
        with pytest.raises(TokenizerError, match="no multiple of"):
            ours("a", truncation=True, max_length=9, pad_to_multiple_of=8)

    def test_decoding_as_transformers(self, tmp_path: Path) -> None:
        ours, theirs = pair(folder(tmp_path))
        rows = [theirs.encode("it 's good , you ?"), theirs.encode("你好")]
        for options in ({}, {"clean_up_tokenization_spaces": True}):
            assert ours.decode(rows, **options) == theirs.decode(rows, **options)
            assert ours.decode(rows[0], **options) == theirs.decode(rows[0], **options)
        with pytest.raises(TokenizerError, match="decode does not obey colour="):
            ours.decode(rows[0], colour=1)


def test_words_are_cleaned_as_transformers(tmp_path: Path) -> None:
    """A vocabulary of words writes blanks that its text did not have."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    words = ["[UNK]", "it", "'", "s", "good", ",", "?", "n't", "do", "."]
    made = Library(
        models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(cleanup=False)
    config = {"clean_up_tokenization_spaces": True, "bos_token": None}
    at = folder(tmp_path, config=config)
    at = write(at, {"tokenizer.json": made.to_str()})
    ours, theirs = pair(at)
    ids = theirs.encode("it 's good , do n't ?")
    assert ours.decode(ids) == theirs.decode(ids)
    plain = {"clean_up_tokenization_spaces": False}
    assert ours.decode(ids, **plain) == theirs.decode(ids, **plain) != ours.decode(ids)
