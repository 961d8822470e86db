"""The arguments of an encoder's call, checked and completed."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from glmc.backends.runtime import encoder
from glmc.backends.runtime.binding import resolve
from glmc.backends.runtime.faults import WeightsError
from glmc.backends.runtime.recipes import Bind


class Header(NamedTuple):
    """A tensor's entry in a file's header."""

    shape: tuple[int, ...] | None
    dtype: str | None


IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])


def test_a_mask_of_ones_is_no_mask() -> None:
    assert encoder.read_mask(None, IDS) is None
    assert encoder.read_mask(torch.ones_like(IDS), IDS) is None
    real = encoder.read_mask(torch.tensor([[1, 1, 1], [1, 0, 1]]), IDS)
    assert real is not None
    assert real.dtype == torch.bool
    assert real.tolist() == [[True, True, True], [True, False, True]]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 4, dtype=torch.bool), r"\[2, 3\]"),
        (torch.tensor([[1, 0, 0], [0, 0, 0]]), "row 1"),
        (torch.ones(2, 3), "bool, or integers 0 and 1"),
        (torch.tensor([[0.0, 0.0, -1e38]]).expand(2, 3), "added to scores"),
        (torch.tensor([[1, 1, 2]]).expand(2, 3), "numbers from 1 to 2"),
        (torch.ones(2, 1, 3, 3, dtype=torch.bool), "Which token sees which"),
    ],
)
def test_masks_that_are_refused(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder.read_mask(mask, IDS)


def test_types_and_positions_by_default() -> None:
    assert encoder.token_types(None, IDS, None).tolist() == [[0] * 3] * 2
    assert encoder.places(None, IDS, 3).tolist() == [[0, 1, 2]] * 2
    given = encoder.places(torch.tensor([2, 0, 1]), IDS, 3)
    assert given.tolist() == [[2, 0, 1]] * 2
    assert given.is_contiguous()


def test_numbers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="has no token types"):
        encoder.token_types(torch.zeros_like(IDS), IDS, None)
    with pytest.raises(ValueError, match="token_type_ids holds numbers from 0 to 2"):
        encoder.token_types(torch.tensor([[0, 1, 2]]), IDS, 2)
    with pytest.raises(ValueError, match="position_ids holds numbers from -1"):
        encoder.places(torch.tensor([[0, -1, 2]]), IDS, None)
    with pytest.raises(ValueError, match="learned 2 positions; truncate"):
        encoder.places(None, IDS, 2)
    with pytest.raises(ValueError, match=r"position_ids is int64 \[2\]"):
        encoder.places(torch.arange(2), IDS, 9)


def test_outputs() -> None:
    x = torch.zeros(1)
    out = encoder.EncoderOutput(x)
    assert out.pooler_output is None
    assert out["last_hidden_state"] is out[0] is x
    assert encoder.MaskedLMOutput(x)[-1] is x
    assert encoder.SequenceClassifierOutput(x)["logits"] is x


TABLE = (Bind("norm", "bert.LayerNorm.weight", (2,)),)
OLD = (("LayerNorm.gamma", "LayerNorm.weight"),)


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("name", ["LayerNorm.weight", "LayerNorm.gamma"])
def test_old_and_short_names(prefix: str, name: str) -> None:
    headers = {prefix + name: Header((2,), "F32")}
    options = {"where": "here", "optional_prefix": "bert."}
    (bind,) = resolve(TABLE, headers, old_names=OLD, **options)  # type: ignore[arg-type]
    assert bind.recipe == prefix + name
    if name.endswith("gamma"):
        with pytest.raises(WeightsError, match="1 missing"):
            resolve(TABLE, headers, **options)  # type: ignore[arg-type]


def test_todays_name_wins_over_an_old_one() -> None:
    names = ("bert.LayerNorm.weight", "bert.LayerNorm.gamma")
    headers = {name: Header((2,), "F32") for name in names}
    with pytest.raises(WeightsError, match=r"not used by this model: bert.*gamma"):
        resolve(TABLE, headers, where="here", old_names=OLD)
