"""The base of every vocabulary: text to ids and back, with or without specials."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from .arguments import fit


class Cut(NamedTuple):
    """The limit of a row: at most so many ids, cut by a strategy at a side."""

    most: int
    how: str
    side: str


class Codec(ABC):
    """A vocabulary and its special tokens.

    `specials` are the tokens that text does not turn into by itself, `size` is one
    more than the largest id. `callable_names` are the specials that text may call by
    name where it is allowed to; `prefix` and `suffix` stand around a prompt, and
    `pair_end` ends the second text of a pair.
    """

    #: Whether decoding writes blanks between words that text did not have.
    blanks_apart = False
    #: An end of decoded text that further tokens may still change.
    unfinished: ClassVar[re.Pattern[str]] = re.compile("\ufffd{1,3}$")

    def __init__(
        self,
        specials: Mapping[str, int],
        size: int,
        *,
        callable_names: Iterable[str],
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        pair_end: str | None = None,
    ):
        self.specials = dict(specials)
        self.size = size
        self.prefix = [specials[name] for name in prefix]
        self.suffix = [specials[name] for name in suffix]
        self.pair_end = [] if pair_end is None else [specials[pair_end]]
        self.name_of = {number: name for name, number in specials.items()}
        longest_first = sorted(callable_names, key=len, reverse=True)
        self.pattern = re.compile(
            "|".join(map(re.escape, longest_first)) if longest_first else "(?!)"
        )

    @abstractmethod
    def encode_plain(self, text: str) -> list[int]:
        """Returns ids of text in which nothing is special."""

    @abstractmethod
    def decode_plain(self, ids: list[int]) -> str:
        """Returns text of ids below `size` of which none is special."""

    def encode_marked(self, text: str, mark: str = "") -> list[int]:
        """Returns ids of text in which the names of special tokens stand for them.

        A name between two `mark` stays text; the marks themselves are left out.
        """
        ids: list[int] = []
        for begin, end, name in self._runs(text, mark):
            run = text[begin:end]
            run = run.replace(mark, "") if mark else run
            ids += self.encode_plain(run) if run else []
            ids += [self.specials[name]] if name else []
        return ids

    def _runs(self, text: str, mark: str) -> Iterator[tuple[int, int, str]]:
        """Yields where runs of plain text begin and end, and the special token behind
        each."""
        begin = 0
        held = re.escape(mark)
        either = f"{held}(?:{self.pattern.pattern}){held}|" if mark else ""
        for match in re.finditer(f"{either}(?P<name>{self.pattern.pattern})", text):
            if match["name"] is not None:
                yield begin, match.start(), match["name"]
                begin = match.end()
        yield begin, len(text), ""

    def encode_prompt(
        self,
        text: str,
        pair: str | None,
        *,
        specials: bool,
        marked: bool,
        cut: "Cut | None" = None,
    ) -> tuple[list[int], list[int]]:
        """Returns ids of a text or a pair, and for each the text (0 or 1) that it is
        of.

        With `specials`, the model's own tokens stand around: prefix, text, suffix,
        and for a pair the second text and its end. `cut` says how many ids there may
        be, and where they are left out.
        """
        encode = self.encode_marked if marked else self.encode_plain
        first, second = encode(text), None if pair is None else encode(pair)
        before, between = (self.prefix, self.suffix) if specials else ([], [])
        after = self.pair_end if specials and second is not None else []
        if cut is not None:
            room = cut.most - len(before) - len(between) - len(after)
            first, second = fit(first, second, max(room, 0), cut.how, cut.side)
        ids = [*before, *first, *between]
        types = [0] * len(ids)
        if second is not None:
            ids += second + after
            types += [1] * (len(ids) - len(types))
        return ids, types

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Returns text of ids; specials are left out or named. Ids without text give
        none."""
        known = [i for i in ids if i < self.size]
        if skip_special_tokens:
            return self.decode_plain([i for i in known if i not in self.name_of])
        text = ""
        run: list[int] = []
        for number in known:
            if number in self.name_of:
                text += self.decode_plain(run) + self.name_of[number]
                run = []
            else:
                run.append(number)
        return text + self.decode_plain(run)


#: Blanks that a vocabulary of words leaves before what belongs to the word.
_BLANKS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def cleaned(text: str) -> str:
    """Removes the blanks before punctuation from decoded text, as transformers does."""
    for part in _BLANKS:
        text = text.replace(part, part.strip())
    return text
