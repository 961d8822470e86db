"""From a folder to a vocabulary and what the model expects around it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .arguments import SIDES
from .batch import Positions, counted, two_dimensional
from .bpe import JsonCodec, TiktokenCodec, looks_like_ranks
from .chat import CHATS, Chat, glm4
from .codec import Codec
from .files import (
    MAX_VOCABULARY,
    Folder,
    TokenizerError,
    token_ids,
)
from .identity import (
    check_ends,
    check_ids,
    check_rows,
    choose_variant,
    ice_offset,
)
from .sentencepiece import IceCodec, SentencePieceCodec, has_specials
from .specials import Specials, read_specials

ICE_OFFSETS = {130528: 0, 150528: 20000}
GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
#: Tokens at which an answer ends.
GLM_ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>")


@dataclass(frozen=True)
class Profile:
    """A vocabulary and what the model it belongs to expects of its inputs."""

    codec: Codec
    variant: str | None
    eos: tuple[int, ...]
    pad: int
    positions: Positions = counted
    chat: Chat | None = None
    side: str = "left"
    typed: bool = False
    #: What tokenizer_config.json says of any tokenizer.
    longest: int | None = None
    cut_side: str = "right"
    clean: bool = False


def read_profile(folder: Folder, wanted: str | None, model_class: Any) -> Profile:
    """The tokenizer of a folder, checked against the model's rows and ids.

    `wanted` is the variant, where the caller chose one; `model_class` is a build's
    Model, or None.
    """
    name, kind, data = _vocabulary(folder)
    where = str(folder.path / name)
    variant = choose_variant(folder, kind, wanted)
    make = _MAKERS[kind]
    profile = replace(make(folder, where, data, variant), **_settings(folder))
    _check_model(folder, where, profile, model_class)
    return profile


def _settings(folder: Folder) -> dict[str, Any]:
    """How long a row may be, where it is cut, and whether decoded text is cleaned."""
    config = folder.tokenizer_config
    longest = config.get("model_max_length", config.get("max_len"))
    # Where no limit is known, transformers writes a number of 31 digits.
    known = type(longest) is int and 0 < longest <= 1 << 30
    side = config.get("truncation_side", "right")
    if side not in SIDES:
        raise TokenizerError(
            f"{folder.path / 'tokenizer_config.json'}: truncation_side is "
            f"{side!r:.40}; it is 'left' or 'right'."
        )
    return {
        "longest": longest if known else None,
        "cut_side": side,
        "clean": config.get("clean_up_tokenization_spaces") is True,
    }


def _vocabulary(folder: Folder) -> tuple[str, str, bytes]:
    """The file that holds the vocabulary, its kind, and its bytes."""
    for name in ("ice_text.model", "tokenizer.json", "tokenizer.model"):
        if folder.has(name):
            break
    else:
        raise TokenizerError(
            f"{folder.path} holds no tokenizer: there is none of ice_text.model, "
            "tokenizer.json, tokenizer.model. Download it into the same folder; the "
            "Python files of the repository are not used."
        )
    data = folder.read(name, MAX_VOCABULARY)
    kind = name
    if name == "tokenizer.model":
        kind = "tiktoken" if looks_like_ranks(data) else "sentencepiece"
    return name, kind, data


def _ice(folder: Folder, where: str, data: bytes, variant: str | None) -> Profile:
    offset = ice_offset(folder, has_specials(data, where))
    codec = IceCodec(data, where, offset)
    ids = codec.specials
    check_ids(
        folder,
        where,
        {
            "gmask_token_id": ids["[gMASK]"],
            "mask_token_id": ids["[MASK]"],
            "bos_token_id": ids["<sop>"],
            "eos_token_id": ids["<eop>"],
        },
    )
    return Profile(
        codec,
        variant,
        eos=(ids["<eop>"],),
        pad=ids["<pad>"],
        positions=two_dimensional(ids["[gMASK]"], ids["[MASK]"], ids["<sop>"]),
        chat=CHATS["chatglm"],
    )


def _sentencepiece(
    folder: Folder, where: str, data: bytes, variant: str | None
) -> Profile:
    codec = SentencePieceCodec(data, where, roles=variant == "chatglm3")
    ids = codec.specials
    check_ends(folder, where, ids.values())
    eos = [ids["</s>"]]
    if variant == "chatglm3":
        eos += [ids["<|user|>"], ids["<|observation|>"]]
    return Profile(codec, variant, tuple(eos), codec.pad, chat=CHATS.get(variant or ""))


def _tiktoken(folder: Folder, where: str, data: bytes, variant: str | None) -> Profile:
    codec = TiktokenCodec(data, where, read_specials(folder).ids)
    ids = codec.specials
    check_ends(folder, where, ids.values())
    return Profile(
        codec,
        variant,
        eos=tuple(ids[name] for name in GLM_ENDS),
        pad=ids["<|endoftext|>"],
        chat=CHATS["glm-4"],
    )


def _json(folder: Folder, where: str, data: bytes, variant: str | None) -> Profile:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{where} is no UTF-8 text ({error}); download it again."
        ) from error
    specials = read_specials(folder)
    codec = JsonCodec(text, where, specials)
    ids = codec.specials
    glm = all(name in ids for name in ("[gMASK]", "<sop>", *GLM_ROLES, *GLM_ENDS))
    if glm:
        check_ends(folder, where, ids.values())
    eos = _json_eos(folder, codec, specials) or tuple(ids[n] for n in GLM_ENDS if glm)
    pad = _json_id(codec, specials, "pad_token") or token_ids(
        folder.config.get("pad_token_id")
    )
    encoder = folder.config.get("model_type") == "bert"
    return Profile(
        codec,
        variant or ("glm-4" if glm else None),
        eos,
        pad=next(iter([*pad, *eos]), 0),
        chat=glm4 if glm else None,
        side="right" if encoder else "left",
        typed=encoder,
    )


def _json_eos(folder: Folder, codec: JsonCodec, specials: Specials) -> tuple[int, ...]:
    """The tokenizer's own end first, then those that end an answer."""
    configs = (folder.generation_config, folder.config)
    found = [token_ids(config.get("eos_token_id")) for config in configs]
    own = _json_id(codec, specials, "eos_token")
    ends = next(filter(None, found), ())
    return tuple(dict.fromkeys([*own, *ends]))


