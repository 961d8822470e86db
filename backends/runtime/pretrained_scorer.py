"""A decoder that scores texts as a model of transformers."""

from typing import Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from .losses import class_loss
from .pretrained import Pretrained, refuse


class PretrainedScorer(Pretrained):
    """A build's scoring decoder behind the interface of transformers' classifiers."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answers `logits` [B, C] and, with `labels` [B], `loss`."""
        refuse(options, ("num_items_in_batch",))
        ids, embeds = self._inputs(input_ids, inputs_embeds)
        wanted = output_hidden_states
        states = bool(self.config.output_hidden_states if wanted is None else wanted)
        with self._running(states=states, embeds=embeds) as tapped:
            out = self.model(ids, attention_mask, position_ids)
        loss = None if labels is None else class_loss(out.logits, labels)
        hidden = tuple(tapped.hidden) if states else None
        answer = SequenceClassifierOutput(loss, out.logits, hidden)
        plain = self.config.return_dict if return_dict is None else return_dict
        return answer.to_tuple() if plain is False else answer

    def _first_call(self, ids: torch.Tensor) -> None:
        self.model(ids)
