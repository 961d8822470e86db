"""Launch parameters that were measured on a GPU, in place of the defaults.

The defaults are the tables in capitals of `kernels.py`: tiles, by bytes of an element,
number of outputs or order. `tuning.json`, which `glmc tune` writes beside it, holds for
a target ("cuda:90") the tiles that were faster there, by the place of what they take:
`{"kernels": sha256 of kernels.py, "cuda:90": {"DECODE/2": {"ROWS": 16, ...}}}`. Without
the file, and on other targets, the defaults hold. Nothing is tuned at run time.
"""

import functools
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

FILE = "tuning.json"

Tile = dict[str, int]


class TuningError(ValueError):
    """A tuning.json that does not fit its kernels."""


def tiles(kernels: ModuleType) -> dict[str, Tile]:
    """Returns every tile of a module's tables by its place, `DECODE/2`; changing one
    changes what the next launch takes."""
    return {
        path: tile
        for name, table in vars(kernels).items()
        if name.isupper() and isinstance(table, dict | tuple)
        for path, tile in _leaves(name, table)
    }


def _leaves(path: str, table: Any) -> Iterator[tuple[str, Tile]]:
    if isinstance(table, dict) and all(isinstance(key, str) for key in table):
        if table and all(isinstance(size, int) for size in table.values()):
            yield path, table
        return
    parts = table.items() if isinstance(table, dict) else enumerate(table)
    for key, part in parts:
        if isinstance(part, dict | tuple):
            yield from _leaves(f"{path}/{key}", part)


@functools.cache
def present_target(device: torch.device | str = "cuda") -> str:
    """Names the target that tiles are measured for: `cuda:90`, or an AMD architecture,
    `hip:gfx942`; what is no GPU is its kind, `cpu`."""
    kind = torch.device(device).type
    if kind != "cuda":
        return kind
    if torch.version.hip:
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        return f"hip:{name.partition(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{major}{minor}"


def apply_tuning(kernels: ModuleType, on: str) -> int:
    """Puts what was measured for the target `on` into the tables of `kernels`.

    On AMD tiles lose `maxnreg`, which Triton has for NVIDIA only.

    Returns how many tiles were replaced. Raises TuningError, with what is wrong and
    where, for a file that cannot be read or names other tables or sizes. A file that
    was measured for other kernels is passed over with a warning.
    """
    if on.startswith("hip:"):
        for tile in tiles(kernels).values():
            tile.pop("maxnreg", None)
    file = Path(str(kernels.__file__)).with_name(FILE)
    if not file.is_file():
        return 0
    try:
        known = json.loads(file.read_text("utf-8"))
        measured, source = known.get(on, {}), known["kernels"]
        found = {path: dict(tile) for path, tile in measured.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TuningError(
            f"{file} cannot be read ({error!r}); measure again with `glmc tune`, or "
            "delete it to have the defaults."
        ) from None
    if source != digest(kernels):
        warnings.warn(
            f"{file} was measured for other kernels than these; the defaults are taken."
            " Measure again with `glmc tune`.",
            stacklevel=2,
        )
        return 0
    defaults = tiles(kernels)
    for path, tile in found.items():
        check(path, tile, defaults, str(file))
    for path, tile in found.items():
        defaults[path].update(tile)
    return len(found)


def check(
    path: str, tile: Mapping[str, Any], defaults: Mapping[str, Tile], where: str
) -> None:
    """Raises TuningError for a tile that cannot take its default's place."""
    if path not in defaults:
        raise TuningError(
            f"{where}: there is no tile {path}; kernels.py has {', '.join(defaults)}."
        )
    if set(tile) != set(defaults[path]):
        raise TuningError(
            f"{where}: {path} has {', '.join(tile)}; it takes "
            f"{', '.join(defaults[path])}."
        )
    for name, size in tile.items():
        plain = isinstance(size, int) and not isinstance(size, bool) and size > 0
        counted = name in ("num_stages", "maxnreg")
        if not plain or (not counted and size & (size - 1)):
            wanted = "1 or more" if counted else "a power of two"
            raise TuningError(f"{where}: {path}: {name} is {size!r}; give {wanted}.")


def digest(kernels: ModuleType) -> str:
    """Returns the digest by which tiles are known to be measured for these kernels."""
    return hashlib.sha256(Path(str(kernels.__file__)).read_bytes()).hexdigest()
