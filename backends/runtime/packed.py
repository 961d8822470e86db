"""Weights in blocks, as kernels for CPUs read them.

A packed weight is a tensor like any other to torch: whatever op is given one reads it
in its published order, and what is written to it is packed again. A view of one is a
copy. Only the kernels see its blocks.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

LANES = 16


class PackedWeight(torch.Tensor):
    """A weight [rows, columns] in blocks of 16 rows, which lie in `blocks`."""

    blocks: torch.Tensor
    library: ctypes.CDLL

    @staticmethod
    def __new__(
        cls, shape: torch.Size, blocks: torch.Tensor, library: ctypes.CDLL
    ) -> "PackedWeight":
        made: PackedWeight = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=blocks.dtype, device=blocks.device
        )
        made.blocks = blocks
        made.library = library
        return made

    @classmethod
    def pack(cls, weight: torch.Tensor, library: ctypes.CDLL) -> "PackedWeight":
        """Packs a weight; where its rows fill their blocks, in the memory it has."""
        rows, columns = weight.shape
        weight = weight.contiguous()
        whole = -(-rows // LANES) * LANES
        blocks = weight if whole == rows else weight.new_empty(whole, columns)
        library.glmc_pack(
            ctypes.c_void_p(blocks.data_ptr()),
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_int64(rows),
            ctypes.c_int64(columns),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return cls(torch.Size((rows, columns)), blocks, library)

    def unpacked(self) -> torch.Tensor:
        """Returns a copy in the published order."""
        weight = torch.empty(self.shape, dtype=self.blocks.dtype)
        self.library.glmc_unpack(
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_void_p(self.blocks.data_ptr()),
            ctypes.c_int64(self.shape[0]),
            ctypes.c_int64(self.shape[1]),
        )
        return weight

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
            return cls(weight.shape, weight.blocks, weight.library)
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
                packed = cls.pack(whole.clone(), weight.library)
                weight.blocks.copy_(packed.blocks)
            out = tree_map_only(torch.Tensor, closed, out)
        return out


def state_dict_hook(
    module: torch.nn.Module, state: dict[str, Any], prefix: str, local: Any
) -> None:
    """Gives a state dict weights in the published order."""
    for name, weight in state.items():
        if isinstance(weight, PackedWeight):
            state[name] = weight.unpacked()
