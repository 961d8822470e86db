"""Byte-level vocabularies: the tiktoken-style file of GLM-4, and tokenizer.json."""

import base64
import binascii
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .codec import Codec, Cut
from .files import TokenizerError, optional
from .specials import Specials

T = TypeVar("T")

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


class JsonCodec(Codec):
    """tokenizer.json, as the package tokenizers reads it."""

    def __init__(self, text: str, where: str, specials: Specials):
        tokenizers = optional("tokenizers", f"to read {where}")
        self.tokenizer = shielded(where, lambda: tokenizers.Tokenizer.from_str(text))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._switch = threading.Lock()
        shielded(where, lambda: self._add(tokenizers.AddedToken, specials))
        for name, number in specials.ids.items():
            if self.tokenizer.token_to_id(name) != number:
                raise TokenizerError(
                    f"{where} has the id {self.tokenizer.token_to_id(name)} for "
                    f"{name!r}, but {specials.where} beside it says {number}; "
                    "take both from one revision."
                )
        self.blanks_apart = type(self.tokenizer.model).__name__ != "BPE"
        table: dict[int, Any] = self.tokenizer.get_added_tokens_decoder()
        named = {t.content: i for i, t in table.items() if t.special}
        vocabulary: dict[str, int] = self.tokenizer.get_vocab(True)
        #: The words without the tokens added to them, which may have no row.
        self.words = int(self.tokenizer.get_vocab_size(False))
        super().__init__(
            named,
            1 + max([*vocabulary.values(), *named.values()], default=-1),
            callable_names=named,
        )

    def _add(self, make: Any, specials: Specials) -> None:
        """Adds what the files beside it name and it has not, in the order of ids."""
        known = self.tokenizer.get_added_tokens_decoder().values()
        there, written = {t.content for t in known}, {repr(t) for t in known}
        # The table of tokenizer_config.json has its own flags, the older file none.
        flagged = specials.where == "tokenizer_config.json"
        for token in specials.tokens:
            made = make(token.text, special=token.special, **token.flags)
            said = flagged and token.number is not None and repr(made) not in written
            if said or token.text not in there:
                self.tokenizer.add_tokens([made])

    def encode_prompt(
        self,
        text: str,
        pair: str | None,
        *,
        specials: bool,
        marked: bool,
        cut: Cut | None = None,
    ) -> tuple[list[int], list[int]]:
        """As `Codec.encode_prompt`; the file itself says what stands around."""
        found = self._encode(text, pair, specials, marked, cut)
        return list(found.ids), list(found.type_ids)

    def _encode(
        self,
        text: str,
        pair: str | None = None,
        specials: bool = False,
        marked: bool = False,
        cut: Cut | None = None,
    ) -> Any:
        """The package's own record of ids, with their places in the text."""
        with self._switch:
            self.tokenizer.encode_special_tokens = not marked
            if cut is not None:
                self._truncate(cut, pair, specials)
            try:
                return shielded(
                    "the text",
                    lambda: self.tokenizer.encode(
                        text, pair, add_special_tokens=specials
                    ),
                )
            finally:
                self.tokenizer.no_truncation()

    def _truncate(self, cut: Cut, pair: str | None, specials: bool) -> None:
        own = self.tokenizer.num_special_tokens_to_add(pair is not None)
        if cut.most <= own * specials:
            raise TokenizerError(
                f"max_length={cut.most} leaves no room beside {own} special tokens."
            )
        self.tokenizer.enable_truncation(cut.most, strategy=cut.how, direction=cut.side)

    def encode_plain(self, text: str) -> list[int]:
        return list(self._encode(text).ids)

    def encode_marked(self, text: str, mark: str = "") -> list[int]:
        if mark and mark in text:
            return super().encode_marked(text, mark)
        return list(self._encode(text, marked=True).ids)

    def encode_places(self, text: str, mark: str) -> list[tuple[int, int, int]]:
        """`encode_marked` with the places of each id: (id, first character, end)."""
        if not mark or mark not in text:
            found = self._encode(text, marked=True)
            return [
                (i, *place) for i, place in zip(found.ids, found.offsets, strict=True)
            ]
        places: list[tuple[int, int, int]] = []
        for begin, end, name in self._runs(text, mark):
            kept = _kept(text, begin, end, mark)
            found = self._encode("".join(text[at] for at in kept))
            kept.append(end)
            places += [
                (
                    number,
                    kept[first],
                    kept[last - 1] + 1 if last > first else kept[last],
                )
                for number, (first, last) in zip(found.ids, found.offsets, strict=True)
            ]
            if name:
                places.append((self.specials[name], end, end + len(name)))
        return places

    def decode_plain(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        known = [i for i in ids if i < self.size]
        text: str = self.tokenizer.decode(
            known, skip_special_tokens=skip_special_tokens
        )
        return text


def _kept(text: str, begin: int, end: int, mark: str) -> list[int]:
    """The places of a run's characters, without those of the marks."""
    kept: list[int] = []
    while begin < end:
        if text.startswith(mark, begin):
            begin += len(mark)
        else:
            kept.append(begin)
            begin += 1
    return kept


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """The words of a tiktoken-style file and their ranks, which are their ids."""
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
    """Whether a tokenizer.model is of the tiktoken style; else it is a protobuf."""
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


def shielded(where: str, call: Callable[[], T]) -> T:
    """Runs Rust code; a panic there is no Exception, and here becomes a sentence."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise TokenizerError(
            f"{where} cannot be used: {reason or type(error).__name__}. The "
            "file is damaged or of a format that the installed package does not know; "
            "download it again or upgrade the package."
        ) from error
