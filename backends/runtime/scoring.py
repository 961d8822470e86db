"""The base class of an emitted decoder that scores texts and continues none."""

from typing import Any, NamedTuple, NoReturn

import torch

from .causal_lm import CausalLM
from .modules import item


class ScoredOutput(NamedTuple):
    """The result of a scoring model: by attribute, index, name, or unpacked."""

    logits: torch.Tensor

    def __getitem__(self, key: Any) -> Any:
        return item(self, key)


class SequenceScorer(CausalLM):
    """A decoder with a number for each class of a text, from its last token."""

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> ScoredOutput:
        """Computes logits [B, C] of `input_ids` [B, T], as models of transformers do.

        `attention_mask` [B, T] marks padding, on the left or on the right of a row;
        without it ids of padding on the right are passed over. Raises ValueError when
        the inputs contradict each other or this model.
        """
        out = super().forward(input_ids, attention_mask, position_ids, use_cache=False)
        last = last_tokens(input_ids, attention_mask, self.pad_token_id)
        rows = torch.arange(len(last), device=last.device)
        return ScoredOutput(out.logits[rows, last])

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises ValueError: there are no words to choose from."""
        raise ValueError(
            "this model scores texts, and generates none: call it, and read `logits`."
        )


def last_tokens(
    ids: torch.Tensor, mask: torch.Tensor | None, padding: int | None
) -> torch.Tensor:
    """Returns the place of each row's last token, [B]: by the mask, or else the last
    one whose id is not `padding`."""
    if mask is None:
        real = torch.ones_like(ids) if padding is None else (ids != padding).long()
    else:
        real = mask.to(ids.device).long()
    places = torch.arange(ids.shape[1], device=ids.device)
    return (places * real).argmax(1)
