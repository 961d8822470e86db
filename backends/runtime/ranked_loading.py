"""Load one rank's part of a model that several ranks compute together."""

from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from . import loading
from .dealt import of_rank
from .modules import BaseModel
from .processes import join, own_device
from .ranks import Ranks, belong, digest, use
from .reading_ahead import want

Model = TypeVar("Model", bound=BaseModel)


def load(
    model_class: type[Model],
    weights: loading.Weights,
    source: str | Path,
    *,
    count: int,
    stages: int = 1,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
    **options: Any,
) -> Model:
    """Loads this rank's part, as `loading.load` loads a whole model.

    All ranks call it, `count` in each of `stages` stages, inside an initialised process
    group; `ranks` are other means to talk than that. Raises RanksError on every rank
    where there is no such group, or where builds or checkpoints differ; what one rank
    cannot load ends all.
    """
    device = own_device(device)
    if ranks is None:
        ranks = join(count, stages, device)
        belong(ranks)
    ranks.same("build", _build())
    with ranks.together(), use(ranks):
        model = loading.load(
            model_class,
            weights,
            source,
            device=device,
            part_of=partial(of_rank, rank=ranks.rank),
            before=want,
            **options,
        )
    ranks.same("checkpoint", _vectors(model, weights), of_stage=True)
    return model


def _build() -> str:
    """Returns a digest of the code of this build."""
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest([(str(f.relative_to(folder)), f.read_bytes()) for f in files])


def _vectors(model: BaseModel, weights: loading.Weights) -> str:
    """Returns a digest of the vectors that every rank has whole, such as the weights of
    norms: of a model that was trained further they are others."""
    dealt = {
        bind.path
        for entry in weights.WEIGHTS
        for bind in entry.each()
        if of_rank(bind.recipe, 0) != bind.recipe
    }
    held = (
        (name, weight.detach().float().cpu().numpy().tobytes())
        for name, weight in model.named_parameters()
        if weight.ndim == 1 and name not in dealt
    )
    return digest(list(held))
