"""`load_tokenizer`: text to what a model is called with, and its answers to text.

The tokenizer comes from a repository's data files alone; Python in it is never run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .batch import Batch, collate
from .chat import Message, Special, check_messages
from .files import TokenizerError, find_folder
from .jinja import marked, render, unused_mark
from .loading import Profile, chat_templates, named_tokens, read_profile
from .stream import StreamDecoder


def load_tokenizer(
    source: str | Path,
    *,
    variant: str | None = None,
    model_class: Any = None,
    revision: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
) -> "Tokenizer":
    """The tokenizer of a folder or hub id.

    Read are ice_text.model, tokenizer.model (SentencePiece or tiktoken style) or
    tokenizer.json, and the JSON files beside it. `variant` ("chatglm", "chatglm2",
    "chatglm3", "codegeex2", "glm-4") decides where the files do not. With
    `model_class`, a build's Model, a tokenizer of another model or generation is
    refused. Raises TokenizerError (a ValueError) where the files are damaged, unknown
    or do not belong together. `revision`, `endpoint` (a mirror) and `offline` are for
    hub ids.
    """
    folder = find_folder(source, revision=revision, endpoint=endpoint, offline=offline)
    profile = read_profile(folder, variant, model_class)
    return Tokenizer(profile, chat_templates(folder), named_tokens(folder))


class Tokenizer:
    """Callable as users of transformers expect: `model(**tokenizer(text,
    return_tensors="pt"))`.

    Text that spells a special token, such as `<|user|>`, stays text unless
    `encode_special_tokens` is asked for.
    """

    def __init__(
        self,
        profile: Profile,
        templates: Mapping[str, str] | None = None,
        named: Mapping[str, str] | None = None,
    ):
        self._profile = profile
        self._codec = profile.codec
        self._templates = dict(templates or {})
        self._named = dict(named or {})
        #: Where batches are padded: decoders continue a row at its right.
        self.padding_side = profile.side

    @property
    def variant(self) -> str | None:
        """Whose special tokens and chat these are; None where only the files say."""
        return self._profile.variant

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text."""
        return next(iter(self._profile.eos), None)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids at which an answer in a chat ends; for `eos_token_id=`."""
        return self._profile.eos

    @property
    def pad_token_id(self) -> int:
        """The id that fills rows up; the attention mask hides it."""
        return self._profile.pad

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; models may have more rows than that."""
        return self._codec.size

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token."""
        return dict(self._codec.specials)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        kind = type(self._codec).__name__.removesuffix("Codec")
        return (
            f"Tokenizer({kind}, variant={self.variant!r}, "
            f"vocab_size={self.vocab_size}, eos_token_ids={self.eos_token_ids})"
        )

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        encode_special_tokens: bool = False,
        padding: bool = True,
    ) -> Batch:
        """input_ids, attention_mask and position_ids of a text or a list of texts.

        With `return_tensors="pt"` they are int64 [B, T] (position_ids [B, 2, T] for
        ChatGLM-6B), shorter rows padded on `padding_side`; else lists, for one text
        without the outer one. `text_pair` adds a second text to each. position_ids is
        left out for ChatGLM-6B without its special tokens, where it has no meaning.
        """
        single = isinstance(text, str)
        texts = _texts(text)
        pairs = [None] * len(texts) if text_pair is None else _texts(text_pair)
        if len(pairs) != len(texts):
            raise TokenizerError(
                f"there are {len(texts)} texts but {len(pairs)} in text_pair; give "
                "one for each."
            )
        rows, types = [], []
        for first, second in zip(texts, pairs, strict=True):
            ids, kinds = self._codec.encode_prompt(
                first, second, specials=add_special_tokens, marked=encode_special_tokens
            )
            rows.append(ids)
            types.append(kinds)
        return self._batch(rows, types, return_tensors, padding, single)

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        encode_special_tokens: bool = False,
    ) -> list[int]:
        """Ids of one text, or of a pair."""
        pair = None if text_pair is None else _text(text_pair)
        return self._codec.encode_prompt(
            _text(text), pair, specials=add_special_tokens, marked=encode_special_tokens
        )[0]

    def decode(
        self,
        token_ids: int | Sequence[int] | torch.Tensor,
        skip_special_tokens: bool = False,
    ) -> str:
        """Text of ids; broken characters become U+FFFD, rows without a word nothing."""
        return self._codec.decode(_ids(token_ids), skip_special_tokens)

    def batch_decode(
        self,
        rows: Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
    ) -> list[str]:
        """The text of each row."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for ids as they come: `put(id)` and `end()`, or called with them
        all, it gives text without broken characters."""
        return StreamDecoder(self._codec, skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = True,
        chat_template: str | None = None,
        encode_special_tokens: bool = False,
        **variables: Any,
    ) -> Any:
        """What a model continues a chat from.

        `messages` are {"role", "content"}; which roles there are is the template's
        matter. The repository's own Jinja template is rendered, sandboxed, or the one
        given; without either, the chat of the published code. `variables` (tools=,
        documents=, enable_thinking=, ...) go to the Jinja template. Answers with a
        batch as a call does, its input_ids alone without `return_dict`, or without
        `tokenize` with the text.
        """
        chat = check_messages(messages)
        if chat_template is None:
            name = "tool_use" if variables.get("tools") else "default"
            chat_template = self._templates.get(name, self._templates.get("default"))
        if chat_template is None:
            ids, text = self._own_chat(
                chat, add_generation_prompt, encode_special_tokens, variables
            )
        else:
            variables |= {"add_generation_prompt": add_generation_prompt}
            ids, text = self._jinja_chat(
                chat_template, chat, encode_special_tokens, variables
            )
        if not tokenize:
            return text
        batch = self._batch([ids], [[0] * len(ids)], return_tensors, True, True)
        return batch if return_dict else batch["input_ids"]

    def _own_chat(
        self,
        messages: list[Message],
        generate: bool,
        specials: bool,
        variables: Mapping[str, Any],
    ) -> tuple[list[int], str]:
        if self._profile.chat is None:
            raise TokenizerError(
                f"this tokenizer ({self.variant or 'of no known variant'}) has no chat "
                "template; give chat_template=, or tokenize the prompt as it is."
            )
        given = sorted(name for name, value in variables.items() if value is not None)
        if given:
            raise TokenizerError(
                f"{given[0]} is for Jinja chat templates, and this tokenizer has none; "
                "give chat_template= with one that knows it."
            )
        parts = self._profile.chat(messages, generate)
        encode = self._codec.encode_marked if specials else self._codec.encode_plain
        ids: list[int] = []
        for part in parts:
            if isinstance(part, Special):
                ids.append(self._codec.specials[part])
            else:
                ids += encode(_text(part))
        return ids, "".join(parts)

    def _jinja_chat(
        self,
        template: str,
        messages: list[Message],
        specials: bool,
        variables: Mapping[str, Any],
    ) -> tuple[list[int], str]:
        given: dict[str, Any] = {"tools": None, "documents": None}
        given |= {**variables, "messages": messages}
        mark = "" if specials else unused_mark(given.values())
        if mark:
            given = marked(given, self._codec.pattern, mark)
        text = _text(render(template, self._named | given))
        ids = self._codec.encode_marked(text, mark)
        return ids, text.replace(mark, "") if mark else text

    def _batch(
        self,
        rows: list[list[int]],
        types: list[list[int]],
        return_tensors: str | None,
        padding: bool,
        single: bool,
    ) -> Batch:
        if return_tensors not in (None, "pt"):
            raise TokenizerError(
                f"return_tensors is {return_tensors!r}; 'pt' gives torch tensors and "
                "None gives lists."
            )
        batch = collate(
            rows,
            types if self._profile.typed else None,
            self._profile.positions,
            pad=self.pad_token_id if padding else None,
            side=self.padding_side,
        )
        if return_tensors is None:
            return Batch({k: v[0] for k, v in batch.items()}) if single else batch
        if len({len(row) for row in batch["input_ids"]}) > 1:
            raise TokenizerError(
                "the texts have different numbers of tokens, so a tensor of them needs "
                "padding=True."
            )
        return Batch({k: torch.tensor(v, dtype=torch.int64) for k, v in batch.items()})


def _texts(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        if not value:
            raise TokenizerError("there is no text to encode: the list is empty.")
        return [_text(part) for part in value]
    return [_text(value)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TokenizerError(
            f"what is encoded must be text or a list of texts, not a "
            f"{type(value).__name__}."
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has half a surrogate pair at {error.start}, which is no "
            "character; read it as UTF-8, or encode it with errors='replace' first."
        ) from error
    return value


def _ids(value: object) -> list[int]:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    ids = [value] if isinstance(value, int) else value
    if isinstance(ids, list | tuple):
        plain = [int(i) for i in ids if isinstance(i, int | torch.Tensor)]
        if len(plain) == len(ids) and all(i >= 0 for i in plain):
            return plain
    raise TokenizerError(
        "decode takes the ids of one text, none of them negative; for several rows "
        "there is batch_decode."
    )
