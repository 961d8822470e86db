"""Render one chat by one Jinja template: its text, its ids, and the mask of answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bpe import JsonCodec
from .budget import words
from .codec import Codec
from .conversation import plain
from .files import TokenizerError
from .marking import marked, unused_mark
from .templates import Template, marks_answers, render_chat

#: Arguments of a call that are no variables of a template.
OF_A_CALL = words(
    "add_special_tokens stride is_split_into_words pad_to_multiple_of padding_side "
    "return_token_type_ids return_attention_mask return_overflowing_tokens "
    "return_special_tokens_mask return_offsets_mapping return_length "
    "split_special_tokens text_pair text_target"
)


@dataclass(frozen=True)
class Request:
    """The arguments of `apply_chat_template`, beside the chats."""

    tools: list[Any] | None
    documents: list[Any] | None
    generate: bool
    goes_on: bool | str
    masked: bool
    specials: bool
    variables: Mapping[str, Any]

    @property
    def given(self) -> list[str]:
        """The names of what only a Jinja template obeys."""
        named = {
            "tools": self.tools,
            "documents": self.documents,
            "continue_final_message": self.goes_on or None,
            "return_assistant_tokens_mask": self.masked or None,
            **self.variables,
        }
        return sorted(name for name, value in named.items() if value is not None)

    def check(self, tokenize: bool, as_dict: bool, sanitize: bool | None) -> None:
        """Refuses what contradicts itself, and what no template could obey."""
        lost = sorted(OF_A_CALL & self.variables.keys())
        if lost:
            raise TokenizerError(
                f"{lost[0]} is an argument of a call of the tokenizer, not of a chat "
                f"template; give tokenizer_kwargs={{{lost[0]!r}: ...}}."
            )
        if self.goes_on and (self.generate or self.masked):
            other = "add_generation_prompt" if self.generate else "a mask of answers"
            raise TokenizerError(
                "continue_final_message leaves the last message open, and "
                f"{other} needs it closed; ask for one of them."
            )
        if self.masked and not (tokenize and as_dict):
            raise TokenizerError(
                "return_assistant_tokens_mask is a part of the answer with "
                "tokenize=True and return_dict=True; leave them so."
            )
        if sanitize:
            raise TokenizerError(
                "sanitize_control_tokens=True is not obeyed: special tokens that a "
                "message spells stay text without it, but a token that is not special, "
                "such as <think>, cannot be kept text; leave it out."
            )


@dataclass(frozen=True)
class Rendered:
    """A chat's text, its ids, and 1 for each id that is in an answer."""

    text: str
    ids: list[int]
    mask: list[int]


def jinja_chat(
    codec: Codec,
    template: Template,
    chat: list[dict[str, Any]],
    named: Mapping[str, str],
    asked: Request,
    tokenize: bool,
) -> Rendered:
    """Renders a chat by a template; without `tokenize` its text alone.

    Names of special tokens that messages, tools, documents and variables spell stay
    text among the ids, unless the request says otherwise.
    """
    given: dict[str, Any] = {
        "tools": asked.tools,
        "documents": asked.documents,
        **plain(asked.variables),
    }
    mark = "" if asked.specials or not tokenize else unused_mark([given, chat])
    if mark:
        given = marked(given, codec.pattern, mark)
        chat = marked(chat, codec.pattern, mark)
    given["add_generation_prompt"] = asked.generate
    spans: list[tuple[int, int]] = []
    if asked.masked and not marks_answers(template):
        raise TokenizerError(
            f"return_assistant_tokens_mask needs a chat template with the block "
            f"{{% generation %}}, and {template.where} has none."
        )
    text = render_chat(template, chat, {**named, **given}, asked.goes_on, spans)
    _check_text(text, template)
    if not tokenize:
        return Rendered(text, [], [])
    if not asked.masked:
        return Rendered(_clean(text, mark), codec.encode_marked(text, mark), [])
    if not isinstance(codec, JsonCodec):
        raise TokenizerError(
            "return_assistant_tokens_mask needs to know where each token stands in "
            "the text, which only a tokenizer.json tells; this repository has none."
        )
    places = codec.encode_places(text, mark)
    ids = [number for number, _, _ in places]
    return Rendered(_clean(text, mark), ids, _mask(places, spans))


def _clean(text: str, mark: str) -> str:
    return text.replace(mark, "") if mark else text


def _check_text(text: str, template: Template) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text that the chat template ({template.where}) makes has half a "
            f"surrogate pair at {error.start}, which is no character."
        ) from error


def _mask(
    places: Sequence[tuple[int, int, int]], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """Returns 1 for the tokens from that of a span's first character to that of its
    last.

    Where several tokens share a character, the first of them counts, as in
    transformers.
    """
    mask = [0] * len(places)
    owner: dict[int, int] = {}
    for index, (_, begin, end) in enumerate(places):
        for at in range(begin, end):
            owner.setdefault(at, index)
    for begin, end in spans:
        first, last = owner.get(begin), owner.get(end - 1)
        if first is None or end <= begin:
            continue
        for index in range(first, len(mask) if last is None else last + 1):
            mask[index] = 1
    return mask
