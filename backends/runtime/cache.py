"""The KV cache: preallocated keys and values of every layer, filled slot by slot."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

#: What keys and values can be kept as, beside the dtype of the model.
CACHE_DTYPES = {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}


def quantized(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes [..., D] of `states` [..., D], and their scales float32 [...].

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
    """What `quantized` made of states, as `dtype`."""
    return (codes.float() * scales[..., None]).to(dtype)


def stored(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`states` as a cache of floats holds them; float8 at most at its largest."""
    if dtype == torch.float8_e4m3fn:
        limit = torch.finfo(dtype).max
        return states.float().clamp(-limit, limit).to(dtype)
    return states.to(dtype)


def _scales_of(slots: torch.Tensor) -> torch.Tensor | None:
    if slots.dtype != torch.int8:
        return None
    return slots.new_empty(slots.shape[:3], dtype=torch.float32)


class HostRead(RuntimeError):
    """Raised where a step that is being recorded needs a value on the host."""


class LayerCache:
    """Keys and values of one layer, as its attention reads and writes them.

    `keys` [B, K, capacity, Dk] and `values` [B, K, capacity, Dv] are contiguous; slots
    from `past` on hold nothing yet. Of an int8 cache they are codes, and `key_scales`
    and `value_scales` float32 [B, K, capacity] what these are multiplied by; else the
    scales are None. `index` [B, 1, capacity, Di] holds the keys of an indexer; where a
    layer has none, its width is 0.
    """

    def __init__(
        self,
        cache: "Cache",
        keys: torch.Tensor,
        values: torch.Tensor,
        index: torch.Tensor,
    ):
        self.cache = cache
        self.keys = keys
        self.values = values
        self.index = index
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
        """Keys and values [B, K, end - begin, D] of some slots, as `dtype`."""
        keys, values = self.keys[:, :, begin:end], self.values[:, :, begin:end]
        if self.key_scales is None or self.value_scales is None:
            return keys.to(dtype), values.to(dtype)
        k_scales = self.key_scales[:, :, begin:end]
        v_scales = self.value_scales[:, :, begin:end]
        return dequantized(keys, k_scales, dtype), dequantized(values, v_scales, dtype)

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

    def slots(self) -> dict[str, torch.Tensor]:
        """All that is kept for each row and slot, by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, torch.Tensor)}

    def first_rows(self, cache: "Cache") -> "LayerCache":
        """The same slots, as a layer of a cache with fewer rows."""
        rows = copy.copy(self)
        rows.cache = cache
        for name, slots in self.slots().items():
            setattr(rows, name, slots[: cache.batch])
        return rows


class Cache:
    """The caches of all layers, and how far they are filled.

    `dtype` is that of keys and values. As torch.int8 each head of each token is codes
    with a scale; torch.float8_e4m3fn is rounded to as it is.

    `shapes` gives `(kv_heads, key_dim, value_dim)` for each layer, and the width of an
    indexer's keys where it has them; or the number of an earlier layer whose cache it
    reads. Every layer with a cache of its own writes the slots of a step; then the
    caller moves on with `advance`.

    `position` int32 [1] is `length` on the device, where kernels read it: a graph that
    is captured once serves every length up to the capacity. It is the same tensor for
    the life of the cache.

    `start` int32 [B] is the first slot of each row that is not padding, None without
    padding. `prefix` int32 [B] is the slot after the part of each row that sees itself
    in both directions, and `anchor` int64 [B] the position at which its answer stands,
    both for models that have such a thing. The first `learned` slots hold no tokens
    but what a prefix encoder gives.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...] | int],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        self.batch = batch
        self.capacity = capacity
        self.position = torch.zeros(1, dtype=torch.int32, device=device)
        self._hidden = False
        self.length = 0
        self.learned = 0
        self.start: torch.Tensor | None = None
        self.prefix: torch.Tensor | None = None
        self.anchor: torch.Tensor | None = None
        self._counters: dict[int, torch.Tensor] = {}
        # Tokens after right padding would land in slots that the padding occupies.
        self.right_padded = False

        def slots(heads: int, dim: int) -> torch.Tensor:
            return torch.empty(batch, heads, capacity, dim, dtype=dtype, device=device)

        self.own: list[LayerCache] = []
        self.layers: list[LayerCache] = []
        for shape in shapes:
            if isinstance(shape, int):
                self.layers.append(self.layers[shape])
                continue
            n, k_dim, v_dim, *index = shape
            parts = slots(n, k_dim), slots(n, v_dim), slots(1, sum(index))
            self.own.append(LayerCache(self, *parts))
            self.layers.append(self.own[-1])

    @property
    def length(self) -> int:
        """Slots filled so far; setting it sets `position` too."""
        if self._hidden:
            raise HostRead("reads on the host how many slots are filled")
        return self._length

    @length.setter
    def length(self, slots: int) -> None:
        self._length = slots
        self.position.fill_(slots)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Within it only the device knows how far the cache is filled: what a graph
        records may read `position`, and whoever asks for `length` gets a HostRead."""
        self._hidden = True
        try:
            yield
        finally:
            self._hidden = False

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """What is noted within, of padding and prefix, is forgotten where something
        raises: a call that was refused leaves the cache as it was."""
        names = ("start", "prefix", "anchor", "right_padded")
        before = {name: getattr(self, name) for name in names}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    @property
    def device(self) -> torch.device:
        """Where the slots are."""
        return self.position.device

    @property
    def tokens(self) -> int:
        """Tokens that were read so far, padding included."""
        return self.length - self.learned

    def begin_with(self, states: torch.Tensor) -> None:
        """Fills the first N slots of every row of an empty cache. `states` is
        [1, N, 2 * layers * K, D]: of each layer the heads of keys, then of values."""
        self.learned = self.length = states.shape[1]
        rows = states.transpose(1, 2).expand(self.batch, -1, -1, -1)
        parts = iter(rows.chunk(2 * len(self.own), dim=1))
        for layer in self.own:
            layer.write(0, next(parts), next(parts))

    def restart(self) -> None:
        """Forgets all tokens; the slots stay, and what they hold is written over."""
        self.length = self.learned = 0
        self.start = self.prefix = self.anchor = None
        self.right_padded = False

    def counters(self, count: int) -> torch.Tensor:
        """int32 [count] in which the programs of a kernel count themselves. It is zeros
        before and after each launch, and the same tensor for all layers and steps."""
        if count not in self._counters:
            device = self.position.device
            self._counters[count] = torch.zeros(count, dtype=torch.int32, device=device)
        return self._counters[count]

    def advance(self, tokens: int) -> None:
        """Counts `tokens` slots that every layer has written.

        `position` is added to, not set: in a captured graph it moves on with each
        replay, while `length` moves where this is called.
        """
        self.follow(tokens)
        self.position += tokens

    def follow(self, tokens: int) -> None:
        """Counts on the host what `position` has moved on by, in a replay."""
        self._length += tokens

    def first_rows(self, batch: int) -> "Cache":
        """A cache of the first `batch` rows: the same slots and the same `position`,
        with a count, padding and prefix of its own."""
        rows = copy.copy(self)
        rows.batch = batch
        first = {old: old.first_rows(rows) for old in self.own}
        rows.own = list(first.values())
        rows.layers = [first[old] for old in self.layers]
        return rows

    def reserve(self, total: int) -> None:
        """Makes room for `total` slots; growing at least doubles the capacity."""
        if total <= self.capacity:
            return
        self.capacity = max(total, 2 * self.capacity)
        for layer in self.own:
            layer.keys = self._grown(layer.keys)
            layer.values = self._grown(layer.values)
            layer.index = self._grown(layer.index)
            if layer.key_scales is not None and layer.value_scales is not None:
                layer.key_scales = self._grown(layer.key_scales)
                layer.value_scales = self._grown(layer.value_scales)

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        batch, heads, _, *dim = old.shape
        new = old.new_empty(batch, heads, self.capacity, *dim)
        new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def __repr__(self) -> str:
        return (
            f"Cache(layers={len(self.layers)}, batch={self.batch}, "
            f"length={self.length}, capacity={self.capacity})"
        )
