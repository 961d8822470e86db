"""What every vocabulary can do: text to ids and back, with or without specials."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar


class Codec(ABC):
    """A vocabulary and its special tokens.

    `specials` are the tokens that text does not turn into by itself, `size` is one
    more than the largest id. `callable_names` are the specials that text may call by
    name where it is allowed to; `prefix` and `suffix` stand around a prompt, and
    `pair_end` ends the second text of a pair.
    """

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
        """Ids of text in which nothing is special."""

    @abstractmethod
    def decode_plain(self, ids: list[int]) -> str:
        """Text of ids below `size` of which none is special."""

    def encode_marked(self, text: str, mark: str = "") -> list[int]:
        """Ids of text in which the names of special tokens stand for them.

        A name with `mark` inside stays text, without the mark.
        """
        ids: list[int] = []
        begin = 0
        for match in self.pattern.finditer(text):
            ids += self._run(text[begin : match.start()], mark)
            ids.append(self.specials[match.group()])
            begin = match.end()
        return ids + self._run(text[begin:], mark)

    def _run(self, text: str, mark: str) -> list[int]:
        text = text.replace(mark, "") if mark else text
        return self.encode_plain(text) if text else []

    def encode_prompt(
        self, text: str, pair: str | None, *, specials: bool, marked: bool
    ) -> tuple[list[int], list[int]]:
        """Ids of a text or a pair, and for each the text (0 or 1) that it is of.

        With `specials`, the model's own tokens stand around: prefix, text, suffix,
        and for a pair the second text and its end.
        """
        encode = self.encode_marked if marked else self.encode_plain
        ids = encode(text)
        if specials:
            ids = [*self.prefix, *ids, *self.suffix]
        types = [0] * len(ids)
        if pair is not None:
            ids += encode(pair) + (self.pair_end if specials else [])
            types += [1] * (len(ids) - len(types))
        return ids, types

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Text of ids; specials are left out or named. Ids without text give none."""
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