def _json_id(codec: JsonCodec, specials: Specials, name: str) -> tuple[int, ...]:
    text = specials.named.get(name)
    number = None if text is None else codec.tokenizer.token_to_id(text)
    return () if number is None else (int(number),)


def _check_model(
    folder: Folder, where: str, profile: Profile, model_class: Any
) -> None:
    """Refuses a vocabulary that is not the one of this config or this build."""
    codec, config = profile.codec, folder.config
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    rows = [config.get("padded_vocab_size"), config.get("vocab_size")]
    said = next((r for r in [*rows, inner.get("vocab_size")] if type(r) is int), None)
    built = getattr(model_class, "vocab_size", None)
    largest = (codec.words if isinstance(codec, JsonCodec) else codec.size) - 1
    for count, whose in ((said, "config.json beside it"), (built, "this model")):
        check_rows(where, largest, count, whose)
        if isinstance(codec, IceCodec) and count in ICE_OFFSETS:
            _check_ice(where, codec.offset, count, whose)
    ends = token_ids(list(getattr(model_class, "eos_token_id", ())))
    if ends and not isinstance(codec, JsonCodec) and profile.eos[0] not in ends:
        raise TokenizerError(
            f"{where} ends a text with the id {profile.eos[0]}, but this model was "
            f"compiled to stop at {', '.join(map(str, ends))}; the tokenizer is of "
            "another model or generation."
        )


def _check_ice(where: str, offset: int, rows: int, whose: str) -> None:
    if offset != ICE_OFFSETS[rows]:
        generation = next((r for r, o in ICE_OFFSETS.items() if o == offset), None)
        said = f"the {generation} generation" if generation else "no known generation"
        raise TokenizerError(
            f"{where} with num_image_tokens {offset} is a tokenizer of {said}, but "
            f"{whose} is of the {rows} one, where the special tokens have other ids; "
            "take config, tokenizer and weights from one revision."
        )


_Maker = Callable[[Folder, str, bytes, str | None], Profile]
_MAKERS: dict[str, _Maker] = {
    "ice_text.model": _ice,
    "sentencepiece": _sentencepiece,
    "tiktoken": _tiktoken,
    "tokenizer.json": _json,
}
