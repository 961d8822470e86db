"""Weights in blocks, as kernels for CPUs read them.

A packed weight is a tensor like any other to torch: whatever op is given one reads it
in its published order, and what is written to it is packed again. A view of one is a
copy. Only the kernels see its blocks.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from .quantization import pack_codes, unpack_codes

LANES = 16
#: Bytes of codes that are put into another order at once.
PIECE = 1 << 18
#: Bytes of a row that stay together in a block, by kind; None: those of a number, or
#: of two of bfloat16.
WORDS = {"blocks": None, "stack": None, "codes8": 4, "codes4": 4, "zeros": 1}


class PackedWeight(torch.Tensor):
    """A weight [rows, ...] in blocks of 16 rows, which lie in `blocks`."""

    blocks: torch.Tensor
    kind: str
    library: ctypes.CDLL

    @staticmethod
    def __new__(
        cls,
        shape: torch.Size,
        dtype: torch.dtype,
        blocks: torch.Tensor,
        kind: str,
        library: ctypes.CDLL,
    ) -> "PackedWeight":
        made: PackedWeight = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=blocks.device
        )
        made.blocks, made.kind, made.library = blocks, kind, library
        return made

    @classmethod
    def pack(
        cls, weight: torch.Tensor, kind: str, library: ctypes.CDLL
    ) -> "PackedWeight":
        """Packs a weight; where its rows fill their blocks, in the memory it has.

        `kind` is "blocks", "stack" (of matrices whose rows fill blocks), "codes8" or
        "codes4" (as `quantization.pack_codes` makes them), "scales" or "zeros".
        """
        shape, rows = weight.shape, _encoded_in_place(weight, kind)
        filled, _ = lying(shape, weight.dtype, kind)
        alone = filled[0] == len(rows)
        blocks = rows if alone else rows.new_empty(filled)
        word = word_of(rows, kind)
        library.glmc_pack(
            ctypes.c_void_p(blocks.data_ptr()),
            ctypes.c_void_p(rows.data_ptr()),
            *map(ctypes.c_int64, (len(rows), words_of(rows, word), word)),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return cls(shape, weight.dtype, blocks, kind, library)

    def unpacked(self) -> torch.Tensor:
        """Returns a copy in the published order."""
        count = len(self.blocks) if self.kind == "stack" else self.shape[0]
        rows = torch.empty((count, *self.blocks.shape[1:]), dtype=self.blocks.dtype)
        word = word_of(rows, self.kind)
        self.library.glmc_unpack(
            ctypes.c_void_p(rows.data_ptr()),
            ctypes.c_void_p(self.blocks.data_ptr()),
            *map(ctypes.c_int64, (len(rows), words_of(rows, word), word)),
        )
        return decoded(rows, self.kind).view(self.shape)

    # Torch's own signatures of these are not typed.
    def __repr__(  # type: ignore[override, unused-ignore]
        self, *, tensor_contents: Any = None
    ) -> str:
        shape = list(self.shape)
        return f"PackedWeight({shape}, {str(self.dtype).removeprefix('torch.')})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles what it holds in the published order."""
        reduce: Callable[[Any], Any] = self._plain().__reduce_ex__
        return reduce(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.nn.Parameter:
        """Copies what it holds, in the published order."""
        copied: torch.nn.Parameter = memo.setdefault(id(self), self._plain())
        return copied

    def alias(self) -> "PackedWeight":
        """Returns another tensor of the same blocks."""
        given = self.blocks, self.kind, self.library
        return PackedWeight(self.shape, self.dtype, *given)

    def _plain(self) -> torch.nn.Parameter:
        return torch.nn.Parameter(self.unpacked(), requires_grad=False)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.detach:  # to dispatch it, torch loads half of itself
            return args[0].alias()
        if func is torch.Tensor.__setitem__ and isinstance(args[0], cls):
            weight, index, value = args
            whole = weight.unpacked()
            whole[index] = value
            weight.copy_(whole)
            return None
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override, unused-ignore]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.ops.aten.detach.default:
            (weight,) = args
            return weight.alias()
        plain: dict[int, tuple[PackedWeight, torch.Tensor]] = {}

        def opened(weight: PackedWeight) -> torch.Tensor:
            return plain.setdefault(id(weight), (weight, weight.unpacked()))[1]

        def closed(out: torch.Tensor) -> torch.Tensor:
            same = (weight for weight, whole in plain.values() if whole is out)
            return next(same, out)

        open_args, open_given = tree_map_only(PackedWeight, opened, (args, given))
        out = func(*open_args, **open_given)
        if func._schema.is_mutable:
            for weight, whole in plain.values():
                packed = cls.pack(whole.clone(), weight.kind, weight.library)
                weight.blocks.copy_(packed.blocks)
            out = tree_map_only(torch.Tensor, closed, out)
        return out


def word_of(rows: torch.Tensor, kind: str) -> int:
    """Returns how many bytes of a row stay together in a block."""
    pair = 2 if rows.dtype == torch.bfloat16 and kind in ("blocks", "stack") else 1
    return WORDS.get(kind) or rows.itemsize * pair


def words_of(rows: torch.Tensor, word: int) -> int:
    """Returns the words of a row."""
    return rows[0].numel() * rows.itemsize // word


def lying(
    shape: Sequence[int], dtype: torch.dtype, kind: str
) -> tuple[tuple[int, ...], torch.dtype]:
    """Returns shape and dtype of the blocks of a weight."""
    if kind == "stack":
        shape = shape[0] * shape[1], *shape[2:]
    rows = -(-shape[0] // LANES) * LANES
    return (rows, *shape[1:]), torch.uint8 if kind.startswith("codes") else dtype


def _encoded_in_place(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Does what `encoded` does some rows at a time, in the memory of the weight."""
    weight = weight.contiguous()
    if not kind.startswith("codes"):
        return weight.flatten(0, 1) if kind == "stack" else weight
    rows = weight.view(torch.uint8)
    step = max(1, PIECE // max(1, rows[0].nbytes))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        rows[part] = encoded(weight[part], kind)
    return rows


def encoded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Returns a weight with columns in the order in which blocks have them. Codes get
    half their range added; of 4 bits, columns 0 to 3 of eight are the low halves of
    four bytes, and 4 to 7 the high ones."""
    if not kind.startswith("codes"):
        return weight
    bits = int(kind[-1])
    codes = (unpack_codes(weight, bits) + (1 << bits - 1)).view(torch.uint8)
    if bits == 8:
        return codes
    eights = codes.reshape(len(codes), -1, 2, 4)
    return (eights[:, :, 0] | eights[:, :, 1] << 4).flatten(1)


def decoded(rows: torch.Tensor, kind: str) -> torch.Tensor:
    """Undoes `encoded`."""
    if not kind.startswith("codes"):
        return rows
    bits = int(kind[-1])
    if bits == 4:
        fours = rows.reshape(len(rows), -1, 4)
        rows = torch.stack((fours & 15, fours >> 4), 2).flatten(1)
    return pack_codes((rows - (1 << bits - 1)).view(torch.int8), bits)


def state_dict_hook(
    module: torch.nn.Module, state: dict[str, Any], prefix: str, local: Any
) -> None:
    """Gives a state dict weights in the published order."""
    for name, weight in state.items():
        if isinstance(weight, PackedWeight):
            state[name] = weight.unpacked()
