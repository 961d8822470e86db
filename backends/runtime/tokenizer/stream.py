"""Text from tokens as they come, without broken characters."""

from collections.abc import Iterable, Iterator
from typing import SupportsInt

from .codec import Codec


class StreamDecoder:
    """A decoder that turns ids into text one at a time.

    `put` answers with the text that is certain, "" while a character is incomplete;
    `end` with what is left, where a broken character becomes U+FFFD. Together they
    say what decoding all ids at once says.
    """

    def __init__(self, codec: Codec, skip_special_tokens: bool = True):
        self._codec = codec
        self._skip = skip_special_tokens
        #: The run of ids that is decoded again with each new one: some that are
        #: done, because how a token begins depends on the one before, and the rest.
        self._ids: list[int] = []
        self._done = 0
        #: Of the text of the run, how much was given away.
        self._given = 0

    def put(self, token: int) -> str:
        """Returns the text that this id completes."""
        if token in self._codec.name_of:
            if self._skip:
                return ""
            return self.end() + self._codec.name_of[token]
        self._ids.append(token)
        text = self._codec.decode(self._ids, self._skip)
        held = self._codec.unfinished.search(text)
        certain = text[: held.start()] if held else text
        new = certain[self._given :]
        self._given = len(certain)
        if not held:
            self._forget()
        return new

    def _forget(self) -> None:
        """Keeps the newest ids as context; blanks alone would be none."""
        newest = self._ids[self._done :]
        text = self._codec.decode(newest, self._skip)
        if text.strip():
            self._ids, self._given = newest, len(text)
            self._done = len(newest)

    def end(self) -> str:
        """Returns the rest, after which a new text may begin."""
        rest = self._codec.decode(self._ids, self._skip)[self._given :]
        self._ids, self._done, self._given = [], 0, 0
        return rest

    def __call__(self, tokens: Iterable[SupportsInt]) -> Iterator[str]:
        """Yields texts for a stream of ids, as `model.generate(stream=True)` gives
        them."""
        for token in tokens:
            if text := self.put(int(token)):
                yield text
        if text := self.end():
            yield text
