"""Choosing the next token from logits."""

import torch


class Sampler:
    """Greedy choice, or a draw from the softmax of `logits / temperature`.

    Greedy when `temperature` is 0 or no argument is given; `top_k` or `top_p` alone
    draw at temperature 1. `top_k` keeps the k most probable tokens; `top_p` keeps of
    those the smallest set of most probable tokens that reaches the probability
    `top_p`. `seed` makes the draws repeatable; without it they come from torch's
    global generator. Raises ValueError for an argument out of its range.
    """

    def __init__(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ):
        if temperature is None:
            temperature = 0.0 if top_k is None and top_p is None else 1.0
        _check(temperature, top_k, top_p)
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.device = torch.device(device)
        self.generator: torch.Generator | None = None
        if seed is not None:
            self.generator = torch.Generator(self.device).manual_seed(seed)

    @property
    def settings(self) -> tuple[float, int | None, float | None, bool]:
        """What a recorded step has of a sampler; the generator's state is apart."""
        return self.temperature, self.top_k, self.top_p, self.generator is not None

    def state(self) -> torch.Tensor | None:
        """Where the generator stands, None for greedy choice."""
        return None if self.temperature == 0 else self._source().get_state()

    def restore(self, state: torch.Tensor | None) -> None:
        """Goes on drawing from where a sampler of these settings stood."""
        if state is not None:
            self._source().set_state(state)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B] for `logits` [B, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = logits.float() / self.temperature
        if self.top_k is None and self.top_p is None:
            return self._draw(scores.softmax(-1))
        scores, ids = scores.topk(min(self.top_k or scores.shape[-1], scores.shape[-1]))
        probabilities = scores.softmax(-1)
        if self.top_p is not None:
            # What precedes a token decides, so the most probable one always stays.
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0.0)
        return ids.gather(-1, self._draw(probabilities)[:, None])[:, 0]

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


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; give 0 (greedy) or more.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; give 1 or more, or None to keep all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; give more than 0 and at most 1.")
