"""Refusing what no model can be called with."""

import torch


def check_ids(ids: torch.Tensor, vocab_size: int) -> None:
    """Refuses ids that are not int64 [B, T] within the vocabulary."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(
            f"input_ids is {describe(ids)}, but a model takes int64 [batch, tokens]; "
            "for one prompt use torch.tensor([ids])."
        )
    if ids.numel() == 0:
        raise ValueError(f"input_ids is empty ({describe(ids)}); give a token or more.")
    if ids.device.type != "cpu" and ids.shape[1] == 1:
        return  # Looking at the ids would make every decode step wait for the device.
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"input_ids holds ids from {low} to {high}, but the vocabulary of this "
            f"model has ids 0 to {vocab_size - 1}; the prompt may come from another "
            "tokenizer."
        )


def describe(tensor: torch.Tensor) -> str:
    """`int64 [2, 5]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
