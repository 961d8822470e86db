"""The prompt of a generation, ids or text, and its answer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch


class Prompt(NamedTuple):
    """Rows of ids with their mask and positions; `tokenizer` where they were text.

    `single` says that it was one text, not several.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    pos: torch.Tensor | None
    tokenizer: Any = None
    single: bool = False

    @classmethod
    def read(
        cls,
        given: torch.Tensor | str | Sequence[str],
        mask: torch.Tensor | None,
        pos: torch.Tensor | None,
        tokenizer: Any,
    ) -> "Prompt":
        """Reads the prompt of a call. Raises ValueError for text without a tokenizer,
        or with a mask or positions of its own, and for what is neither text nor ids."""
        if isinstance(given, torch.Tensor):
            return cls(given, mask, pos)
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list | tuple) or not all(
            isinstance(text, str) for text in texts
        ):
            raise ValueError(
                f"a prompt is a tensor of ids [B, P], a text, or a list of texts, not "
                f"a {type(given).__name__}; torch.tensor(...) makes a tensor of a list."
            )
        if tokenizer is None or mask is not None or pos is not None:
            raise ValueError(
                "a prompt that is text needs tokenizer=, such as load_tokenizer gives, "
                "which also says its attention_mask and position_ids."
            )
        batch = tokenizer(list(texts), return_tensors="pt", padding=True)
        kept = batch["attention_mask"], batch.get("position_ids")
        return cls(batch["input_ids"], *kept, tokenizer, isinstance(given, str))

    def tensors(
        self, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns ids, mask and positions; those of text on the model's device."""
        if self.tokenizer is None:
            return self.ids, self.mask, self.pos
        mask, pos = (None if p is None else p.to(device) for p in self[1:3])
        return self.ids.to(device), mask, pos

    def answer(
        self, ids: torch.Tensor, steps: Iterator[torch.Tensor], stream: bool
    ) -> Any:
        """Returns the result of `generate`; `ids` are the rows that the steps go on
        from."""
        if self.tokenizer is None:
            return steps if stream else torch.cat([ids, _all(steps, ids.device)], 1)
        one = self.single and len(ids) == 1
        if stream:
            if not one:
                raise ValueError("only one text can be streamed in pieces.")
            return self.tokenizer.stream()(steps)
        rows = _all(steps, torch.device("cpu"))
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts[0] if one else texts


def _all(steps: Iterator[torch.Tensor], device: torch.device) -> torch.Tensor:
    return torch.stack(list(steps), dim=1).to(device)


def streamed(
    ids: torch.Tensor, steps: Iterator[torch.Tensor], streamer: Any
) -> Iterator[torch.Tensor]:
    """Yields the steps, each of which a streamer of transformers' kind is shown."""
    streamer.put(ids.cpu())
    for token in steps:
        streamer.put(token)
        yield token
    streamer.end()
