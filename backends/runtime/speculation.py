"""Generation with a draft: a small model guesses, the model reads several at once.

Every token is chosen by the model, from logits of its own, by the sampler of the
generation: what comes out is what would come without a draft, token for token, where
they are drawn too. The draft guesses with the very numbers that the next draws use, and
puts them back.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .causal_lm import CausalLM
    from .generation import Asked

#: Tokens that are guessed at a time.
USUAL_GUESSES = 4


def check_draft(
    model: "CausalLM", draft: Any, prompt: int, new: int, guesses: Any
) -> None:
    """Refuses a draft that cannot guess for this model."""
    if type(guesses) is not int or guesses < 1:
        raise ValueError(
            f"draft_tokens is {guesses!r}; give a whole number, 1 or more."
        )
    if not hasattr(draft, "new_cache"):
        raise ValueError(
            f"draft is a {type(draft).__name__}; give a decoder that a build's load() "
            "returned."
        )
    if draft.vocab_size != model.vocab_size:
        raise ValueError(
            f"the draft has {draft.vocab_size} ids and this model {model.vocab_size}: "
            "a draft must have the model's vocabulary. Give a smaller model of the "
            "same family."
        )
    total = prompt + new
    if draft.max_positions is not None and total > draft.max_positions:
        raise ValueError(
            f"a prompt of {prompt} tokens and {new} new ones go beyond the "
            f"{draft.max_positions} positions of the draft; ask for fewer, or leave "
            "the draft out."
        )
    for limit in (*model.turns_at, *draft.turns_at):
        if prompt <= limit < total:
            raise ValueError(
                f"with position {limit} a model turns all keys otherwise and reads the "
                "whole text again, which does not go with a draft; ask for fewer "
                "tokens, or leave the draft out."
            )


class Reader:
    """A model and a cache that can go back to fewer tokens."""

    def __init__(self, model: "CausalLM", asked: "Asked", slots: int):
        self.model, self.device = model, model.device
        ids, mask, pos = (
            None if part is None else part.to(self.device) for part in asked[:3]
        )
        self.prompt = asked.ids.shape[1]
        self.last = None if pos is None else pos[..., -1:]
        self.cache = model.new_cache(len(asked.ids), slots)
        out = model(ids, mask, pos, past_key_values=self.cache, logits_to_keep=1)
        self.logits = out.logits

    def mark(self) -> None:
        """Remembers where the cache is now, to go back to what is read from here."""
        self.past = self.cache.tokens
        self.before = [tensor.clone() for tensor in self.cache.changing()]
        self.said: list[torch.Tensor] = []

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, T, V] of tokens [B, T] that follow."""
        self.said.append(ids.to(self.device))
        return self._call(self.said[-1])

    def keep(self, tokens: int) -> None:
        """Goes back to the first so many of the tokens that were read since `mark`."""
        if self.cache.tokens == self.past + tokens:
            return
        if len(self.before) == 1:  # the number of slots alone, and no state of a row
            self.cache.crop(self.past + tokens)
            return
        for tensor, old in zip(self.cache.changing(), self.before, strict=True):
            tensor.copy_(old)
        self.cache.length = self.cache.learned + self.past
        if tokens:
            self._call(torch.cat(self.said, 1)[:, :tokens])

    def _call(self, ids: torch.Tensor) -> torch.Tensor:
        pos = None
        if self.last is not None:
            first = self.cache.tokens - self.prompt + 1
            steps = torch.arange(first, first + ids.shape[1], device=self.device)
            pos = self.last.expand(*self.last.shape[:-1], len(steps)).clone()
            counting = pos[:, -1] if pos.ndim == 3 else pos
            counting += steps
        found: torch.Tensor = self.model(ids, None, pos, self.cache).logits
        return found


@torch.no_grad()
def speculated(
    model: "CausalLM", draft: "CausalLM", asked: "Asked", guesses: int
) -> Generator[torch.Tensor]:
    """Yields the new tokens as they are chosen, int64 [B] on the CPU."""
    ids, mask = asked.ids, asked.mask
    prompt, new, sampler = ids.shape[1], asked.new, asked.sampler
    sampler.begin(ids, mask, model.vocab_size, prompt=prompt, total=prompt + new)
    main = Reader(model, asked, prompt + new)
    helper = Reader(draft, asked, prompt + new)
    token = sampler(main.logits[:, -1])
    unread = token[:, None]
    done, guessed, stayed = 1, 0, 0
    yield token.cpu()
    while done < new:
        count = min(guesses, new - done - 1)
        guess = _guess(helper, unread, count, sampler)
        main.mark()
        logits = main.read(torch.cat((token[:, None], guess), 1))
        right = 0
        for at in range(count + 1):
            token = sampler(logits[:, at])
            done += 1
            yield token.cpu()
            if at == count or not torch.equal(token, guess[:, at]):
                break
            right += 1
        main.keep(1 + right)
        guessed, stayed = guessed + count, stayed + right
        valid = torch.cat((unread, guess[:, :right]), 1)
        known = min(valid.shape[1], helper.cache.tokens - helper.past)
        helper.keep(known)
        unread = torch.cat((valid[:, known:], token[:, None]), 1)
        model.decoder.path = f"eager: a draft guessed {guessed} tokens, {stayed} right"


def _guess(
    helper: Reader, unread: torch.Tensor, count: int, sampler: Any
) -> torch.Tensor:
    """Returns guesses [B, count] of what follows `unread`, as the sampler would choose
    of the draft's logits; the sampler is afterwards as it was."""
    begun, found, device = sampler.state(), unread[:, :0], unread.device
    helper.mark()
    for at in range(count):
        logits = helper.read(unread if at == 0 else found[:, -1:])
        token = sampler(logits[:, -1].to(device))
        found = torch.cat((found, token[:, None]), 1)
    sampler.restore(begun)
    return found
