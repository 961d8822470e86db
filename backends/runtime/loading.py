"""`load`: from a checkpoint to a model with weights."""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import nn

from .binding import WeightsError, resolve
from .checkpoint import DTYPES, Checkpoint
from .precompiled import offer
from .recipes import Bind, Cat, Recipe, Tensor, evaluate, shape_of

if TYPE_CHECKING:
    from .causal_lm import CausalLM

Model = TypeVar("Model", bound="CausalLM")

#: Large tensors are copied in pieces of this many bytes.
PIECE = 16 << 20


class Weights(Protocol):
    """The binding table, as the module `weights` of a build has it."""

    WEIGHTS: Sequence[Bind]
    OPTIONAL_PREFIX: str | None
    WAIVED: Sequence[tuple[str, str]]


def load(
    model_class: type[Model],
    weights: Weights,
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    strict: bool = True,
    progress: bool | None = None,
    revision: str | None = None,
) -> Model:
    """The model with the weights of `source`, a folder or a hub id.

    `dtype` ("bfloat16", torch.bfloat16, ...) defaults to the one in the config. The
    checkpoint is checked against `weights` first, then every parameter is allocated
    once on `device` and filled piece by piece from the mapped files. `progress` shows
    a bar on stderr, by default where that is a terminal. Raises WeightsError where
    the checkpoint is damaged or does not fit (see `binding.resolve`), ValueError for a
    `device` or `dtype` that cannot be used.
    """
    device = usable_device(device)
    dtype = float_dtype(dtype or model_class.default_dtype)
    folder = find_folder(source, revision)
    checkpoint = Checkpoint(folder)
    binds = resolve(
        weights.WEIGHTS,
        checkpoint.headers,
        where=str(folder),
        optional_prefix=weights.OPTIONAL_PREFIX,
        waived=weights.WAIVED,
        strict=strict,
    )
    with torch.device("meta"):
        model = model_class()
    check_parameters(model, binds)
    with progress_bar(progress, binds, dtype) as bar:
        for bind in binds:
            weight = torch.empty(bind.shape, dtype=dtype, device=device)
            fill(weight, bind.recipe, checkpoint)
            set_parameter(model, bind.path, weight)
            if bar is not None:
                bar.update(weight.nbytes)
    checkpoint.close()
    offer(device)
    return model.eval()


def fill(out: torch.Tensor, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Writes what `recipe` describes into `out`, without a second copy of it."""
    match recipe:
        case Cat(parts, dim):
            begin = 0
            for part in parts:
                shape = shape_of(part, lambda name: checkpoint.headers[name].shape)
                fill(out.narrow(dim, begin, shape[dim]), part, checkpoint)
                begin += shape[dim]
        case str(name) | Tensor(name, _):
            for rows in pieces(out):
                source = checkpoint.read(name)[rows]
                out[rows].copy_(source)
                size = source.nbytes
                del source
                checkpoint.spend(size)
        case _:
            out.copy_(evaluate(recipe, checkpoint.read))
            checkpoint.spend(out.nbytes)


def pieces(out: torch.Tensor) -> Iterator[slice | EllipsisType]:
    """Indices that cut a large tensor into runs of rows, or take a small one whole."""
    if out.nbytes <= PIECE:
        yield ...
        return
    step = max(1, PIECE * out.shape[0] // out.nbytes)
    for begin in range(0, out.shape[0], step):
        yield slice(begin, begin + step)


def set_parameter(model: nn.Module, path: str, weight: torch.Tensor) -> None:
    """Puts `weight` in place of the parameter at an attribute path."""
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(weight, requires_grad=False))


def check_parameters(model: nn.Module, binds: Sequence[Bind]) -> None:
    """Refuses a binding table that is not the one of this model module."""
    declared = {(path, tuple(p.shape)) for path, p in model.named_parameters()}
    bound = {(bind.path, bind.shape) for bind in binds}
    differing = sorted({path for path, _ in declared ^ bound})
    if differing:
        raise WeightsError(
            f"the parameters of {type(model).__module__} and the binding table differ "
            f"in {', '.join(differing[:8])}; one of the two was edited, so compile "
            "the model again or edit both."
        )


def find_folder(source: str | Path, revision: str | None) -> Path:
    """The folder of a checkpoint; downloads a hub id (never its code)."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise WeightsError(f"{source} is a file; give the folder that holds it.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source)[0] == ".":
        raise WeightsError(
            f"{source} does not exist; give a folder that holds a checkpoint, or a "
            "hub id such as THUDM/chatglm3-6b."
        )
    return download(str(source), revision)


def download(hub_id: str, revision: str | None) -> Path:
    """Fetches a checkpoint into the hub's cache: safetensors, or else `.bin` files."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise WeightsError(
            f"{hub_id} is no folder, and to download it from the hub the package "
            "huggingface_hub is needed; `pip install huggingface_hub`, or give a "
            "folder."
        ) from error
    try:
        for weights in ("*.safetensors", "*.bin"):
            patterns = [weights, "*.json"]
            folder = Path(
                snapshot_download(hub_id, revision=revision, allow_patterns=patterns)
            )
            if any(folder.glob(weights)):
                break
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{hub_id} is no folder, and the hub does not give it: {reason}. Check "
            "the name, the network and, for a gated model, your login."
        ) from error
    return folder


def usable_device(device: torch.device | str) -> torch.device:
    """The device, once a tensor could be made on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used: {reason}") from error


def float_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating dtype from itself or its name."""
    named = {str(d).removeprefix("torch."): d for d in DTYPES}
    found = named.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(
            f"dtype {str(dtype)!r} is not one that weights can have; give one of "
            f"{', '.join(named)}."
        )
    return found


def progress_bar(
    wanted: bool | None, binds: Sequence[Bind], dtype: torch.dtype
) -> AbstractContextManager[Any]:
    """A bar of bytes on stderr, or None where it is not wanted or tqdm is missing."""
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return nullcontext()
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return nullcontext()
    total = sum(math.prod(bind.shape) for bind in binds) * dtype.itemsize
    bar: AbstractContextManager[Any] = tqdm(
        total=total, desc="loading", unit="B", unit_scale=True
    )
    return bar
