"""Change scores before a token is chosen: penalties, bans, forced tokens.

The rules are those of transformers' logits processors, in its order. They are computed
from tensors that keep their place, so a recorded step has them too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

NEVER = -float("inf")
#: The caller's own: (tokens [R, T] so far, scores [R, V]) -> scores.
Own = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Words = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Rules:
    """The rules of a generation; those left as they are do nothing.

    `bias` is (tokens, what is added to the score of the last of them where the others
    stand before it). `forced_eos` is what the last token must be, `forced_bos` what
    follows a prompt of one token. `decay` is (new tokens, base): after so many, the
    score of `eos` grows by that base.
    """

    bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: Words = ()
    min_length: int = 0
    min_new_tokens: int = 0
    forced_bos: tuple[int, ...] = ()
    forced_eos: tuple[int, ...] = ()
    remove_invalid_values: bool = False
    decay: tuple[int, float] | None = None
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    eos: tuple[int, ...] = ()
    own: tuple[Own, ...] = ()

    @property
    def idle(self) -> bool:
        """True where no rule changes anything."""
        told = [getattr(self, f.name) != f.default for f in fields(self)]
        return not any(told[:-2]) and not self.own

    @property
    def largest(self) -> int:
        """The largest id that a rule names, -1 without any."""
        named = [*self.forced_bos, *self.forced_eos, *self.suppressed]
        named += [*self.suppressed_first, *self.eos]
        named += [i for word in self.bad_words for i in word]
        named += [i for word, _ in self.bias for i in word]
        return max(named, default=-1)


class History:
    """The tokens of every row so far, on the device.

    `tokens` int64 [R, C] is filled up to `count`; a row begins at `first` int64 [R],
    behind its padding. `prompt` of the tokens were there at the beginning, `total` is
    what there will be at most. The last three are int64 [1].
    """

    def __init__(self, rows: int, slots: int, device: torch.device):
        self.tokens = torch.zeros(rows, slots, dtype=torch.int64, device=device)
        self.first = self.tokens.new_zeros(rows)
        self.count, self.prompt, self.total = self.tokens.new_zeros(3, 1)
        self.places = torch.arange(slots, device=device)

    def begin(
        self, ids: torch.Tensor, mask: torch.Tensor | None, prompt: int, total: int
    ) -> None:
        """Starts with the rows `ids` [R, T], of which `prompt` tokens are the
        caller's."""
        self.tokens[:, : ids.shape[1]] = ids
        if mask is None:
            self.first.zero_()
        else:
            self.first.copy_((mask != 0).int().argmax(1))
        self.count.fill_(ids.shape[1])
        self.prompt.fill_(prompt)
        self.total.fill_(total)

    def append(self, ids: torch.Tensor) -> None:
        """Appends one token to each row, `ids` [R]."""
        self.tokens.index_copy_(1, self.count, ids[:, None])
        self.count.add_(1)

    def follow(self, other: "History") -> None:
        """Takes over what another has; rows beyond it are as its last one."""
        rows, slots = other.tokens.shape
        slots = min(slots, self.tokens.shape[1])
        self.tokens[:rows, :slots] = other.tokens[:, :slots]
        self.tokens[rows:, :slots] = other.tokens[-1:, :slots]
        self.first[:rows] = other.first
        self.first[rows:] = other.first[-1:]
        for name in ("count", "prompt", "total"):
            getattr(self, name).copy_(getattr(other, name))

    def tail(self, length: int) -> torch.Tensor:
        """Returns the last tokens [R, length]; where there are fewer, the rest means
        nothing."""
        places = (self.count - length + self.places[:length]).clamp_(min=0)
        return self.tokens.index_select(1, places)


