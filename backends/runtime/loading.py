"""Load a model with its weights from a checkpoint."""

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import nn

from .binding import resolve
from .checkpoint import DTYPES, Checkpoint, Tensors, dtype_of
from .drift import DESCRIPTIONS, refuse_drift
from .faults import WeightsError
from .filling import fill
from .folders import (
    LAYOUTS,
    LOOKED_FOR,
    FolderFiles,
    refuse_adapter,
    weight_map,
)
from .hub import HubError, Repository, is_hub_id
from .modules import machine
from .recipes import (
    Bind,
    Leaf,
    Quantized,
    Recipe,
    changed,
    is_repacked,
    names,
)
from .storage import FLOATS
from .values import are_numbers, is_narrowed

if TYPE_CHECKING:
    from .modules import BaseModel

Model = TypeVar("Model", bound="BaseModel")


class Weights(Protocol):
    """The binding table, as the module `weights` of a build has it."""

    WEIGHTS: Sequence[Bind]
    OPTIONAL_PREFIX: str | None
    WAIVED: Sequence[tuple[str, str]]


def load(
    model_class: type[Model],
    table: Weights,
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    strict: bool = True,
    progress: bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    timeout: float | None = None,
    tuned: str | Path | None = None,
    cache_dtype: str | None = None,
    weights: str | None = None,
    pack_cache: bool | str | Path = False,
    allow_config_drift: bool = False,
    part_of: Callable[[Recipe], Recipe] | None = None,
    before: Callable[[Recipe, Checkpoint], None] | None = None,
) -> Model:
    """Loads the model with the weights of `source`, a folder or a hub id.

    `dtype` ("bfloat16", torch.bfloat16, ...) defaults to the one in the config. The
    checkpoint is checked against `table` first, then every parameter is allocated
    once on `device` and filled piece by piece from the mapped files. `progress` shows
    a bar on stderr, by default where that is a terminal. `tuned` is a second folder or
    hub id, whose tensors take the place of those of `source`: what a fine-tune saved,
    such as a prefix encoder alone. `cache_dtype` ("int8", "fp8_e4m3") keeps keys and
    values in less memory than the model's dtype does. With `weights` ("int8", "int4")
    the floats of a checkpoint are rounded to the codes that the build multiplies by:
    one that was compiled for such codes. With `pack_cache` a build of the target cpu
    writes what it packs to a file, beside itself or in the folder given, which the next
    start reads as it is. Raises WeightsError where
    the checkpoint is damaged or does not fit (see `binding.resolve`), or its config is
    another than that of the build, which with `allow_config_drift` is a warning;
    ValueError for a `device`, `dtype` or `weights` that cannot be used. `revision`,
    `endpoint` (a mirror), `offline` and `timeout` are for hub ids; see
    `hub.Repository`. `part_of` makes of a recipe that of what is held here, where
    several ranks share a model; `before` is called before each is followed.
    """
    device = usable_device(device)
    dtype = float_dtype(dtype or model_class.default_dtype)
    hub = {
        "endpoint": endpoint,
        "offline": offline,
        "progress": progress,
        "timeout": timeout,
    }
    folders = [find_folder(source, revision=revision, **hub)]
    if tuned is not None:
        folders.append(find_folder(tuned, **hub))
    checkpoint = Checkpoint(*folders)
    entries = table.WEIGHTS if weights is None else rounded(table.WEIGHTS, weights)
    binds = resolve(
        entries,
        checkpoint.headers,
        where=" with ".join(map(str, folders)),
        optional_prefix=table.OPTIONAL_PREFIX,
        old_names=getattr(table, "OLD_NAMES", ()),
        waived=table.WAIVED,
        strict=strict,
    )
    if part_of is not None:
        binds = [replace(bind, recipe=part_of(bind.recipe)) for bind in binds]
    module = sys.modules.get(model_class.__module__)
    refuse_drift(
        getattr(module, "__file__", None), folders, allow_config_drift, bool(weights)
    )
    for folder in folders:
        refuse_adapter(FolderFiles(folder), strict)
    faults = list(unexpected_of(table, checkpoint, binds))
    tell(faults, " with ".join(map(str, folders)), strict)
    with torch.device("meta"):
        model = model_class()
    binds = list(model.held(binds))
    model.folders = tuple(folders)
    model.bound = tuple(binds)
    model.described(folders)
    if cache_dtype is not None:
        model.keep_cache_as(cache_dtype)
    check_parameters(model, binds)
    wants = machine(device.type)
    kept = None
    if pack_cache:
        name = "-".join(filter(None, (DTYPES[dtype].lower(), weights)))
        kept = _keeper(wants)(pack_cache, name, binds, checkpoint, dtype)
    ready = kept.weights() if kept else None
    if ready is None:
        packed = wants.packing(dtype) if wants else None
        room = getattr(wants, "room", None)
        empty = room(binds, dtype) if room else partial(torch.empty, device=device)
        given = (model, binds, checkpoint, dtype, empty, packed, progress, before)
        faults += _read(*given)
    else:
        for path, weight in ready:
            set_parameter(model, path, weight)
    checkpoint.close()
    tell(faults, " with ".join(map(str, folders)), strict)
    if wants:
        wants.loaded(model)
    if kept and model.engine is not None and not faults:
        there = ready is not None or kept.keep(model)
        model.packed_in = kept.file if there else None
    return model.eval()


