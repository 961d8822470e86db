"""Choose the next token from logits."""

import copy
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

from .processing import NEVER, History, Processing, Rules


class Drawn(NamedTuple):
    """The state of a sampler: its generator, and how many tokens its rows have."""

    generator: torch.Tensor | None
    tokens: torch.Tensor | None


class Sampler:
    """A greedy choice, or a draw from the softmax of `logits / temperature`.

    Greedy when `temperature` is 0 or no argument is given; `top_k`, `top_p` or `min_p`
    alone draw at temperature 1. `top_k` keeps the k most probable tokens; `top_p` keeps
    of those the smallest set of most probable tokens that reaches the probability
    `top_p`; `min_p` those that are at least so probable, as a part of the most
    probable one. `typical_p`, `epsilon_cutoff` and `eta_cutoff` are transformers'.
    `seed` makes the draws repeatable; without it they come from torch's global
    generator. `rules` change the logits before; then `begin` must say what tokens there
    are. Raises ValueError for an argument out of its range.
    """

    def __init__(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        *,
        min_p: float | None = None,
        typical_p: float | None = None,
        epsilon_cutoff: float | None = None,
        eta_cutoff: float | None = None,
        rules: Rules | None = None,
    ):
        cuts = (min_p, typical_p, epsilon_cutoff, eta_cutoff)
        if temperature is None:
            drawn = any(value is not None for value in (top_k, top_p, *cuts))
            temperature = 1.0 if drawn else 0.0
        _check(temperature, top_k, top_p)
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.cuts = cuts
        self.device = torch.device(device)
        self.generator: torch.Generator | None = None
        if seed is not None:
            self.generator = torch.Generator(self.device).manual_seed(seed)
        self.rules = None if rules is None or rules.idle else rules
        self.processing: Processing | None = None
        self.history: History | None = None

    @property
    def unrecordable(self) -> str | None:
        """The reason why a step with this sampler cannot be recorded, or None."""
        if self.rules is not None and self.rules.own:
            return "a logits processor of the caller's own runs in Python"
        return None

    @property
    def plainly_greedy(self) -> bool:
        """True where it takes the highest logit as it is."""
        return self.temperature == 0 and self.processing is None

    def begin(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        size: int,
        *,
        prompt: int,
        total: int,
    ) -> None:
        """Starts with the rows `ids` [R, T], behind padding that `mask` marks, which
        will be `total` long at most; `prompt` of them were given. There are `size`
        ids."""
        if self.rules is None:
            return
        if self.processing is None:
            self.processing = Processing(self.rules, size, self.device)
        if self.history is None:
            self.history = History(len(ids), total + 1, self.device)
        self.history.begin(ids, mask, prompt, total)

    def kept(self, rows: int, slots: int) -> "Sampler":
        """Returns a sampler like this one for so many rows of so many tokens, with
        tensors of its own that stay where they are."""
        if self.history is None:
            return self
        other = copy.copy(self)
        other.history = History(rows, slots + 1, self.device)
        return other

    def follow(self, other: "Sampler") -> None:
        """Goes on from where another sampler of these settings stands."""
        if other is self:
            return
        self.restore(other.state())
        if self.history is not None and other.history is not None:
            self.history.follow(other.history)

    @property
    def settings(self) -> Hashable:
        """The part of a sampler that a recorded step depends on; the generator's state
        is apart."""
        drawn = self.temperature, self.top_k, self.top_p, *self.cuts
        return *drawn, self.generator is not None, self.rules

    def state(self) -> Drawn:
        """Returns the state of the generator and the rows."""
        drawn = None if self.temperature == 0 else self._source().get_state()
        past = self.history
        return Drawn(drawn, None if past is None else past.count.clone())

    def restore(self, state: Drawn) -> None:
        """Goes back to a state of a sampler of these settings."""
        if state.generator is not None:
            self._source().set_state(state.generator)
        if state.tokens is not None and self.history is not None:
            self.history.count.copy_(state.tokens)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Chooses ids int64 [R] for `logits` [R, V]."""
        if self.processing is None or self.history is None:
            return self._choose(logits)
        ids = self._choose(self.processing(logits.float(), self.history))
        self.history.append(ids)
        return ids

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        scores, ids = self.scores(logits)
        drawn = self._draw(scores.softmax(-1))
        return drawn if ids is None else ids.gather(-1, drawn[:, None])[:, 0]

    def scores(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the scores that tokens are drawn by, [R, N], and their ids; None:
        all, in order."""
        scores, ids = logits.float() / self.temperature, None
        if self.top_k is not None or self.top_p is not None:
            size = scores.shape[-1]
            scores, ids = scores.topk(min(self.top_k or size, size))
        if self.top_p is not None:
            probabilities = scores.softmax(-1)
            # What precedes a token decides, so the most probable one always stays.
            before = probabilities.cumsum(-1) - probabilities
            scores = scores.masked_fill(before >= self.top_p, NEVER)
        for cut, value in zip(_CUTS, self.cuts, strict=True):
            scores = scores if value is None else cut(scores, value)
        return scores, ids

    def _source(self) -> torch.Generator:
        if self.generator is not None:
            return self.generator
        if self.device.type == "cuda":
            return torch.cuda.default_generators[self.device.index]
        return torch.default_generator

    def _draw(self, weights: torch.Tensor) -> torch.Tensor:
        # What torch.multinomial does, and draws, without its look at the weights: on a
        # GPU that waits for them. The largest w / q, with q exponentially distributed,
        # is w's with the probability w.
        spread = torch.empty_like(weights).exponential_(generator=self.generator)
        return (weights / spread).argmax(-1)


def _at_least(scores: torch.Tensor, part: float) -> torch.Tensor:
    """Drops tokens less probable than this part of the most probable one."""
    probabilities = scores.softmax(-1)
    least = part * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(probabilities < least, NEVER)


def _typical(scores: torch.Tensor, mass: float) -> torch.Tensor:
    """Keeps the tokens whose surprise is nearest to the expected one, up to a
    probability together."""
    logs = scores.log_softmax(-1)
    expected = -(logs.exp() * logs).nansum(-1, keepdim=True)
    off, order = (-logs - expected).abs().sort()
    together = scores.gather(-1, order).softmax(-1).cumsum(-1)
    last = (together < mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    far = off > off.gather(-1, last)
    return scores.masked_fill(torch.zeros_like(far).scatter(-1, order, far), NEVER)


def _without_rare(scores: torch.Tensor, least: float) -> torch.Tensor:
    """Drops tokens less probable than this, but for the most probable one."""
    return _rarer_than(scores, scores.new_full((len(scores), 1), least))


def _without_rare_for_it(scores: torch.Tensor, least: float) -> torch.Tensor:
    """Does the same with a bound that falls where the entropy is high."""
    logs = scores.log_softmax(-1)
    entropy = -(logs.exp() * logs).nansum(-1, keepdim=True)
    return _rarer_than(scores, (least**0.5 * (-entropy).exp()).clamp(max=least))


def _rarer_than(scores: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    rare = (scores.softmax(-1) < least) & (scores < scores.amax(-1, keepdim=True))
    return scores.masked_fill(rare, NEVER)


_CUTS: tuple[Callable[[torch.Tensor, float], torch.Tensor], ...] = (
    _at_least,
    _typical,
    _without_rare,
    _without_rare_for_it,
)


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; give 0 (greedy) or more.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; give 1 or more, or None to keep all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; give more than 0 and at most 1.")
