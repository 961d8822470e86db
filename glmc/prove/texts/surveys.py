"""Survey a text, in the child: its tensors, the config keys it reads, its decisions."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from glmc.frontends.code.oracle import TextModel
from glmc.frontends.code.records import Place, Records
from glmc.ir.errors import TextFailedError
from glmc.prove.comparing import Answer, Scenario, scenarios
from glmc.prove.texts.answers import answer
from glmc.prove.texts.job import BEYOND, Job

_SHORT = 11
_EMBEDDING = re.compile(r"embed|wte|tok_")


def survey(job: Job) -> list[dict[str, Any]]:
    """Return for each config the tensors that the text makes, and the records of a
    run."""
    pairs = zip(job.configs, job.lengths, strict=True)
    return [_surveyed(job, config, length) for config, length in pairs]


def _surveyed(job: Job, config: Mapping[str, Any], length: int) -> dict[str, Any]:
    model = TextModel(job.text, config, job.limits)
    tensors = {
        _published(slot.names): {
            "names": slot.names,
            "shape": list(slot.tensor.shape),
            "ones": bool(slot.tensor.ndim == 1 and (slot.tensor == 1).all()),
            "parameter": isinstance(slot.tensor, torch.nn.Parameter),
        }
        for slot in model.slots()
    }
    ids = torch.arange(5, 10)[None]
    answer(model, [], Scenario("survey", ids, ids[:, :2]))
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    answer(model, [], Scenario("padded", ids, ids[:, :2], mask, positions))
    noted = _noted(model.records)
    ends = 0
    if length:
        # Of a long run only comparisons with lengths are kept: they may go either way.
        try:
            _long(model, length)
        except TextFailedError:
            ends = length
            _long(model, length - BEYOND - 1)
        noted |= {name: _noted(model.records)[name] for name in ("compared", "bounds")}
    return {"tensors": tensors, "ends": ends, **noted}


def _long(model: TextModel, length: int) -> None:
    ids = torch.full((1, length), 5)
    answer(model, [], Scenario("long", ids, ids[:, :1]))


def _published(names: list[str]) -> str:
    """Return the name that a tied tensor is saved under: the embedding's."""
    return next((name for name in names if _EMBEDDING.search(name)), names[0])


def _noted(records: Records) -> dict[str, Any]:
    """Return the records as JSON."""

    def rows(found: Mapping[Place, Any]) -> list[list[Any]]:
        return [[*place, value] for place, value in sorted(found.items())]

    return {
        "decisions": rows({p: sorted(v) for p, v in records.decisions.items()}),
        "data": rows(records.data),
        "compared": rows({p: sorted(v) for p, v in records.compared.items()}),
        "bounds": rows({p: sorted(v) for p, v in records.bounds.items()}),
        "keys": {key: sorted(found) for key, found in records.keys.items()},
        "missing": {key: sorted(found) for key, found in records.missing.items()},
        "lines": {file: sorted(found) for file, found in records.lines.items()},
    }


def stage_scenarios(vocab: int) -> list[Scenario]:
    """Return the scenarios of a model with silenced sublayers: one token, and a short
    prompt."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, vocab, (1, _SHORT), generator=generator)
    none = ids[:, :0]
    return [Scenario("one", ids[:, :1].clone(), none), Scenario("short", ids, none)]


def whole_scenarios(vocab: int, longest: int) -> list[Scenario]:
    """Return the scenarios of a whole model: prompt, decoding, padding, and a long
    prompt."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, vocab, (1, longest), generator=generator)
    return [*scenarios(vocab), Scenario("long", ids[:, :-2], ids[:, -2:])]


def staged(
    job: Job, tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[Scenario, Answer]]:
    """Yield the text's answers with sublayers silenced, stage by stage, and as a
    whole."""
    config = job.configs[0]
    for stage, silenced in job.stages.items():
        whole = not silenced
        given = whole_scenarios if whole else _silent_scenarios
        for one in given(job.vocab, job.longest):
            model = TextModel(job.text, config, job.limits)
            model.load(silence(tensors, silenced))
            named = Scenario(
                f"{stage} {one.name}", one.ids, one.more, one.mask, one.positions
            )
            yield named, {"logits": answer(model, [], one)["logits"]}


def _silent_scenarios(vocab: int, longest: int) -> list[Scenario]:
    return stage_scenarios(vocab)


def silence(
    tensors: Mapping[str, torch.Tensor], silenced: list[str]
) -> dict[str, torch.Tensor]:
    """Return the tensors, with those of some modules zero."""
    return {
        name: torch.zeros_like(value)
        if any(name.startswith(f"{one}.") or name == one for one in silenced)
        else value
        for name, value in tensors.items()
    }