def _keeper(wants: Any) -> Callable[..., Any]:
    """Returns what names the file of packed weights."""
    found: Callable[..., Any] | None = getattr(wants, "packed_file", None)
    if found is None:
        raise ValueError(
            "pack_cache is for weights that C++ packs, and this build has none for "
            "the device; compile it with --target cpu, or leave pack_cache out."
        )
    return found


def _read(
    model: nn.Module,
    binds: Sequence[Bind],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    empty: Callable[..., torch.Tensor],
    packed: Callable[[str, torch.Tensor], torch.Tensor] | None,
    progress: bool | None,
    before: Callable[[Recipe, Checkpoint], None] | None,
) -> list[str]:
    """Fills all parameters; one is packed while the next is read. Returns faults.

    `empty` gives them memory, by shape and dtype. Parameters of layers that share
    their weights are one tensor, unless it is packed.
    """
    faults: list[str] = []
    uses = Counter((bind.recipe, bind.shape, bind.dtype) for bind in binds)
    made: dict[object, torch.Tensor] = {}
    waiting: tuple[str, Future[torch.Tensor]] | None = None

    def settle() -> None:
        if waiting is not None:
            set_parameter(model, waiting[0], waiting[1].result())

    with (
        ThreadPoolExecutor(1) as aside,
        progress_bar(progress, binds, dtype) as bar,
    ):
        for bind in binds:
            own = dtype_of(bind, dtype)
            one = bind.recipe, bind.shape, bind.dtype
            weight = made.get(one)
            if weight is None:
                weight = empty(bind.shape, dtype=own)
                if before is not None:
                    before(bind.recipe, checkpoint)
                fill(weight, bind.recipe, checkpoint)
                faults += unsound(weight, bind, checkpoint)
                if uses[one] > 1 and packed is None:
                    made[one] = weight
            if bar is not None:
                bar.update(weight.nbytes)
            settle()
            waiting = None
            if packed is None:
                set_parameter(model, bind.path, weight)
            else:
                waiting = bind.path, aside.submit(packed, bind.path, weight)
        settle()
    return faults


def unexpected_of(
    weights: Weights, checkpoint: Tensors, binds: Sequence[Bind]
) -> Iterator[str]:
    """Yields the tensors that hold other values than the build assumes."""
    rows = getattr(weights, "EXPECTED", ())
    if rows:  # what looks at them came along for them
        looks = import_module(".expected", __package__)
        bound = {name for bind in binds for name in names(bind.recipe)}
        yield from looks.unexpected(rows, checkpoint, bound, weights.OPTIONAL_PREFIX)


