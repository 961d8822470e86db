"""The base classes of an emitted encoder: all that `Layer` and `Model` do not spell
out."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch

from .checks import check_ids, check_numbers, check_rows, describe, real_tokens
from .modules import BaseModel, item, operations


class EncoderOutput(NamedTuple):
    """The result of an encoder: by attribute, index, name, or unpacked."""

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor | None = None

    def __getitem__(self, key: Any) -> Any:
        return item(self, key)


class MaskedLMOutput(NamedTuple):
    """The result of a masked language model: by attribute, index, name, or unpacked."""

    logits: torch.Tensor

    def __getitem__(self, key: Any) -> Any:
        return item(self, key)


class SequenceClassifierOutput(NamedTuple):
    """The result of a classifier: by attribute, index, name, or unpacked."""

    logits: torch.Tensor

    def __getitem__(self, key: Any) -> Any:
        return item(self, key)


class Encoder(BaseModel):
    """A stack of layers in which every token sees every other.

    An emitted `Model` gives the class attributes and `run`; here is everything that
    does not depend on the architecture: masks, token types, positions.
    """

    #: Token types that exist, or None where the model has none.
    type_vocab_size: ClassVar[int | None] = None
    #: The id of padding, where it is its position too and other tokens are counted from
    #: the next one; None where all tokens are counted, from 0.
    padding: ClassVar[int | None] = None
    #: What the tensors of `run` are called.
    output: ClassVar[Callable[..., Any]] = EncoderOutput

    def run(
        self,
        ids: torch.Tensor,
        pos: torch.Tensor,
        types: torch.Tensor,
        mask: torch.Tensor | None,
        ops: ModuleType,
    ) -> tuple[torch.Tensor, ...]:
        """Returns the answers for `ids` [B, T] at `pos` of `types`, both [B, T]; `mask`
        bool [B, T] is true at real tokens, None where all are. An emitted `Model` gives
        this one."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> Any:
        """Encodes `input_ids` int64 [B, T], as models of transformers do.

        `attention_mask` [B, T] of 0 and 1 marks padding, wherever it is; what is
        answered at a padded place means nothing. `token_type_ids` [B, T] default to 0,
        `position_ids` [B, T] to 0, 1, 2, ... in every row, or where the model has a
        `padding` to the numbers of tokens that are not of that id. Returns
        `last_hidden_state` [B, T, E] and `pooler_output` [B, E] (None without a
        pooler), or of a masked language model `logits` [B, T, V], or of a classifier
        `logits` [B, classes]. Raises ValueError when the inputs contradict each other
        or this model.
        """
        check_ids(input_ids, self.vocab_size)
        mask = read_mask(attention_mask, input_ids)
        types = token_types(token_type_ids, input_ids, self.type_vocab_size)
        pos = places(position_ids, input_ids, self.max_positions, self.padding)
        ops = self.ops or operations(input_ids.device.type)
        return self.output(*self.run(input_ids, pos, types, mask, ops))


class MaskedLM(Encoder):
    """An encoder with a head that answers logits for every token."""

    output = MaskedLMOutput


class SequenceClassifier(Encoder):
    """An encoder with a head that answers a number for each class of a sequence."""

    output = SequenceClassifierOutput


def read_mask(mask: torch.Tensor | None, ids: torch.Tensor) -> torch.Tensor | None:
    """Returns the mask as bool [B, T], or None where every token is real."""
    if mask is None:
        return None
    batch, tokens = ids.shape
    what = f"the {tokens} tokens of input_ids"
    real = real_tokens(mask, batch, tokens, what).to(ids.device)
    check_rows(real)
    return None if bool(real.all()) else real


def token_types(
    given: torch.Tensor | None, ids: torch.Tensor, count: int | None
) -> torch.Tensor:
    """Returns types int64 [B, T]: `given`, or 0 everywhere."""
    if given is None:
        return torch.zeros_like(ids)
    if count is None:
        raise ValueError("token_type_ids is given, but this model has no token types.")
    return _numbered("token_type_ids", given, ids, count, "token types")


def places(
    given: torch.Tensor | None,
    ids: torch.Tensor,
    count: int | None,
    padding: int | None = None,
) -> torch.Tensor:
    """Returns positions int64 [B, T]: `given`, or 0, 1, 2, ... whatever the mask
    says; with a `padding`, that at tokens of this id, and `padding` + 1, ... at the
    others."""
    if given is not None:
        return _numbered("position_ids", given, ids, count, "positions")
    batch, tokens = ids.shape
    if count is not None:
        count -= 0 if padding is None else padding + 1
    if count is not None and tokens > count:
        raise ValueError(
            f"input_ids has {tokens} tokens, but this model has learned {count} "
            "positions; truncate the text."
        )
    if padding is not None:
        real = ids != padding
        return real.cumsum(1) * real + padding
    return torch.arange(tokens, device=ids.device).expand(batch, tokens).contiguous()


def _numbered(
    name: str, given: torch.Tensor, ids: torch.Tensor, count: int | None, what: str
) -> torch.Tensor:
    """Returns `given` as int64 [B, T], refused where a number is not below `count`."""
    check_numbers(name, given, count, what)
    batch, tokens = ids.shape
    if given.shape not in ((tokens,), (1, tokens), (batch, tokens)):
        raise ValueError(
            f"{name} is {describe(given)}, but this call needs {list(ids.shape)}: a "
            "number for each token of input_ids."
        )
    return given.to(ids.device, torch.int64).expand(batch, tokens).contiguous()
