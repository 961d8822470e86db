"""Turn text into a model's arguments, and its answers into text: `load_tokenizer`.

The tokenizer comes from a repository's data files alone; Python in it is never run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .arguments import (
    Shape,
    check_ids,
    check_text,
    check_texts,
    cut_to,
    refuse,
    shape,
)
from .batch import Batch, collate
from .codec import Cut, cleaned
from .conversation import conversations, schemas
from .conversation import documents as check_documents
from .files import TokenizerError, find_folder
from .loading import read_profile
from .messages import Message, Special
from .profile import Profile
from .rendering import Rendered, Request, jinja_chat
from .specials import read_specials
from .stream import StreamDecoder
from .templates import Template, choose_template, read_templates


def load_tokenizer(
    source: str | Path,
    *,
    variant: str | None = None,
    model_class: Any = None,
    revision: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    timeout: float | None = None,
) -> "Tokenizer":
    """Loads the tokenizer of a folder or hub id.

    Read are ice_text.model, tokenizer.model (SentencePiece or tiktoken style) or
    tokenizer.json, as far as models of the build's kind have them (see `readers`), and
    the JSON files beside it. `variant` decides where the files do not. With
    `model_class`, a build's Model, a tokenizer of another model or generation is
    refused. Raises TokenizerError (a ValueError) where the files are damaged, unknown
    or do not belong together. `revision`, `endpoint` (a mirror), `offline` and
    `timeout` (seconds of a server's silence) are for hub ids.
    """
    hub = {"endpoint": endpoint, "offline": offline, "timeout": timeout}
    folder = find_folder(source, revision=revision, **hub)
    profile = read_profile(folder, variant, model_class)
    return Tokenizer(profile, read_templates(folder), read_specials(folder).named)


class Tokenizer:
    """A tokenizer that is called as users of transformers expect:
    `model(**tokenizer(text, return_tensors="pt"))`.

    Text that spells a special token, such as `<|user|>`, stays text unless
    `encode_special_tokens` is asked for.
    """

    def __init__(
        self,
        profile: Profile,
        templates: Mapping[str, Template] | None = None,
        named: Mapping[str, str] | None = None,
    ):
        self._profile = profile
        self._codec = profile.codec
        self._templates = dict(templates or {})
        self._named = dict(named or {})
        #: Where batches are padded: decoders continue a row at its right.
        self.padding_side = profile.side
        #: Where tokens are left out of rows that are cut.
        self.truncation_side = profile.cut_side

    @property
    def variant(self) -> str | None:
        """The family of these special tokens and chats; None where only the files
        say."""
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
        padding: bool | str = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        **others: Any,
    ) -> Batch:
        """Returns input_ids, attention_mask and position_ids of a text or a list of
        texts.

        With `return_tensors="pt"` they are int64 [B, T] (position_ids [B, 2, T] for
        ChatGLM-6B), shorter rows padded on `padding_side`; else lists, for one text
        without the outer one. `text_pair` adds a second text to each. position_ids is
        left out for ChatGLM-6B without its special tokens, where it has no meaning.

        `padding`, `truncation` and `max_length` are transformers', and so are, among
        `others`, pad_to_multiple_of, padding_side, return_attention_mask,
        return_token_type_ids, return_length and split_special_tokens (the opposite of
        `encode_special_tokens`). What is not obeyed is refused by name with a
        TokenizerError.
        """
        if "split_special_tokens" in others:
            encode_special_tokens = not others.pop("split_special_tokens")
        form = self._shape(padding, truncation, max_length, others, "a tokenizer")
        single = isinstance(text, str)
        texts = check_texts(text)
        pairs = [None] * len(texts) if text_pair is None else check_texts(text_pair)
        if len(pairs) != len(texts):
            raise TokenizerError(
                f"there are {len(texts)} texts but {len(pairs)} in text_pair; give "
                "one for each."
            )
        cut = form.most and Cut(form.most, form.truncation, self.truncation_side)
        rows, types = [], []
        for first, second in zip(texts, pairs, strict=True):
            ids, kinds = self._codec.encode_prompt(
                first,
                second,
                specials=add_special_tokens,
                marked=encode_special_tokens,
                cut=cut or None,
            )
            rows.append(ids)
            types.append(kinds)
        return self._batch(rows, types, return_tensors, form, single)

    def _shape(
        self,
        padding: bool | str | None,
        truncation: bool | str | None,
        max_length: int | None,
        others: dict[str, Any],
        call: str,
    ) -> Shape:
        form = shape(padding, truncation, max_length, others, self._profile.longest)
        refuse(others, call)
        return form

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        padding: bool | str = False,
        **options: Any,
    ) -> Any:
        """Returns ids of one text, or of a pair: a list, or what `return_tensors` says.

        `options` are those of a call.
        """
        pair = None if text_pair is None else check_text(text_pair)
        return self(check_text(text), pair, padding=padding, **options)["input_ids"]

    def decode(
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> Any:
        """Returns text of ids, or the texts of several rows.

        Broken characters become U+FFFD, ids without a word nothing.
        `clean_up_tokenization_spaces` takes the blank before punctuation away; by
        default as tokenizer_config.json says, and never for BPE, where blanks are
        text.
        """
        refuse(others, "decode")
        if isinstance(token_ids, torch.Tensor):
            token_ids = token_ids.tolist()
        if isinstance(token_ids, list | tuple) and any(
            isinstance(row, list | tuple | torch.Tensor) and getattr(row, "ndim", 1)
            for row in token_ids
        ):
            return self.batch_decode(
                token_ids, skip_special_tokens, clean_up_tokenization_spaces
            )
        return self._text_of(
            token_ids, skip_special_tokens, clean_up_tokenization_spaces
        )

    def _text_of(self, row: object, skip: bool, clean: bool | None) -> str:
        text = self._codec.decode(check_ids(row), skip)
        clean = self._profile.clean if clean is None else clean
        return cleaned(text) if clean and self._codec.blanks_apart else text

    def batch_decode(
        self,
        sequences: Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> list[str]:
        """Returns the text of each row; see `decode`."""
        refuse(others, "batch_decode")
        return [
            self._text_of(row, skip_special_tokens, clean_up_tokenization_spaces)
            for row in sequences
        ]

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """Returns a decoder for ids as they come: `put(id)` and `end()`, or called with
        them all, it gives text without broken characters."""
        return StreamDecoder(self._codec, skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        *,
        encode_special_tokens: bool = False,
        **variables: Any,
    ) -> Any:
        """Renders a chat, or several, as the prompt that a model continues.

        A chat is a list of {"role", "content"}; which roles there are is the
        template's matter. Rendered, in a sandbox, is `chat_template` (a name of the
        repository's, or Jinja text), or else the repository's own; without either,
        the chat of the published code. `tools` are JSON schemas or functions with type
        hints and a docstring. With `continue_final_message` (or the key of a text) the
        last message is left open. `variables` (enable_thinking=, ...) go to the
        template; arguments of a call go into `tokenizer_kwargs`.

        Answers with a batch as a call does, its input_ids alone without `return_dict`,
        or without `tokenize` with the text. `return_assistant_tokens_mask` adds
        assistant_masks, 1 for each token in a block `{% generation %}`. Raises
        TokenizerError for what the template or this method does not take.
        """
        asked = Request(
            tools=schemas(tools),
            documents=check_documents(documents),
            generate=add_generation_prompt,
            goes_on=continue_final_message,
            masked=return_assistant_tokens_mask,
            specials=encode_special_tokens,
            variables=variables,
        )
        asked.check(tokenize, return_dict, sanitize_control_tokens)
        if sanitize_control_tokens is False:
            asked = dataclasses.replace(asked, specials=True)
        chats, several = conversations(conversation)
        template = choose_template(self._templates, chat_template, tools is not None)
        others = dict(tokenizer_kwargs or {})
        if padding is None:
            padding = return_tensors is not None
        form = self._shape(padding, truncation, max_length, others, "tokenizer_kwargs")
        made = [self._chat(template, chat, asked, tokenize) for chat in chats]
        if not tokenize:
            return [m.text for m in made] if several else made[0].text
        most, side = form.most, self.truncation_side
        rows = [m.ids if most is None else cut_to(m.ids, most, side) for m in made]
        masks = [m.mask if most is None else cut_to(m.mask, most, side) for m in made]
        kinds = [[0] * len(row) for row in rows]
        extra = {"assistant_masks": masks} if return_assistant_tokens_mask else {}
        batch = self._batch(rows, kinds, return_tensors, form, not several, extra)
        return batch if return_dict else batch["input_ids"]

    def _chat(
        self,
        template: Template | None,
        chat: list[dict[str, Any]],
        asked: Request,
        tokenize: bool,
    ) -> Rendered:
        if template is not None:
            return jinja_chat(self._codec, template, chat, self._named, asked, tokenize)
        ids, text = self._own_chat(chat, asked)
        return Rendered(text, ids, [])

    def _own_chat(
        self, messages: Sequence[Message], asked: Request
    ) -> tuple[list[int], str]:
        if self._profile.chat is None:
            raise TokenizerError(
                f"this tokenizer ({self.variant or 'of no known variant'}) has no chat "
                "template; give chat_template=, or tokenize the prompt as it is."
            )
        if given := asked.given:
            raise TokenizerError(
                f"{given[0]} is for Jinja chat templates, and this tokenizer has none; "
                "give chat_template= with one that knows it."
            )
        parts = self._profile.chat(messages, asked.generate)
        codec = self._codec
        encode = codec.encode_marked if asked.specials else codec.encode_plain
        ids: list[int] = []
        for part in parts:
            if isinstance(part, Special):
                ids.append(codec.specials[part])
            else:
                ids += encode(check_text(part))
        return ids, "".join(parts)

    def _batch(
        self,
        rows: list[list[int]],
        types: list[list[int]],
        return_tensors: str | None,
        form: Shape,
        single: bool,
        extra: Mapping[str, list[list[int]]] | None = None,
    ) -> Batch:
        if return_tensors not in (None, "pt"):
            raise TokenizerError(
                f"return_tensors is {return_tensors!r}; 'pt' gives torch tensors and "
                "None gives lists."
            )
        typed = self._profile.typed if form.types is None else form.types
        batch = collate(
            rows,
            types if typed else None,
            self._profile.positions,
            pad=None if form.padding == "do_not_pad" else self.pad_token_id,
            side=form.side or self.padding_side,
            length=form.max_length if form.padding == "max_length" else None,
            multiple=form.multiple,
            extra=extra or {},
        )
        if form.length:
            batch["length"] = [len(row) for row in batch["input_ids"]]
        if not form.mask:
            del batch["attention_mask"]
        if return_tensors is None:
            return Batch({k: v[0] for k, v in batch.items()}) if single else batch
        if len({len(row) for row in batch["input_ids"]}) > 1:
            raise TokenizerError(
                "the texts have different numbers of tokens, so a tensor of them needs "
                "padding=True."
            )
        return Batch({k: torch.tensor(v, dtype=torch.int64) for k, v in batch.items()})
