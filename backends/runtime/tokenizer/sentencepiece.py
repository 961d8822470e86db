"""SentencePiece vocabularies of ChatGLM: ice_text.model and tokenizer.model."""

import re
from typing import Any, ClassVar

from .codec import Codec
from .files import TokenizerError, optional
from .pieces import (
    BYTE,
    CONTROL,
    USER_DEFINED,
    pieces,
    with_controls,
    with_pieces,
)

#: The special tokens after the pieces of tokenizer.model; the roles in ChatGLM3 only.
SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

#: The special tokens of ice_text.model, in the order of their ids.
ICE_SPECIALS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<unused_0>",
    "<sop>",
    "<eop>",
    "<ENC>",
    "<dBLOCK>",
)
NEWLINE, TAB = "<n>", "<|tab|>"
LONGEST_BLANK = 80


class SentencePieceCodec(Codec):
    """tokenizer.model of ChatGLM2, ChatGLM3 and CodeGeeX2.

    The special tokens are not in the file: their ids follow its last piece.
    """

    def __init__(self, data: bytes, where: str, *, roles: bool):
        self.processor = load_processor(data, where)
        words = self.processor.vocab_size()
        names = SPECIALS + (ROLES if roles else ())
        specials = {name: words + i for i, name in enumerate(names)}
        ends = {"</s>": self.processor.eos_id(), "<s>": self.processor.bos_id()}
        if min(ends.values()) < 0 or self.processor.unk_id() < 0:
            raise TokenizerError(
                f"{where} lacks <unk>, <s> or </s>, so it is not the vocabulary of a "
                "ChatGLM; download it again."
            )
        super().__init__(
            specials | ends,
            words + len(names),
            callable_names=names,
            prefix=("[gMASK]", "sop"),
            pair_end="</s>",
        )

    @property
    def pad(self) -> int:
        """The id that rows are padded with: `<unk>`, as published."""
        return int(self.processor.unk_id())

    def encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self.processor.encode(text)
        return ids

    def decode_plain(self, ids: list[int]) -> str:
        text: str = self.processor.decode(ids)
        return text


class IceCodec(Codec):
    """ice_text.model of ChatGLM-6B, where newlines, tabs and blanks are pieces.

    Ids are those of the pieces plus `offset`, the number of image tokens. The file of
    the early vocabulary (150528) has no special pieces; they are added here, in the
    order of the published code.
    """

    #: Pieces may also be spelled out, and decoding reads the spelling too.
    unfinished: ClassVar[re.Pattern[str]] = re.compile(r"(\ufffd{1,3}|<(n|\|\w*\|?)?)$")

    def __init__(self, data: bytes, where: str, offset: int):
        self.offset = offset
        self.processor = load_processor(complete(data, where), where)
        names = (*ICE_SPECIALS, "<pad>", "</s>")
        found = {name: self.processor.piece_to_id(name) for name in (*names, NEWLINE)}
        for name, number in found.items():
            if number == self.processor.unk_id():
                raise TokenizerError(
                    f"{where} has no piece {name!r}, so it is not the vocabulary of "
                    "ChatGLM-6B; download it again."
                )
        super().__init__(
            {name: found[name] + offset for name in names},
            self.processor.vocab_size() + offset,
            callable_names=ICE_SPECIALS,
            suffix=("[gMASK]", "<sop>"),
            pair_end="<eop>",
        )

    def encode_plain(self, text: str) -> list[int]:
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        text = re.sub(f" {{2,{LONGEST_BLANK}}}", _blank, text)
        return [number + self.offset for number in self.processor.encode(text)]

    def decode_plain(self, ids: list[int]) -> str:
        found = [i - self.offset for i in ids if i >= self.offset]
        text: str = self.processor.decode(found)
        text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
        return re.sub(r"<\|blank_([1-9][0-9]?)\|>", _blanks, text)


def _blank(match: re.Match[str]) -> str:
    return f"<|blank_{len(match.group())}|>"


def _blanks(match: re.Match[str]) -> str:
    count = int(match[1])
    return " " * count if 2 <= count <= LONGEST_BLANK else match.group()


def load_processor(data: bytes, where: str) -> Any:
    """Makes a SentencePiece processor, or raises a sentence why the file is none."""
    spm = optional("sentencepiece", f"to read {where}")
    try:
        return spm.SentencePieceProcessor(model_proto=data)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(
            f"{where} cannot be read as a SentencePiece model: {reason} The file is "
            "damaged or of another format; download it again."
        ) from error


def has_specials(data: bytes, where: str) -> bool:
    """Tells whether an ice_text.model brings its special pieces along."""
    return any(piece.text == b"[gMASK]" for piece in pieces(data, where))


def complete(data: bytes, where: str) -> bytes:
    """Returns an ice_text.model with all its special pieces, none of which text can
    make."""
    if has_specials(data, where):
        return with_controls(data, pieces(data, where), ICE_SPECIALS)
    blanks = [f"<|blank_{n}|>" for n in range(2, LONGEST_BLANK + 1)]
    return with_pieces(
        data,
        [
            *((name, CONTROL) for name in ICE_SPECIALS),
            *((name, USER_DEFINED) for name in (TAB, *blanks)),
            *((f"<0x{byte:02X}>", BYTE) for byte in range(256)),
        ],
    )