def rounded(table: Iterable[Bind], weights: str) -> list[Bind]:
    """Returns a table whose codes are made of floats as they are loaded; `weights` is
    "int8" or "int4".

    Raises ValueError where the build multiplies by no such codes.
    """
    bits = {"int8": 8, "int4": 4}.get(weights)
    if bits is None:
        raise ValueError(f'weights {weights!r} is neither "int8" nor "int4".')
    again = f"compile it with: glmc compile SOURCE --codes int{bits}"

    def made(leaf: Leaf) -> Recipe:
        return leaf.of_floats(bits) if isinstance(leaf, Quantized) else leaf

    try:
        binds = [replace(bind, recipe=changed(bind.recipe, made)) for bind in table]
    except ValueError as error:
        raise ValueError(f"weights={weights!r}: {error}; {again}.") from None
    if not any(is_repacked(bind.recipe) for bind in binds):
        raise ValueError(
            f"weights={weights!r}: this build multiplies by floats; {again}."
        )
    return binds


def unsound(weight: torch.Tensor, bind: Bind, checkpoint: Tensors) -> list[str]:
    """Lists the parameters that hold NaN or infinities; all of it is looked at where
    its tensors may be too large for its dtype."""
    sources = list(names(bind.recipe))
    stored = [checkpoint.headers[name].dtype or "" for name in sources]
    narrowed = is_narrowed(stored, weight.dtype)
    if are_numbers(weight, whole=narrowed):
        return []
    told = f"{', '.join(sources[:2])} holds nan or infinities"
    kind = str(weight.dtype).removeprefix("torch.")
    large = f", or is too large for {kind}: load it as bfloat16 or float32"
    return [told + large * narrowed]


def tell(faults: Sequence[str], where: str, strict: bool) -> None:
    """Refuses values that make the weights worthless; if not `strict`, warns."""
    if not faults:
        return
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    told = f"{where}: {'; '.join(faults[:4])}{more}."
    if strict:
        raise WeightsError(f"{told} To load it all the same: strict=False.", "values")
    warnings.warn(told, stacklevel=3)


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


def find_folder(source: str | Path, **hub: Any) -> Path:
    """Finds the folder of a checkpoint; of a hub id, the cache's, with all its shards.

    `hub` is what `hub.Repository` takes.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise WeightsError(f"{source} is a file; give the folder that holds it.")
    if not is_hub_id(str(source)):
        raise WeightsError(
            f"{source} does not exist, and is no hub id of the form ORG/NAME; give a "
            "folder that holds a checkpoint, or a hub id such as THUDM/chatglm3-6b."
        )
    try:
        return download(Repository(str(source), **hub))
    except HubError as error:
        raise WeightsError(str(error)) from error


def download(repository: Repository) -> Path:
    """Fetches weights into the hub's cache: those that `read_headers` then finds."""
    for name, _ in LAYOUTS:
        found = repository.fetch(name)
        if found is None:
            continue
        for one in DESCRIPTIONS:
            repository.of(found).fetch(one)
        if not name.endswith(".index.json"):
            return found.parent
        files = weight_map(found, f"{repository.hub_id}/{name}")
        return repository.fetch_all(sorted(set(files.values())), beside=found)
    raise HubError(repository.lacking(f"weights (any of {LOOKED_FOR})"))


def usable_device(device: torch.device | str) -> torch.device:
    """Returns the device, once a tensor could be made on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used: {reason}") from error


def float_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Returns a floating dtype from itself or its name."""
    floats = [d for d, name in DTYPES.items() if name in FLOATS]
    named = {str(d).removeprefix("torch."): d for d in floats}
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
    """Returns a bar of bytes on stderr, or None where it is not wanted or tqdm is
    missing."""
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return nullcontext()
    try:
        # tqdm has no types, and in a build mypy may not be asked.
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return nullcontext()
    total = sum(
        math.prod(bind.shape) * dtype_of(bind, dtype).itemsize for bind in binds
    )
    bar: AbstractContextManager[Any] = tqdm(
        total=total, desc="loading", unit="B", unit_scale=True
    )
    return bar
