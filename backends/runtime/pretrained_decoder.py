"""A decoder as a model of transformers, which its `generate` decodes."""

from typing import Any, ClassVar

import torch
from transformers import Cache as TransformersCache
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .cache import Cache
from .causal_lm import CausalLM
from .checks import of_kind
from .inputs import positions
from .pretrained import Pretrained, refuse

#: What `generate` hands on to the model though it is its own.
_OF_GENERATE = ("tokenizer", "assistant_tokenizer")
#: What the loss takes beside logits and labels.
_OF_LOSS = ("num_items_in_batch", "ignore_index", "shift_labels")


class Kept(CacheLayerMixin):  # type: ignore[misc, unused-ignore]
    """The states of all layers of a build, as the one layer of a cache of transformers.

    Such a cache hands each of its methods on to its layers, so beams, cropping and
    batches work on it as on any other.
    """

    supports_early_init = False
    is_sliding = False

    def __init__(self, cache: Cache):
        super().__init__()
        self.cache = cache
        self.is_initialized = True

    @property
    def batch_size(self) -> int:
        """Rows of the cache."""
        return self.cache.batch

    @property
    def is_croppable(self) -> bool:
        """False where layers keep a state per row, and no token can be taken back."""
        return all(state.slots_dim is not None for state in self.cache.own)

    def lazy_initialization(self, *_: Any) -> None:
        """Does nothing: there is a place for everything from the beginning."""

    def update(self, *_: Any, **__: Any) -> Any:
        """Raises ValueError: layers of a build write to their states themselves."""
        raise ValueError("a cache that a build filled is continued by that build.")

    def get_seq_length(self, *_: Any) -> int:
        """Returns the tokens that were read."""
        return self.cache.tokens

    def get_max_length(self) -> int:
        """Returns -1: it grows."""
        return -1

    def get_mask_sizes(self, query_length: int, *_: Any) -> tuple[int, int]:
        """Returns the tokens that a mask must cover, and where they begin."""
        return self.cache.tokens + int(query_length), 0

    def reset(self) -> None:
        """Forgets all tokens."""
        self.cache.crop(0)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Lets each row go on from another."""
        self.cache.reorder(beam_idx.to(self.cache.device))

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last so many tokens; the number is negative, as in
        transformers."""
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop({tokens_to_remove}): give the number of tokens to remove as a "
                "negative number, as transformers 5 does."
            )
        self.cache.crop(self.cache.tokens + tokens_to_remove)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        rows = torch.arange(self.cache.batch, device=self.cache.device)
        self.cache.reorder(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows."""
        rows = torch.arange(self.cache.batch, device=self.cache.device)
        self.cache.reorder(rows[indices.to(self.cache.device)])


class PretrainedDecoder(Pretrained, GenerationMixin):  # type: ignore[misc, unused-ignore]
    """A build's decoder behind the interface of transformers' causal models."""

    build_class: ClassVar[type[CausalLM]]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: TransformersCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answers as models of transformers do: `loss` where `labels` [B, T] are given
        (-100: not counted), `logits` [B, T, V], `past_key_values`, `hidden_states`.

        `inputs_embeds` [B, T, E] are what `get_input_embeddings()` gives for ids. A
        cache is filled where `use_cache` says so, or nothing does and no gradient is
        asked for. Raises ValueError as the build's model does, and for options that it
        does not obey, such as output_attentions.
        """
        refuse(options, _OF_LOSS)
        if inputs_embeds is not None and not self._counts():
            raise ValueError(
                "inputs_embeds are given, but this model finds its positions in the "
                "ids of a prompt; give it input_ids."
            )
        ids, embeds = self._inputs(input_ids, inputs_embeds)
        usual = past_key_values is not None or not self.training
        cached = usual if use_cache is None else use_cache
        cache = self._cache(past_key_values) if cached else None
        states = bool(_chosen(output_hidden_states, self.config.output_hidden_states))
        number = logits_to_keep if isinstance(logits_to_keep, int) else 0
        keep = 0 if states or labels is not None else number
        with self._running(states=states, embeds=embeds) as tapped:
            out = self.model(
                ids,
                attention_mask,
                position_ids,
                past_key_values=None if cache is None else kept_in(cache),
                logits_to_keep=keep,
            )
        if cache is not None:
            cache.layers = [Kept(out.past_key_values)]
            cache.layer_class_to_replicate = None
        logits = out.logits
        loss = None if labels is None else self._loss(logits, labels, options)
        if not isinstance(logits_to_keep, int):
            logits = logits[:, logits_to_keep]
        elif number and not keep:
            logits = logits[:, -number:]
        hidden = tuple(tapped.hidden) if states else None
        answer = CausalLMOutputWithPast(loss, logits, cache, hidden)
        plain = _chosen(return_dict, self.config.return_dict) is False
        return answer.to_tuple() if plain else answer

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, options: Any) -> Any:
        size = self.model.vocab_size
        return self.loss_function(
            logits=logits, labels=labels, vocab_size=size, **options
        )

    def _cache(self, given: TransformersCache | None) -> TransformersCache:
        """Returns the cache of a call; a new one of transformers becomes ours."""
        if given is None:
            return DynamicCache()
        of_kind(
            given,
            TransformersCache,
            f"past_key_values is a {type(given).__name__}; give a DynamicCache, or "
            "what a call before answered.",
        )
        if kept_in(given) is None and (
            any(getattr(one, "is_initialized", False) for one in given.layers)
            or not isinstance(given, DynamicCache)
        ):
            raise ValueError(
                f"past_key_values is a {type(given).__name__} that this build did not "
                "begin: give an empty DynamicCache, or what a call before answered."
            )
        return given

    def _first_call(self, ids: torch.Tensor) -> None:
        streams = ids if self._counts() else ids[None].expand(1, 2, 1)
        cache, ops = self.model.empty_cache(1, 1), self.model.ops
        self.model.run(ids, streams, cache, 1, ops)

    def _counts(self) -> bool:
        """Tells whether positions count tokens, as `generate` believes."""
        return self.build_class.scheme is positions

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *rest: Any,
        **more: Any,
    ) -> Any:
        """Makes the cache of a generation, which the first call fills."""
        wanted = generation_config.cache_implementation
        if wanted not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={wanted!r}: a build keeps what it keeps in a "
                "cache of its own; leave it out. cache_dtype= of from_pretrained makes "
                "it smaller."
            )
        unused = generation_config.use_cache is False
        if not unused and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = DynamicCache()
            return None
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *rest, **more
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Gives a call of `generate` its inputs. Positions that do not count tokens are
        found by the model itself, and a text that a longrope turns otherwise from here
        on is read again."""
        for name in _OF_GENERATE:
            kwargs.pop(name, None)
        if not self._counts():
            kwargs.pop("position_ids", None)
        begun = 0 if past_key_values is None else past_key_values.get_seq_length()
        end = input_ids.shape[1]
        if any(0 < begun <= limit < end for limit in self.build_class.turns_at):
            past_key_values.reset()
            next_sequence_length = None
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, past_key_values, **kwargs
        )


def kept_in(cache: TransformersCache) -> Cache | None:
    """Returns the build's cache within one of transformers, or None."""
    layers = cache.layers
    return layers[0].cache if layers and isinstance(layers[0], Kept) else None


def _chosen(given: bool | None, usual: bool | None) -> bool | None:
    return usual if given is None else given
