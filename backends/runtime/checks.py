"""Refuse what no model can be called with."""

from typing import TypeVar

import torch

#: What a mask of 0 and 1 can be made of.
MASKS = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
#: What numbers that count something can be made of.
COUNTS = MASKS[1:]


Kind = TypeVar("Kind")


def tracing() -> bool:
    """Tells whether calls are being recorded as a program (torch.export,
    torch.compile), which has no values to look at: checks of values are left out."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def of_kind(value: object, kind: type[Kind], refusal: str) -> Kind:
    """Give the value, if it is of a kind; raises ValueError with the refusal if not."""
    if isinstance(value, kind):
        return value
    raise ValueError(refusal)


def check_ids(ids: torch.Tensor, vocab_size: int) -> None:
    """Refuses ids that are not int64 [B, T] within the vocabulary."""
    of_kind(
        ids,
        torch.Tensor,
        f"input_ids is a {type(ids).__name__}, but a model takes an int64 tensor "
        "[batch, tokens]; give torch.tensor(ids), with a list for each row.",
    )
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(
            f"input_ids is {describe(ids)}, but a model takes int64 [batch, tokens]; "
            "for one prompt use torch.tensor([ids])."
        )
    if ids.numel() == 0:
        raise ValueError(f"input_ids is empty ({describe(ids)}); give a token or more.")
    if tracing() or (ids.device.type != "cpu" and ids.shape[1] == 1):
        return  # Looking at the ids would make every decode step wait for the device.
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"input_ids holds ids from {low} to {high}, but the vocabulary of this "
            f"model has ids 0 to {vocab_size - 1}; the prompt may come from another "
            "tokenizer."
        )


def real_tokens(mask: object, batch: int, tokens: int, what: str) -> torch.Tensor:
    """Turns a mask [B, T] into bool [B, T]: true at real tokens, where it is True or 1.

    Refuses what means something else, such as a mask of floats that is added to the
    scores. `what` says in messages which tokens those are.
    """
    refusal = f"attention_mask is a {type(mask).__name__}; give a tensor of 0 and 1."
    mask = of_kind(mask, torch.Tensor, refusal)
    if mask.dtype not in MASKS:
        raise ValueError(
            f"attention_mask is {describe(mask)}, but a mask is bool, or integers 0 "
            "and 1: true at real tokens, false at padding. Of one that is added to "
            "scores give mask == 0, of 0.0 and 1.0 give mask.long()."
        )
    if mask.shape != (batch, tokens):
        whole = " Which token sees which is no input of this model." * (mask.ndim > 2)
        raise ValueError(
            f"attention_mask is {describe(mask)}, but this call needs "
            f"[{batch}, {tokens}]: a 0 or 1 for each of {what}.{whole}"
        )
    if mask.dtype != torch.bool and not tracing():
        low, high = int(mask.min()), int(mask.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"attention_mask holds numbers from {low} to {high}, but a mask is 1 "
                "at real tokens and 0 at padding; give 0 and 1, or bool."
            )
    return mask != 0


def check_rows(real: torch.Tensor) -> None:
    """Refuses a row without any token."""
    if tracing():
        return
    empty = (~real.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"attention_mask has no 1 in row {empty[0]}; drop the row or give it a "
            "token."
        )


def check_numbers(name: str, given: object, limit: int | None, what: str) -> None:
    """Refuses anything but whole numbers from 0 to below `limit`; `what` names them."""
    if not isinstance(given, torch.Tensor) or given.dtype not in COUNTS:
        found = f"a {type(given).__name__}"
        if isinstance(given, torch.Tensor):
            found = describe(given)
        raise ValueError(
            f"{name} is {found}, but {what} are int64; give such a tensor."
        )
    if not given.numel() or tracing():
        return
    low, high = int(given.min()), int(given.max())
    if low < 0 or (limit is not None and high >= limit):
        known = "are counted from 0" if limit is None else f"are 0 to {limit - 1}"
        raise ValueError(
            f"{name} holds numbers from {low} to {high}, but the {what} of this model "
            f"{known}."
        )


def describe(tensor: torch.Tensor) -> str:
    """Returns `int64 [2, 5]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
