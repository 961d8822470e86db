"""Tensors without data, and the part of torch that launchers call on them.

Launchers of a build run on these to say what they would launch. Only what launchers
call is here; anything else is an ``AttributeError``, which their tests show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Dtype:
    """A dtype: Triton's name of it, and the bytes of an element."""

    name: str
    size: int


FLOAT32, FLOAT16, BFLOAT16 = Dtype("fp32", 4), Dtype("fp16", 2), Dtype("bf16", 2)
INT8, INT32, INT64 = Dtype("i8", 1), Dtype("i32", 4), Dtype("i64", 8)
UINT8, BOOL, FLOAT8 = Dtype("u8", 1), Dtype("i1", 1), Dtype("fp8e4nv", 1)
DTYPES = {"f32": FLOAT32, "f16": FLOAT16, "bf16": BFLOAT16}


class Sketch:
    """A tensor that has a shape, strides and a dtype, and no data.

    Args:
        shape: its sizes.
        dtype: of its elements.
        strides: of its dimensions, in elements; contiguous where they are left out.
    """

    device = "sketched"

    def __init__(
        self, shape: Sequence[int], dtype: Dtype, strides: Sequence[int] | None = None
    ):
        self.shape = tuple(shape)
        self.dtype = dtype
        sizes = self.shape
        dense = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
        self._strides = tuple(dense if strides is None else strides)

    def __len__(self) -> int:
        return self.shape[0]

    def stride(self, dim: int | None = None) -> Any:
        """Return the stride of one dimension, or all strides."""
        return self._strides if dim is None else self._strides[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Return the bytes of an element."""
        return self.dtype.size

    def new_empty(self, *shape: Any, dtype: Dtype | None = None) -> "Sketch":
        """Return a contiguous tensor of another shape."""
        return Sketch(_flat(shape), dtype or self.dtype)

    def reshape(self, *shape: Any) -> "Sketch":
        """Return the elements in another shape, of which one size may be -1."""
        sizes = _flat(shape)
        if sizes[:-1] == (-1,) and self.stride(-1) == 1 and len(self.shape) > 1:
            row = self.stride(-2)
            return Sketch((self.numel() // sizes[1], sizes[1]), self.dtype, (row, 1))
        known = -math.prod(sizes) if -1 in sizes else 1
        return Sketch(
            [n if n > 0 else self.numel() // known for n in sizes], self.dtype
        )

    def view(self, *to: Any) -> "Sketch":
        """Return a view of another dtype, or in another shape."""
        if not isinstance(to[0], Dtype):
            return self.reshape(*to)
        width = self.shape[-1] * self.dtype.size // to[0].size
        return Sketch((*self.shape[:-1], width), to[0])

    def contiguous(self) -> "Sketch":
        """Return a contiguous copy."""
        return Sketch(self.shape, self.dtype)

    def float(self) -> "Sketch":
        """Return a copy in float32."""
        return Sketch(self.shape, FLOAT32)

    def flatten(self) -> "Sketch":
        """Return the tensor in one dimension."""
        return Sketch((self.numel(),), self.dtype)

    def sum(self, dim: int) -> "Sketch":
        """Return the sum over one dimension."""
        sizes = list(self.shape)
        del sizes[dim]
        return Sketch(sizes, self.dtype)

    def __getitem__(self, at: Any) -> "Sketch":
        if isinstance(at, Sketch):
            return Sketch(at.shape, self.dtype)
        sizes = []
        for size, part in zip(self.shape, _tuple(at), strict=False):
            if isinstance(part, slice):
                sizes.append(len(range(*part.indices(size))))
        return Sketch([*sizes, *self.shape[len(_tuple(at)) :]], self.dtype)

    def _same(self, *others: Any, **options: Any) -> "Sketch":
        """Return the result of an operation that is elementwise, or sorts."""
        return self

    __add__ = __sub__ = __mul__ = __floordiv__ = _same
    add_ = scatter_ = scatter_add_ = clamp = cumsum = _same

    def argsort(self, stable: bool) -> "Sketch":
        """Return the indices that sort its elements."""
        return Sketch(self.shape, INT64)


def _tuple(at: Any) -> tuple[Any, ...]:
    return at if isinstance(at, tuple) else (at,)


def _flat(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if isinstance(shape[0], tuple | list) else shape


def _made(*shape: Any, dtype: Dtype = FLOAT32, device: str = "") -> Sketch:
    return Sketch(_flat(shape), dtype)


def _like(x: Sketch) -> Sketch:
    return Sketch(x.shape, x.dtype)


def _linear(x: Sketch, weight: Sketch, bias: Sketch | None = None) -> Sketch:
    return Sketch((*x.shape[:-1], weight.shape[0]), x.dtype)


def torch_of_sketches() -> ModuleType:
    """Return a module with the part of torch that launchers call."""
    module = ModuleType("torch")
    module.__dict__.update(
        float32=FLOAT32,
        float8_e4m3fn=FLOAT8,
        int32=INT32,
        int64=INT64,
        uint8=UINT8,
        bool=BOOL,
        empty=_made,
        zeros=_made,
        arange=lambda count, device: Sketch((count,), INT64),
        einsum=lambda _, x, y: Sketch((*x.shape[:-1], y.shape[-1]), x.dtype),
        empty_like=_like,
        ones_like=_like,
        searchsorted=lambda sorted, values, right: Sketch(values.shape, INT64),
        nn=SimpleNamespace(functional=SimpleNamespace(linear=_linear)),
    )
    return module
