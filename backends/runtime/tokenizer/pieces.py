"""Add to and retype the pieces of a SentencePiece model file, in place.

The file is a protobuf message: field 1 is a piece (1 text, 2 score, 3 type), field 2
the trainer's settings. Concatenated messages merge: pieces add up, and of a setting
the last one counts. So no protobuf library is needed.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .files import TokenizerError

#: Types of pieces: never made from text, always, and the fallback for bytes.
CONTROL, USER_DEFINED, BYTE = 3, 4, 6
_PIECE, _TRAINER = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Setting 35 of the trainer, byte_fallback, is true.
_BYTE_FALLBACK = b"\x98\x02\x01"


class Piece(NamedTuple):
    """A piece, and where it lies in the file."""

    text: bytes
    begin: int
    body: int
    end: int


def pieces(data: bytes, where: str) -> list[Piece]:
    """Reads all pieces of a model file in the order of their ids."""
    try:
        return [
            Piece(_text(data, body, end), begin, body, end)
            for number, begin, body, end in _fields(data, 0, len(data))
            if number == _PIECE
        ]
    except (IndexError, ValueError) as error:
        raise TokenizerError(
            f"{where} is not a SentencePiece model; the file is damaged or of another "
            "format, so download it again."
        ) from error


def with_pieces(data: bytes, added: Iterable[tuple[str, int]]) -> bytes:
    """Returns the model with (text, type) pieces after its own, and with byte
    fallback."""
    new = (
        _field(_PIECE, _field(1, text.encode()) + _typed(kind)) for text, kind in added
    )
    return data + b"".join(new) + _field(_TRAINER, _BYTE_FALLBACK)


def with_controls(data: bytes, found: Iterable[Piece], names: Iterable[str]) -> bytes:
    """Returns the model with the pieces of these names never made from text."""
    wanted = {name.encode() for name in names}
    out, copied = bytearray(), 0
    for piece in found:
        if piece.text in wanted:
            out += data[copied : piece.begin]
            out += _field(_PIECE, data[piece.body : piece.end] + _typed(CONTROL))
            copied = piece.end
    return bytes(out + data[copied:])


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (number, begin, body, end) of each field of the message in
    data[at:end]."""
    while at < end:
        begin = at
        tag, at = _varint(data, at)
        body, kind = at, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, body = _varint(data, at)
            at = body + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field goes beyond its message")
        yield tag >> 3, begin, body, at


def _text(data: bytes, body: int, end: int) -> bytes:
    text = b""
    for number, _, begin, stop in _fields(data, body, end):
        if number == 1:
            text = data[begin:stop]
    return text


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _field(number: int, body: bytes) -> bytes:
    size, rest = bytearray(), len(body)
    while rest > 127:
        size.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | _BYTES, *size, rest]) + body


def _typed(kind: int) -> bytes:
    return bytes([3 << 3 | _VARINT, kind])
