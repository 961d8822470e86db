"""An encoder as a model of transformers."""

from typing import Any, ClassVar

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
)

from .encoder import Encoder, MaskedLM, SequenceClassifier
from .losses import class_loss
from .pretrained import Pretrained, refuse


class PretrainedEncoder(Pretrained):
    """A build's encoder behind the interface of transformers' encoders."""

    build_class: ClassVar[type[Encoder]]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answers `last_hidden_state` [B, T, E] and `pooler_output` [B, E], or of a
        masked language model `logits` [B, T, V] and, with `labels` [B, T], `loss`, or
        of a classifier `logits` [B, C] and, with `labels` [B], `loss`."""
        refuse(options, ("num_items_in_batch",))
        ids, embeds = self._inputs(input_ids, inputs_embeds)
        places = (
            self._places(position_ids, ids)
            if inputs_embeds is not None
            else position_ids
        )
        wanted = output_hidden_states
        states = bool(self.config.output_hidden_states if wanted is None else wanted)
        with self._running(states=states, embeds=embeds) as tapped:
            out = self.model(ids, attention_mask, token_type_ids, places)
        hidden = tuple(tapped.hidden) if states else None
        if isinstance(self.model, MaskedLM):
            loss = None
            if labels is not None:
                loss = torch.nn.functional.cross_entropy(
                    out.logits.float().flatten(0, 1),
                    labels.flatten().to(out.logits.device),
                )
            answer = MaskedLMOutput(loss, out.logits, hidden)
        elif isinstance(self.model, SequenceClassifier):
            loss = None if labels is None else class_loss(out.logits, labels)
            answer = SequenceClassifierOutput(loss, out.logits, hidden)
        elif labels is not None:
            raise ValueError(
                "labels are given, but this encoder has no head to answer."
            )
        else:
            answer = BaseModelOutputWithPooling(
                out.last_hidden_state, out.pooler_output, hidden
            )
        plain = self.config.return_dict if return_dict is None else return_dict
        return answer.to_tuple() if plain is False else answer

    def _places(
        self, given: torch.Tensor | None, ids: torch.Tensor
    ) -> torch.Tensor | None:
        """Returns the positions of embeddings, which have no ids to know padding by."""
        if given is not None or self.build_class.padding is None:
            return given
        first = self.build_class.padding + 1
        return torch.arange(first, first + ids.shape[1], device=ids.device)[None]

    def _first_call(self, ids: torch.Tensor) -> None:
        self.model(ids, position_ids=torch.zeros_like(ids))
