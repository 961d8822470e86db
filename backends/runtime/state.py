"""States of layers: as their class declares them, and as they are.

A class of layers says `states = States(kv=KeysValues(2, 128, 128))`; each of its layers
is then called with a `LayerState` whose `kv` is a `KvState`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch

if TYPE_CHECKING:
    from .cache import Cache

#: What keys and values can be kept as, beside the dtype of the model.
CACHE_DTYPES = {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}


class State:
    """A state of one layer under one name, for every row of a batch.

    Its tensors have rows as dimension 0. What is kept for each token lies in slots,
    dimension `slots_dim`, of which those from `past` on hold nothing yet.
    """

    slots_dim: ClassVar[int | None] = None

    def __init__(self, cache: "Cache"):
        self.cache = cache

    def counters(self, count: int) -> torch.Tensor:
        """See `Cache.counters`."""
        return self.cache.counters(count)

    @property
    def past(self) -> int:
        """Slots filled before the tokens of this step."""
        return self.cache.length

    @property
    def position(self) -> torch.Tensor:
        """`past` on the device, int32 [1]: a captured graph reads it anew each time."""
        return self.cache.position

    @property
    def start(self) -> torch.Tensor | None:
        """First slot of each row that is not padding, int32 [B]; None: no padding."""
        return self.cache.start

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all tensors of the state, by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, torch.Tensor)}

    def first_rows(self, cache: "Cache") -> "State":
        """Returns the first rows of the same tensors, as a state of a cache with
        fewer."""
        rows = copy.copy(self)
        rows.cache = cache
        for name, kept in self.tensors().items():
            setattr(rows, name, kept[: cache.batch])
        return rows

    def select(self, rows: torch.Tensor) -> None:
        """Keeps copies of `rows`, int64 [R], in that order."""
        for name, kept in self.tensors().items():
            setattr(self, name, kept.index_select(0, rows))

    def grow(self, capacity: int, filled: int) -> None:
        """Moves the `filled` slots to where there are `capacity`."""
        dim = self.slots_dim
        if dim is None:
            return
        for name, old in self.tensors().items():
            new = old.new_empty(*old.shape[:dim], capacity, *old.shape[dim + 1 :])
            new.narrow(dim, 0, filled).copy_(old.narrow(dim, 0, filled))
            setattr(self, name, new)

    def clear(self) -> None:
        """Fills with zeros, in the same place."""
        for kept in self.tensors().values():
            kept.zero_()


class KvState(State):
    """Keys and values, as attention reads and writes them.

    `keys` [B, K, capacity, Dk] and `values` [B, K, capacity, Dv] are contiguous. As
    int8 they are codes, and `key_scales` and `value_scales` float32 [B, K, capacity]
    what these are multiplied by; else the scales are None.
    """

    slots_dim = 2

    def __init__(self, cache: "Cache", keys: torch.Tensor, values: torch.Tensor):
        super().__init__(cache)
        self.keys = keys
        self.values = values
        self.key_scales = _scales_of(keys)
        self.value_scales = _scales_of(values)

    def write(self, begin: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Puts `k` and `v` [B, K, T, D] into the slots from `begin` on."""
        end = begin + k.shape[2]
        for states, slots, scales in (
            (k, self.keys, self.key_scales),
            (v, self.values, self.value_scales),
        ):
            if scales is None:
                slots[:, :, begin:end] = stored(states, slots.dtype)
            else:
                codes, scale = quantized(states)
                slots[:, :, begin:end] = codes
                scales[:, :, begin:end] = scale

    def read(
        self, begin: int, end: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values [B, K, end - begin, D] of some slots, as `dtype`."""
        keys, values = self.keys[:, :, begin:end], self.values[:, :, begin:end]
        if self.key_scales is None or self.value_scales is None:
            return keys.to(dtype), values.to(dtype)
        k_scales = self.key_scales[:, :, begin:end]
        v_scales = self.value_scales[:, :, begin:end]
        return dequantized(keys, k_scales, dtype), dequantized(values, v_scales, dtype)


class TokenState(State):
    """A tensor for each token, in `slots` [B, capacity, ...], contiguous; or one for
    `every` so many of a row's tokens, and as many slots."""

    slots_dim = 1

    def __init__(self, cache: "Cache", slots: torch.Tensor, every: int = 1):
        super().__init__(cache)
        self.slots = slots
        self.every = every

    def grow(self, capacity: int, filled: int) -> None:
        """Moves what is there for the `filled` slots to where `capacity` have room."""
        super().grow(-(-capacity // self.every), -(-filled // self.every))


class RowState(State):
    """A tensor for each row, `rows` [B, ...], contiguous: zeros before any token.

    An op that reads tokens one after the other overwrites it, from call to call in the
    same place. Tokens in slots below `start` are padding and must leave it as it is.
    """

    def __init__(self, cache: "Cache", rows: torch.Tensor):
        super().__init__(cache)
        self.rows = rows


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of every token; they may be kept as `Cache.kv_dtype`."""

    kv_heads: int
    k_dim: int
    v_dim: int

    def new(self, cache: "Cache") -> KvState:
        """Makes the state of a layer, with nothing in it."""
        heads = torch.empty(
            (cache.batch, self.kv_heads, cache.capacity, 0),
            dtype=cache.kv_dtype,
            device=cache.device,
        )
        keys, values = (
            heads.new_empty(*heads.shape[:3], dim) for dim in (self.k_dim, self.v_dim)
        )
        return KvState(cache, keys, values)


class PerToken:
    """A tensor of `sizes` for every token, or for `every` so many. `dtype` None: that
    of the model."""

    def __init__(self, *sizes: int, dtype: torch.dtype | None = None, every: int = 1):
        self.sizes = sizes
        self.dtype = dtype
        self.every = every

    def new(self, cache: "Cache") -> TokenState:
        """Makes the state of a layer, with nothing in it."""
        shape = cache.batch, -(-cache.capacity // self.every), *self.sizes
        dtype = self.dtype or cache.dtype
        slots = torch.empty(shape, dtype=dtype, device=cache.device)
        return TokenState(cache, slots, self.every)


class PerRow:
    """A tensor of `sizes` for every row. `dtype` None: that of the model."""

    def __init__(self, *sizes: int, dtype: torch.dtype | None = None):
        self.sizes = sizes
        self.dtype = dtype

    def new(self, cache: "Cache") -> RowState:
        """Makes the state of a layer, before any token."""
        shape, dtype = (cache.batch, *self.sizes), self.dtype or cache.dtype
        return RowState(cache, torch.zeros(shape, dtype=dtype, device=cache.device))


class From:
    """A state that an earlier layer keeps under the same name; the owner's number, or
    for each layer of the class its owner's."""

    def __init__(self, owner: int | Mapping[int, int]):
        self.owner = owner

    def of(self, layer: int) -> int:
        """Returns the layer whose state a layer reads."""
        return self.owner if isinstance(self.owner, int) else self.owner[layer]


Declared: TypeAlias = KeysValues | PerToken | PerRow | From


class States(dict[str, Declared]):
    """The states that each layer of a class keeps, by name."""


class LayerState:
    """The states of one layer, each an attribute of the name it was declared by."""

    def __init__(self, **states: State):
        for name, state in states.items():
            setattr(self, name, state)


def quantized(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises `states` [..., D] to int8 codes [..., D] and scales float32 [...].

    One scale for each head of each token, so that a token is written once and for all:
    its largest channel becomes ±127. The error is at most half a scale.
    """
    exact = states.float()
    scales = exact.abs().amax(-1) / 127
    codes = exact / torch.where(scales > 0, scales, 1.0)[..., None]
    return codes.round().to(torch.int8), scales


def dequantized(
    codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Dequantises what `quantized` made of states, to `dtype`."""
    return (codes.float() * scales[..., None]).to(dtype)


def stored(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Casts `states` as a cache of floats holds them; float8 at most at its largest."""
    if dtype == torch.float8_e4m3fn:
        limit = torch.finfo(dtype).max
        return states.float().clamp(-limit, limit).to(dtype)
    return states.to(dtype)


def _scales_of(slots: torch.Tensor) -> torch.Tensor | None:
    if slots.dtype != torch.int8:
        return None
    return slots.new_empty(slots.shape[:3], dtype=torch.float32)
