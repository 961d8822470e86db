"""The header of a safetensors file: eight bytes of length, then JSON.

Read here rather than through the library, whose loaders bring an array package along.
Format: https://huggingface.co/docs/safetensors#format
"""

from pathlib import PurePosixPath
from typing import IO, Any, NoReturn

from .faults import WeightsError, brief
from .strict_json import MEGABYTE, parse_object
from .tensor_info import BITS, TensorInfo, size_in_bytes

_MAX_HEADER = 100 * MEGABYTE
_MAX_RANK = 16


def read_safetensors(file: IO[bytes], path: str) -> dict[str, TensorInfo]:
    """Reads the header of one file, which messages call `path`.

    Raises WeightsError where the file is truncated or its header is not what the format
    says: known dtypes, shapes that fit their bytes, bytes that fill the file once.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= _MAX_HEADER:
        _refuse(path, "it does not begin with the length of a header")
    header = file.read(length)
    total = file.seek(0, 2)
    if len(header) < length:
        _refuse(path, f"it is truncated within its header, at {total} bytes")
    entries = parse_object(header, f"the header of {path}")
    entries.pop("__metadata__", None)
    begin = 8 + length
    infos = {name: _info(path, name, entry, begin) for name, entry in entries.items()}
    _check_extent(path, entries, total - 8 - length)
    return infos


def _info(path: str, name: str, entry: Any, begin: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(
            path, f"the entry of {brief(name)!r} is not dtype, shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"{brief(name)!r} has the unknown dtype {brief(dtype)!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        _refuse(path, f"{brief(name)!r} has no shape but {brief(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"{brief(name)!r} has no data_offsets but {brief(offsets)}")
    file = PurePosixPath(path).name
    info = TensorInfo(dtype, tuple(shape), file, begin + offsets[0])
    if size_in_bytes(dtype, tuple(shape)) != offsets[1] - offsets[0]:
        _refuse(
            path,
            f"the shape {shape} of {brief(name)!r} does not fit its bytes {offsets}",
        )
    return info


def _are_sizes(value: Any) -> bool:
    """Tells whether a value is a list of whole numbers that a file offset can be."""
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in value
    )


def _check_extent(path: str, entries: dict[str, Any], size: int) -> None:
    """Refuses tensors that do not fill the data one after the other, without gap or
    overlap."""
    end = 0
    for start, stop in sorted(tuple(e["data_offsets"]) for e in entries.values()):
        if start != end:
            _refuse(
                path, f"its tensors overlap or leave a gap at byte {end} of the data"
            )
        end = stop
    if end > size:
        _refuse(path, f"it is truncated: {end - size} bytes are missing at its end")
    if end < size:
        _refuse(path, f"{size - end} bytes at its end belong to no tensor")


def _refuse(path: str, reason: str) -> NoReturn:
    raise WeightsError(
        f"{path} is not a sound safetensors file: {reason}. Download it again.",
        "damaged",
    )
