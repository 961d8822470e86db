"""Vocabularies of the published GLM code, and what its models expect around them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .batch import Positions
from .chat import CHATS, glm4
from .files import Folder, TokenizerError
from .identity import check_ends, check_ids, choose_variant, ice_offset
from .profile import Profile
from .ranks import TiktokenCodec, looks_like_ranks
from .sentencepiece import IceCodec, SentencePieceCodec, has_specials
from .specials import read_specials
from .tokenizer_json import json_codec, json_profile

ICE_OFFSETS = {130528: 0, 150528: 20000}
GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
#: Tokens at which an answer ends.
GLM_ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>")


def _ice(folder: Folder, where: str, data: bytes, wanted: str | None) -> Profile:
    """ice_text.model of ChatGLM-6B."""
    variant = choose_variant(folder, "ice_text.model", wanted)
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
        check_rows=partial(_check_ice, where, offset),
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


def _model(folder: Folder, where: str, data: bytes, wanted: str | None) -> Profile:
    """tokenizer.model, which is one of two kinds."""
    kind = "tiktoken" if looks_like_ranks(data) else "sentencepiece"
    variant = choose_variant(folder, kind, wanted)
    make = _tiktoken if kind == "tiktoken" else _sentencepiece
    return make(folder, where, data, variant)


def _json(folder: Folder, where: str, data: bytes, wanted: str | None) -> Profile:
    """tokenizer.json, of GLM-4 where it has the roles of its chat."""
    variant = choose_variant(folder, "tokenizer.json", wanted)
    codec, specials = json_codec(folder, where, data)
    ids = codec.specials
    if not all(name in ids for name in ("[gMASK]", "<sop>", *GLM_ROLES, *GLM_ENDS)):
        return replace(json_profile(folder, codec, specials), variant=variant)
    check_ends(folder, where, ids.values())
    ends = tuple(ids[name] for name in GLM_ENDS)
    profile = json_profile(folder, codec, specials, ends)
    return replace(profile, variant=variant or "glm-4", chat=glm4)


def _check_ice(where: str, offset: int, rows: int, whose: str) -> None:
    if rows in ICE_OFFSETS and offset != ICE_OFFSETS[rows]:
        generation = next((r for r, o in ICE_OFFSETS.items() if o == offset), None)
        said = f"the {generation} generation" if generation else "no known generation"
        raise TokenizerError(
            f"{where} with num_image_tokens {offset} is a tokenizer of {said}, but "
            f"{whose} is of the {rows} one, where the special tokens have other ids; "
            "take config, tokenizer and weights from one revision."
        )


def two_dimensional(gmask: int, mask: int, sop: int) -> Positions:
    """Returns positions of ChatGLM-6B: [where, how far into the answer] for each token.

    Up to `sop` a token is at its own index, 0 into the answer; from there on at the
    index of the first `gmask` (or, without one, of the first `mask`), 1, 2, … into
    the answer.
    """

    def place(row: list[int]) -> list[list[int]] | None:
        anchor = gmask if gmask in row else mask
        if anchor not in row or sop not in row:
            return None
        context, at = row.index(sop), row.index(anchor)
        answer = len(row) - context
        return [
            [*range(context), *[at] * answer],
            [*[0] * context, *range(1, answer + 1)],
        ]

    return place


READERS: dict[str, Callable[[Folder, str, bytes, str | None], Profile]] = {
    "ice_text.model": _ice,
    "tokenizer.json": _json,
    "tokenizer.model": _model,
}