class Processing:
    """Rules made ready for scores of `size` ids on a device."""

    def __init__(self, rules: Rules, size: int, device: torch.device):
        if rules.largest >= size:
            raise ValueError(
                f"the token {rules.largest} is to be forced, suppressed or weighed, "
                f"but this model has {size} ids, 0 to {size - 1}."
            )
        self.rules, self.size, self.device = rules, size, device
        ends = [(i,) for i in rules.eos]
        bad = [(word, NEVER) for word in rules.bad_words if word not in ends]
        self.bias, self.bad = self._biases(rules.bias), self._biases(bad)
        self.eos, self.suppressed = self._mask(rules.eos), self._mask(rules.suppressed)
        self.first = self._mask(rules.suppressed_first)
        self.bos, self.last = self._only(rules.forced_bos), self._only(rules.forced_eos)

    def _mask(self, ids: Sequence[int]) -> torch.Tensor:
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[list(ids)] = True
        return mask.to(self.device)

    def _only(self, ids: Sequence[int]) -> torch.Tensor:
        scores = torch.full((self.size,), NEVER)
        scores[list(ids)] = 0.0
        return scores.to(self.device)

    def _biases(
        self, words: Sequence[tuple[tuple[int, ...], float]]
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Groups biases by length n: (tokens before [N, n], the token itself [N], its
        bias [N])."""
        made = []
        for length in sorted({len(word) for word, _ in words}):
            group = [(word, value) for word, value in words if len(word) == length]
            before = torch.tensor([word[:-1] for word, _ in group], dtype=torch.int64)
            token = torch.tensor([word[-1] for word, _ in group])
            value = torch.tensor([value for _, value in group])
            parts = [part.to(self.device) for part in (before, token, value)]
            made.append((parts[0], parts[1], parts[2]))
        return made

    def __call__(self, scores: torch.Tensor, past: History) -> torch.Tensor:
        """Applies the rules to `scores` float32 [R, V]."""
        rules = self.rules
        scores = _biased(scores, self.bias, past)
        if rules.repetition_penalty != 1.0:
            scores = _penalised(scores, past, rules.repetition_penalty)
        if rules.no_repeat_ngram_size:
            scores = _unrepeated(scores, past, rules.no_repeat_ngram_size)
        scores = _biased(scores, self.bad, past)
        new = past.count - past.prompt
        if rules.min_length or rules.min_new_tokens:
            short = (past.count < rules.min_length) | (new < rules.min_new_tokens)
            scores = scores.masked_fill(self.eos & short, NEVER)
        if rules.forced_bos:
            scores = torch.where(past.count == 1, self.bos, scores)
        if rules.forced_eos:
            scores = torch.where(past.count == past.total - 1, self.last, scores)
        if rules.remove_invalid_values:
            scores = scores.nan_to_num(0.0)
        if rules.decay is not None:
            scores = self._decayed(scores, new, *rules.decay)
        if rules.suppressed:
            scores = scores.masked_fill(self.suppressed, NEVER)
        if rules.suppressed_first:
            # A forced first token does not count as the first.
            begin = past.prompt + ((past.prompt == 1) & bool(rules.forced_bos))
            scores = scores.masked_fill(self.first & (past.count == begin), NEVER)
        for own in rules.own:
            scores = own(past.tokens[:, : int(past.count)], scores)
        return scores

    def _decayed(
        self, scores: torch.Tensor, new: torch.Tensor, start: int, base: float
    ) -> torch.Tensor:
        after = new - start
        grown = scores.abs() * (base ** after.clamp(min=0).float() - 1)
        add = self.eos & (after > 0) & scores.isfinite()
        return torch.where(add, scores + grown, scores)


def _biased(
    scores: torch.Tensor,
    biases: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    past: History,
) -> torch.Tensor:
    for before, token, value in biases:
        length = before.shape[1]
        there = (past.tail(length)[:, None] == before).all(-1) & (past.count >= length)
        bias = torch.zeros_like(scores)
        added = torch.where(there, value, 0.0)
        scores = scores + bias.index_add(1, token, added)
    return scores


def _penalised(scores: torch.Tensor, past: History, penalty: float) -> torch.Tensor:
    """Lowers the scores of tokens that were there before."""
    there = (past.places < past.count) & (past.places >= past.first[:, None])
    seen = _set(scores, past.tokens, there)
    less = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen, less, scores)


def _unrepeated(scores: torch.Tensor, past: History, size: int) -> torch.Tensor:
    """Bans tokens that would complete the same `size` tokens a second time."""
    slots = past.tokens.shape[1]
    starts = slots - size + 1
    if starts < 1:
        return scores
    tail = past.tail(size - 1)
    same = past.places[:starts] + size <= past.count
    same = same.expand(len(scores), -1)
    for at in range(size - 1):
        same = same & (past.tokens[:, at : at + starts] == tail[:, at : at + 1])
    banned = _set(scores, past.tokens[:, size - 1 :], same)
    return scores.masked_fill(banned, NEVER)


def _set(scores: torch.Tensor, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Returns a mask [R, V] of the `ids` [R, N] at which `where` [R, N] holds."""
    size = scores.shape[1]
    mask = torch.zeros(len(scores), size + 1, dtype=torch.bool, device=scores.device)
    # What does not count goes to a place of its own, behind the last id.
    placed = ids.clamp(max=size).masked_fill(~where, size)
    return mask.scatter(1, placed, True)[:, :size]
