"""Write weights back as they were published: names, layouts, shards and index.

A recipe makes a parameter of published tensors; here it is followed backwards. What is
as it was loaded is copied from the source as it lies there, so a round trip changes no
bit, whatever the dtype that the model was loaded in.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .checkpoint import NAMED_DTYPES, Checkpoint, dtype_of
from .evaluation import evaluate
from .faults import WeightsError
from .folders import LAYOUTS, FolderFiles, read_headers, refuse_outside
from .inverse import Inverse
from .modules import BaseModel
from .recipes import names
from .strict_json import MEGABYTE, read_object

#: What a folder of a model holds beside its weights. No code.
COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*.jsonl", "*LICENSE*", "NOTICE*")
_INDEX = ".index.json"
_MAX_INDEX = 256 * MEGABYTE


def save(
    model: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
) -> None:
    """Writes the weights of a loaded model, emitted or as `hf`, to a new folder.

    Names, layouts, files and index are those of the folder that the weights were loaded
    from, which must still be there, as are config and tokenizer. A tensor that changed
    is written in the dtype it was published in, or in the model's where that holds
    more, or in `dtype`. The folder appears whole or not at all. Raises
    WeightsError where it exists, where a tensor cannot be made of the parameters
    (codes that changed), or where two parameters contradict each other.
    """
    refuse_taken(folder)
    held = within(model)
    with finished(folder, held) as draft:
        write(held, draft, dtype=dtype)


def refuse_taken(folder: str | Path) -> None:
    """Refuses a folder that exists."""
    if os.path.lexists(folder):
        raise WeightsError(f"{folder} exists; name a folder that does not.", "path")


@contextmanager
def finished(folder: str | Path, model: BaseModel) -> Iterator[Path]:
    """Makes a folder that is there once all within is done, and what lies beside the
    weights is copied to it."""
    place = Path(folder)
    with _drafted(place) as draft:
        yield draft
        _copy_rest(model.folders, draft)
        os.replace(draft, place)


def into_folder(
    model: BaseModel,
    folder: Path,
    state: Mapping[str, torch.Tensor] | None = None,
    prefix: str = "",
) -> None:
    """Writes the weights into a folder that may hold other files, each of which is
    replaced whole. `state` are other weights, by names that begin with `prefix`."""
    for source in model.folders:
        if folder.resolve() == source.resolve():
            raise WeightsError(
                f"{folder} is where the weights were loaded from, and what did not "
                "change is copied from there: save to another folder.",
                "path",
            )
    folder.mkdir(parents=True, exist_ok=True)
    with _drafted(folder / "weights") as draft:
        write(model, draft, state, prefix=prefix)
        files = [one for one in draft.rglob("*") if one.is_file()]
        for file in sorted(files, key=lambda one: one.name.endswith(_INDEX)):
            place = folder / file.relative_to(draft)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


def within(model: Any) -> BaseModel:
    """Returns the emitted model: itself, or what is wrapped as a model of transformers.

    Raises WeightsError for a model that has more in it, such as adapters.
    """
    held = model if isinstance(model, BaseModel) else getattr(model, "model", model)
    if not isinstance(held, BaseModel) or not held.bound:
        raise WeightsError(
            f"a {type(model).__name__} is no loaded model of this build: give what its "
            "load() or hf.from_pretrained() returned, with adapters merged into it "
            "(with peft: merge_and_unload())."
        )
    return held


def write(
    model: BaseModel,
    folder: Path,
    state: Mapping[str, torch.Tensor] | None = None,
    *,
    prefix: str = "",
    dtype: torch.dtype | str | None = None,
) -> None:
    """Writes files of weights, and their index, into a folder; see `save`."""
    values = parameters(model, state, prefix)
    source = source_of(model)
    write_files(model, Inverse(model.bound, values, source, dtype_named(dtype)), folder)
    source.close()


def write_files(model: BaseModel, inverse: Inverse, folder: Path) -> None:
    """Writes the files of weights that an inverse gives, and their index."""
    source = inverse.source
    headers = read_headers(FolderFiles(model.folders[0]))
    held = {name: info.file for name, info in headers.tensors.items()}
    # What a second folder has beside the first goes to the last file.
    held |= {n: headers.files[-1] for n in source.headers if n not in held}
    total = 0
    for file in headers.files:
        names_here = [name for name, where in held.items() if where == file]
        tensors = {name: published(inverse.tensor(name)) for name in names_here}
        _write_file(tensors, folder / file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        del tensors
    if (index := _index_of(model.folders[0])) is not None:
        said = read_object(index, _MAX_INDEX)
        known = said.get("metadata")
        size = {**(known if isinstance(known, dict) else {}), "total_size": total}
        names_now = [*said["weight_map"], *(held.keys() - said["weight_map"].keys())]
        said |= {"metadata": size, "weight_map": {n: held[n] for n in names_now}}
        text = json.dumps(said, indent=2) + "\n"
        (folder / index.name).write_text(text, encoding="utf-8", newline="\n")


def take(
    model: BaseModel, tensors: dict[str, torch.Tensor]
) -> tuple[list[str], list[str]]:
    """Fills parameters from published tensors, as far as these are there, and takes
    them out of `tensors`. Returns the parameters that were not filled, and the tensors
    of none."""
    missing, used = [], set()
    of_model = {name for bind in model.bound for name in names(bind.recipe)}
    for bind in model.bound:
        needed = set(names(bind.recipe))
        if not needed <= tensors.keys():
            missing.append(bind.path)
            continue
        own = model.get_parameter(bind.path)
        made = evaluate(bind.recipe, tensors.__getitem__, dtype_of(bind, model.dtype))
        with torch.no_grad():
            own.copy_(made)
        used |= needed
    return missing, sorted(tensors.keys() - of_model)


def parameters(
    model: BaseModel,
    state: Mapping[str, torch.Tensor] | None = None,
    prefix: str = "",
) -> dict[str, torch.Tensor]:
    """Returns the parameters by their paths, and refuses a model that has others."""
    held: dict[str, torch.Tensor] = dict(model.named_parameters())
    if state is not None:
        cut = f"{prefix}." if prefix else ""
        held = {name.removeprefix(cut): value for name, value in state.items()}
    bound = {bind.path for bind in model.bound}
    if other := sorted(bound ^ held.keys()):
        raise WeightsError(
            "the model's parameters are not those that were loaded: "
            f"{', '.join(other[:4])} differ. Merge adapters into the weights first "
            "(with peft: merge_and_unload()), or save the adapter by itself."
        )
    return held


def source_of(model: BaseModel) -> Checkpoint:
    """Returns the folders that the weights were loaded from."""
    for folder in model.folders:
        if not folder.is_dir():
            raise WeightsError(
                f"{folder}, which the weights were loaded from, is not there any more, "
                "and saving goes by its files; put it back.",
                "absent",
            )
    return Checkpoint(*model.folders)


def _index_of(folder: Path) -> Path | None:
    """Returns the index of a folder's shards, where its weights are in shards."""
    files = (folder / name for name, _ in LAYOUTS)
    found = next(file for file in files if file.is_file())
    return found if found.name.endswith(_INDEX) else None


