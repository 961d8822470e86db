"""The tiktoken-style vocabulary of GLM-4: words and their ranks."""

import base64
import binascii
from collections.abc import Mapping

from .bpe import shielded
from .codec import Codec
from .files import TokenizerError, optional

#: Text is split by this before its bytes are merged.
GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: The special tokens after the words, where tokenizer_config.json does not list them.
GLM4_SPECIALS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
MAX_WORDS = 2 << 20


class TiktokenCodec(Codec):
    """tokenizer.model of GLM-4-9B: lines of a word in base64 and its rank."""

    def __init__(self, data: bytes, where: str, added: Mapping[str, int]):
        tiktoken = optional("tiktoken", f"to read {where}")
        self.ranks = read_ranks(data, where)
        self.word_of = {rank: word for word, rank in self.ranks.items()}
        words = max(self.word_of) + 1
        specials = dict(added) or {
            name: words + i for i, name in enumerate(GLM4_SPECIALS)
        }
        _check_specials(specials, words, where)
        super().__init__(
            specials,
            max(specials.values()) + 1,
            callable_names=specials,
            prefix=("[gMASK]", "<sop>"),
            pair_end="<|endoftext|>",
        )
        self.encoding = shielded(
            where,
            lambda: tiktoken.Encoding(
                name="glm-4",
                pat_str=GLM4_PATTERN,
                mergeable_ranks=self.ranks,
                special_tokens={},
            ),
        )

    def encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self.encoding.encode_ordinary(text)
        return ids

    def decode_plain(self, ids: list[int]) -> str:
        words = (self.word_of.get(i, b"") for i in ids)
        return b"".join(words).decode("utf-8", errors="replace")


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """Returns the words of a tiktoken-style file and their ranks, which are their
    ids."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            word, rank = line.split()
            ranks[base64.b64decode(word, validate=True)] = _rank(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"{where}, line {number}: {line[:40]!r} is not a word in base64 and "
                "its rank; the file is damaged, so download it again."
            ) from error
        if len(ranks) != number:
            raise TokenizerError(
                f"{where}, line {number}: this word was there before; the file is "
                "damaged, so download it again."
            )
    bytes_there = all(bytes([byte]) in ranks for byte in range(256))
    if not bytes_there or len(set(ranks.values())) != len(ranks):
        raise TokenizerError(
            f"{where} lacks one of the 256 bytes or gives a rank twice, so it cannot "
            "encode all text; the file is damaged, so download it again."
        )
    return ranks


def _rank(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 8 or int(digits) >= MAX_WORDS:
        raise ValueError("not a rank")
    return int(digits)


def looks_like_ranks(data: bytes) -> bool:
    """Tells whether a tokenizer.model is of the tiktoken style; else it is a
    protobuf."""
    word, _, rank = data[:4096].partition(b"\n")[0].strip().partition(b" ")
    return bool(word) and word.isascii() and rank.isdigit()


def _check_specials(specials: Mapping[str, int], words: int, where: str) -> None:
    missing = [name for name in GLM4_SPECIALS[:10] if name not in specials]
    if missing:
        raise TokenizerError(
            f"{where}: tokenizer_config.json beside it lists special tokens, but not "
            f"{missing[0]!r}; the two are of different models."
        )
    clash = min(specials, key=lambda name: specials[name])
    ids = specials.values()
    if specials[clash] < words or len(set(ids)) != len(ids) or max(ids) >= MAX_WORDS:
        raise TokenizerError(
            f"{where} has {words} words, and the special tokens that tokenizer_config"
            f".json beside it lists do not follow them (from {clash!r} = "
            f"{specials[clash]}); the two are of different models."
        )
