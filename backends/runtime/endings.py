"""The ends of a generation besides its length: ids, texts, time, the caller's word."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

#: (tokens [B, T] so far, None) -> whether each row ends, or whether all do.
Criterion = Callable[..., Any]


class Endings:
    """Tells after each step which rows have ended.

    `stops` are ids. `texts` are looked for in what the rows' new tokens say, as
    `tokenizer` decodes it. `criteria` are called as transformers calls its stopping
    criteria, with all tokens so far. After `seconds` every row ends. Raises ValueError
    for texts without a tokenizer, and for those that it never writes.
    """

    def __init__(
        self,
        prompt: torch.Tensor,
        stops: Sequence[int],
        texts: Sequence[str] = (),
        tokenizer: Any = None,
        criteria: Iterable[Criterion] = (),
        seconds: float | None = None,
    ):
        if texts and not hasattr(tokenizer, "decode"):
            raise ValueError(
                f"the stop string {texts[0][:40]!r} is looked for in text, and that "
                "needs tokenizer=, such as load_tokenizer gives."
            )
        for text in texts:
            _check_written(text, tokenizer)
        self._stops = torch.tensor(list(stops), dtype=torch.int64, device="cpu")
        self.texts = tuple(texts)
        #: A character is up to four tokens, and a token may say nothing.
        self._window = 4 * max(map(len, self.texts), default=0) + 8
        self._decode = getattr(tokenizer, "decode", None)
        self._criteria = tuple(criteria)
        self._until = None if seconds is None else time.monotonic() + seconds
        self._ids = prompt if self._criteria else prompt[:, :0]
        self._new: list[list[int]] = [[] for _ in prompt]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns bool [B]: the rows that end with these `tokens`, int64 [B] on the
        CPU."""
        ended = torch.isin(tokens, self._stops)
        if self.texts:
            ended |= torch.tensor([*map(self._says, self._new, tokens.tolist())])
        if self._criteria:
            newest = tokens.to(self._ids.device)[:, None]
            self._ids = torch.cat((self._ids, newest), 1)
        for criterion in self._criteria:
            said = torch.as_tensor(criterion(self._ids, None)).to("cpu", torch.bool)
            ended |= said
        if self._until is not None and time.monotonic() > self._until:
            ended |= True
        return ended

    def _says(self, row: list[int], token: int) -> bool:
        row.append(token)
        text = self._decode(row[-self._window :]) if self._decode else ""
        return any(stop in text for stop in self.texts)


def _check_written(text: str, tokenizer: Any) -> None:
    """Refuses a text with a character that `tokenizer` never writes: no row would ever
    end with it."""
    # Other libraries' tokenizers, which are no functions, take and return other things.
    if not callable(tokenizer) or _written(text, tokenizer):
        return
    for character in dict.fromkeys(text):
        if not _written(character, tokenizer):
            raise ValueError(
                f"the stop string {text[:40]!r} is never said: it holds {character!r}, "
                "which this tokenizer cannot write; take another text, or stop at a "
                "token with eos_token_id=."
            )


def _written(text: str, tokenizer: Any) -> bool:
    """Tells whether a text comes back from its tokens; blanks may only do so between
    words."""
    ids = tokenizer(f"a{text}a", add_special_tokens=False)["input_ids"]
    return text in tokenizer.decode(ids)


def listed(given: Any) -> tuple[Any, ...]:
    """Returns one callable, or several, as a tuple; transformers' lists are both."""
    if given is None:
        return ()
    if callable(given) and not isinstance(given, list):
        return (given,)
    return tuple(given)
