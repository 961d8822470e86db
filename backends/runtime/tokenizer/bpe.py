"""tokenizer.json: vocabularies of any kind, as the package tokenizers reads them."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .codec import Codec, Cut
from .files import TokenizerError, optional
from .specials import Specials

T = TypeVar("T")


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
        """Encodes as `Codec.encode_prompt`; the file itself says what stands around."""
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
        """Returns the package's own record of ids, with their places in the text."""
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
        """Encodes like `encode_marked`, with the places of each id: (id, first
        character, end)."""
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
    """Returns the places of a run's characters, without those of the marks."""
    kept: list[int] = []
    while begin < end:
        if text.startswith(mark, begin):
            begin += len(mark)
        else:
            kept.append(begin)
            begin += 1
    return kept


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
