"""Run a text (a model's published code) on the scenarios that a build is compared
with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from glmc.frontends.code.limits import Limits
from glmc.frontends.code.oracle import TextModel
from glmc.frontends.code.text import Text
from glmc.prove.comparing import Answer, Scenario, calls

MakeModel = Callable[[], TextModel]


def maker(
    text: Text,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    limits: Limits,
) -> MakeModel:
    """Return a function that makes the text's model with its weights; every call a new
    one."""

    def make() -> TextModel:
        model = TextModel(text, config, limits)
        model.load(tensors)
        return model

    return make


def answers(
    make: MakeModel, numbers: Sequence[int], given: Sequence[Scenario]
) -> Iterator[tuple[Scenario, Answer]]:
    """Yield a text's answers; each scenario gets a new model, as texts keep tables.

    Args:
        make: makes the model.
        numbers: what each layer of the build is called in the checkpoint.
        given: the scenarios.
    """
    for one in given:
        yield one, answer(make(), numbers, one)


def answer(model: TextModel, numbers: Sequence[int], given: Scenario) -> Answer:
    """Return the logits, and the hidden state after every layer where the text has a
    list of them.

    A text that puts tokens before batches gets its hidden states turned round. The
    tokens of a step get the positions that the text itself prepares for them, if any.
    """
    found: dict[str, list[torch.Tensor]] = {}
    last = {number: at for at, number in enumerate(numbers)}
    cache, mask, whole = None, given.mask, given.ids[:, :0]
    for ids, positions in calls(given):
        whole = torch.cat([whole, ids], 1)
        if cache is not None and mask is not None:
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        if cache is not None and positions is None:
            positions = model.positions(whole, mask, cache, ids.shape[1])
        model.watch(_keep(found, last, ids), max(last, default=-1) + 1)
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
        )
        cache = out.past_key_values
        found.setdefault("logits", []).append(out.logits.float())
    total = given.ids.shape[1] + given.more.shape[1]
    joined = {name: torch.cat(pieces, 1) for name, pieces in found.items()}
    return {name: value for name, value in joined.items() if value.shape[1] == total}


def _keep(
    found: dict[str, list[torch.Tensor]], last: Mapping[int, int], ids: torch.Tensor
) -> Callable[[int, Any], None]:
    def keep(number: int, out: Any) -> None:
        value = out[0] if isinstance(out, tuple) and out else out
        if number not in last or not isinstance(value, torch.Tensor):
            return
        if value.ndim == 3 and value.shape[:2] == ids.T.shape != ids.shape:
            value = value.transpose(0, 1)
        if value.ndim == 3 and value.shape[:2] == ids.shape:
            found.setdefault(f"layer {last[number]}", []).append(value.float())

    return keep