def dtype_named(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Returns a dtype from itself or its name."""
    if not isinstance(dtype, str):
        return dtype
    known = {str(one).removeprefix("torch."): one for one in NAMED_DTYPES.values()}
    if dtype not in known:
        raise ValueError(f"dtype {dtype!r} is not one that weights can have.")
    return known[dtype]


def published(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor in the published order, which one that kernels laid out in
    another knows."""
    unpacked = getattr(tensor, "unpacked", None)
    return tensor if unpacked is None else unpacked()


def _write_file(tensors: dict[str, torch.Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".bin":
        torch.save(tensors, file)
        return
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # what it makes of the system's refusals
        raise WeightsError(f"{file} cannot be written ({error}).", "path") from None
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)  # it was made for its owner alone


def _copy_rest(folders: Sequence[Path], draft: Path) -> None:
    """Copies config, tokenizer and licence; of equal names the last folder's."""
    for folder in folders:
        for path in sorted(folder.iterdir()):
            wanted = any(path.match(pattern) for pattern in COPIED)
            if wanted and path.is_file() and not path.name.endswith(_INDEX):
                refuse_outside(folder, path, path.name)
                shutil.copyfile(path, draft / path.name)


@contextmanager
def _drafted(place: Path) -> Iterator[Path]:
    """Makes a folder beside a place, which is gone afterwards unless it was moved."""
    place = Path(os.path.abspath(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.saving-{secrets.token_hex(4)}")
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
