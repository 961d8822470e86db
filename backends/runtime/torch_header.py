"""Read the tensors of a `torch.save` file, without torch and without running
anything."""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from .faults import WeightsError, brief
from .pickle_machine import PickleFault, load
from .strict_json import MEGABYTE
from .tensor_info import BITS, TensorInfo

_MAX_PICKLE = 256 * MEGABYTE
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "Float8_e4m3fnStorage": "F8_E4M3",
    "Float8_e5m2Storage": "F8_E5M2",
}
_CALLABLE = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }
)


@dataclass(frozen=True)
class _Global:
    """A name in a pickle; it stands for itself and is never resolved."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    elements: int

    @property
    def size(self) -> int:
        return self.elements * BITS[self.dtype] // 8


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]


def read_torch(file: IO[bytes], path: str) -> dict[str, TensorInfo]:
    """Reads the tensors of one `.bin` file, zip or legacy, which messages call `path`.

    Raises WeightsError where the file is truncated, corrupt, or would need code to be
    run.
    """
    try:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        state = _read_zip(file) if is_zip else _read_legacy(file)
        return _infos(state, PurePosixPath(path).name)
    except PickleFault as fault:
        reason = str(fault)
    # zipfile's words for a broken archive, an unknown compression, and encryption;
    # names that are not the UTF-8 they claim to be, streams that do not unpack.
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        ValueError,
        EOFError,
        struct.error,
    ) as error:
        reason = f"its archive is damaged or truncated ({error})"
    raise WeightsError(
        f"{path} is not a sound torch checkpoint: {reason}. Download it again.",
        "damaged",
    )


def _infos(state: object, file: str) -> dict[str, TensorInfo]:
    if not isinstance(state, dict):
        raise PickleFault(f"it holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(value, _Tensor):
            raise PickleFault(
                f"{brief(str(name))!r} is a {type(value).__name__}, not a tensor"
            )
    return {n: TensorInfo(t.storage.dtype, t.shape, file) for n, t in state.items()}


def _read_zip(file: IO[bytes]) -> object:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        sizes = {info.filename: info.file_size for info in infos}
        if len(sizes) < len(infos):
            raise PickleFault("its archive holds two records of one name")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise PickleFault("its archive is compressed, as torch writes none")
        pickles = [n for n in sizes if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise PickleFault("its archive has no data.pkl")
        name = pickles[0]
        if sizes[name] > _MAX_PICKLE:
            raise PickleFault("its data.pkl is absurdly large")
        handlers = _Handlers()
        with archive.open(name) as stream:
            state = load(stream, handlers)
    folder = name.removesuffix("data.pkl")
    for key, storage in handlers.storages.items():
        found = sizes.get(f"{folder}data/{key}")
        if found != storage.size:
            shown = "is missing" if found is None else f"has {found} bytes"
            raise PickleFault(
                f"its record {brief(key)} {shown}, expected {storage.size} bytes"
            )
    return state


def _read_legacy(file: IO[bytes]) -> object:
    """Reads a file from before torch 1.6: pickles one after the other, then the raw
    storages."""
    handlers = _Handlers()
    if load(file, handlers) != _LEGACY_MAGIC:
        raise PickleFault("it is neither a zip archive nor what torch wrote before 1.6")
    load(file, handlers)  # protocol version
    load(file, handlers)  # byte order and integer sizes
    state = load(file, handlers)
    _check_storages(file, load(file, handlers), handlers.storages)
    return state


def _check_storages(
    file: IO[bytes], keys: object, storages: Mapping[str, _Storage]
) -> None:
    """Checks the storages in the order of `keys`: each has its number of elements
    before it, in eight bytes, and the last one ends the file."""
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise PickleFault("its list of storages is not of what its tensors refer to")
    for key in keys:
        storage = storages[key]
        written = file.read(8)
        if len(written) < 8:
            raise PickleFault("it is truncated: a storage has no number of elements")
        count = int.from_bytes(written, "little")
        begin, end = file.tell(), file.seek(0, 2)
        if end - begin < storage.size:
            short = storage.size - (end - begin)
            raise PickleFault(f"it is truncated: {short} bytes are missing at its end")
        if count != storage.elements:
            told = f"{count} elements, expected {storage.elements}"
            raise PickleFault(f"its storage {brief(str(key))!r} has {told}")
        file.seek(begin + storage.size)
    begin, end = file.tell(), file.seek(0, 2)
    if begin < end:
        raise PickleFault(f"{end - begin} bytes at its end belong to no storage")


class _Handlers:
    """The part of torch that state dicts refer to."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def find(self, module: str, name: str) -> _Global:
        known = (module, name) in _CALLABLE or (module == "torch" and name in _STORAGES)
        if not known:
            asked = brief(f"{module}.{name}")
            raise PickleFault(
                f"it asks for {asked}, and code in a checkpoint is not run"
            )
        return _Global(module, name)

    def call(self, function: object, arguments: tuple[object, ...]) -> object:
        match function, arguments:
            case _Global(name="OrderedDict"), ():
                return {}
            case _Global(name="_rebuild_parameter"), (data, _, _):
                return data
            case _Global(name="_rebuild_tensor_v2"), (
                storage,
                offset,
                shape,
                stride,
                *_,
            ):
                return _tensor(storage, offset, shape, stride)
        raise PickleFault("it makes a call that a state dict does not need")

    def refer(self, pid: object) -> _Storage:
        match pid:
            case ("storage", _Global(name=kind), str() as key, _, int() as count, *_):
                pass
            case _:
                raise PickleFault("it refers to something that is not a storage")
        if kind not in _STORAGES or count < 0:
            raise PickleFault(
                f"its storage {brief(str(key))!r} has no dtype or a negative size"
            )
        storage = _Storage(_STORAGES[kind], count)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleFault(
                f"its storage {brief(str(key))!r} is described in two ways"
            )
        return storage


def _tensor(storage: object, offset: object, shape: object, stride: object) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(offset, int) or offset < 0:
        raise PickleFault("a tensor has no storage or no place in it")
    sizes, steps = _sizes(shape), _sizes(stride)
    if len(sizes) != len(steps):
        raise PickleFault(f"a tensor has shape {sizes} and stride {steps}")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True))
    if 0 not in sizes and last >= storage.elements:
        raise PickleFault(f"a tensor of shape {sizes} reaches past its storage")
    return _Tensor(storage, sizes)


def _sizes(value: object) -> tuple[int, ...]:
    plain = isinstance(value, tuple) and all(type(n) is int and n >= 0 for n in value)
    if not plain or not isinstance(value, tuple):
        raise PickleFault("a tensor has no shape or no stride")
    return value
