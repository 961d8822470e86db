"""The base class of an emitted decoder that several ranks compute together."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from .causal_lm import CausalLM
from .ranks import current, digest
from .sampling import Sampler


class RankedLM(CausalLM):
    """A decoder of which this process has a part; an emitted `Model` gives the part.

    All ranks call it with the same arguments, and get the same answers.
    """

    def whole(self, logits: torch.Tensor, ops: ModuleType) -> torch.Tensor:
        """Returns logits [B, T, V] of the whole vocabulary, where `run` gives those of
        this rank's part of it. An emitted `Model` gives this one."""
        raise NotImplementedError

    def choose(
        self, logits: torch.Tensor, sampler: Sampler, ops: ModuleType
    ) -> torch.Tensor:
        """Chooses ids int64 [R], the same on all ranks, for `logits` [R, V] or of this
        rank's part of the vocabulary.

        A greedy choice needs of every rank its best logit and which token that is; a
        draw is the first rank's.
        """
        partial = logits.shape[-1] < self.vocab_size
        if partial and sampler.plainly_greedy:
            return _best_of_all(logits, self.vocab_size)
        if partial:
            logits = self.whole(logits[:, None], ops)[:, 0]
        return current().of_first(sampler(logits))

    def generate(self, input_ids: Any, *args: Any, **options: Any) -> Any:
        """Does what that of `CausalLM` does. Raises RanksError where ranks were given
        other prompts; ValueError for what would end the generation of some ranks and
        not of others: `max_time`, `stopping_criteria`, `logits_processor`."""
        for name in ("max_time", "stopping_criteria", "logits_processor"):
            if options.get(name) is not None:
                raise ValueError(
                    f"{name} may decide otherwise on every rank, and then none could go"
                    " on; leave it out where several ranks generate."
                )
        current().same("prompt", digest([("prompt", _bytes(input_ids))]))
        return super().generate(input_ids, *args, **options)


def _bytes(prompt: torch.Tensor | str | Sequence[str]) -> bytes:
    if isinstance(prompt, torch.Tensor):
        return repr(prompt.tolist()).encode()
    return repr(prompt).encode()


def _best_of_all(logits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Returns the token with the highest logit, of equal ones the first, given those of
    this rank's part [R, N]."""
    ranks, size = current(), logits.shape[-1]
    begin = ranks.rank * size
    best, at = logits[:, : vocabulary - begin].float().max(-1)
    # Of equal logits a part's first one, as argmax has it; ids are exact in float64.
    at = logits[:, : vocabulary - begin].argmax(-1) + begin
    pair = torch.stack((best.double(), at.double()), -1)
    every = torch.stack(ranks.gather(pair))
    of = every[..., 0].argmax(0, keepdim=True)
    return every[..., 1].gather(0, of)[0].long()
