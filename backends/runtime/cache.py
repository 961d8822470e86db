"""The cache: the states of all layers, and how far they are filled, slot by slot."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from .state import Declared, From, KvState, LayerState, State


class HostRead(RuntimeError):
    """Raised where a step that is being recorded needs a value on the host."""


class Cache:
    """The states of all layers, and how far they are filled.

    `declared` are what each layer keeps, by name; one that another layer keeps has no
    storage of its own. Tensors are of `dtype`, unless they are declared with another.
    Keys and values are of `kv_dtype`: as torch.int8 each head of each token is codes
    with a scale; torch.float8_e4m3fn is rounded to as it is.

    Every layer writes the slots of a step; then the caller moves on with `advance`.

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
        declared: Sequence[Mapping[str, Declared]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_dtype: torch.dtype | None = None,
    ):
        self.batch = batch
        self.capacity = capacity
        self.dtype = dtype
        self.kv_dtype = kv_dtype or dtype
        self.position = torch.zeros(1, dtype=torch.int32, device=device)
        self._hidden = False
        self._counters: dict[int, torch.Tensor] = {}
        self.own: list[State] = []
        self.layers: list[LayerState] = []
        for layer, states in enumerate(declared):
            kept = {name: self._kept(layer, name, states[name]) for name in states}
            self.layers.append(LayerState(**kept))
        self._begin()

    def _kept(self, layer: int, name: str, declared: Declared) -> State:
        """Makes a new state, or returns that of the layer it belongs to."""
        if isinstance(declared, From):
            owned: State = vars(self.layers[declared.of(layer)])[name]
            return owned
        self.own.append(declared.new(self))
        return self.own[-1]

    def _begin(self) -> None:
        self.length = 0
        self.learned = 0
        self.start: torch.Tensor | None = None
        self.prefix: torch.Tensor | None = None
        self.anchor: torch.Tensor | None = None
        # Tokens after right padding would land in slots that the padding occupies.
        self.right_padded = False
        # A call that broke off may have changed what is kept for rows, of some layers.
        self.broken = False

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
        """Hides `length` within: only the device knows how far the cache is filled. A
        graph that is recorded may read `position`, and whoever asks for `length` gets a
        HostRead."""
        self._hidden = True
        try:
            yield
        finally:
            self._hidden = False

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Restores padding and prefix where something raises within: a call that was
        refused leaves the cache as it was."""
        names = ("start", "prefix", "anchor", "right_padded")
        before = {name: getattr(self, name) for name in names}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Marks the cache `broken` where layers break off while they write within, and
        some state is kept per row: such a cache cannot be continued."""
        try:
            yield
        except BaseException:
            self.broken = bool(self._of_rows())
            raise

    @property
    def device(self) -> torch.device:
        """The device of the states."""
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
        kept = [state for state in self.own if isinstance(state, KvState)]
        parts = iter(rows.chunk(2 * len(kept), dim=1))
        for state in kept:
            state.write(0, next(parts), next(parts))

    def restart(self) -> None:
        """Forgets all tokens, and what a prefix encoder gave. Slots stay and are
        written over; what is kept for rows becomes zeros again, where it is."""
        for state in self._of_rows():
            state.clear()
        self._begin()

    def crop(self, tokens: int) -> None:
        """Forgets all but the first so many tokens of every row.

        Raises ValueError where there are not as many, or where a layer keeps something
        for each row, which has no history to go back in.
        """
        if not 0 <= tokens <= self.tokens:
            raise ValueError(
                f"crop({tokens}): the cache holds {self.tokens} tokens; give a number"
                " from 0 to that."
            )
        if tokens == 0:
            learned = self.learned
            self.restart()
            self.learned = self.length = learned
        if tokens < self.tokens and self._of_rows():
            raise ValueError(
                f"crop({tokens}): this model's layers keep a state for each row, which"
                f" {self.tokens} tokens have changed and which has no history; begin a"
                " new cache and read the tokens again."
            )
        self.length = self.learned + tokens

    def reorder(self, rows: torch.Tensor) -> None:
        """Lets `rows` int64 [R] of the cache, in that order, take the place of all, as
        beams and filtered batches ask for. A row may come several times."""
        for state in self.own:
            state.select(rows)
        self.batch = len(rows)
        for name in ("start", "prefix", "anchor"):
            bound = getattr(self, name)
            setattr(self, name, None if bound is None else bound.index_select(0, rows))

    def changing(self) -> list[torch.Tensor]:
        """Returns the tensors that a step changes beside slots that are not filled yet:
        to put them back undoes the step."""
        kept = (state.tensors().values() for state in self._of_rows())
        return [self.position, *(tensor for each in kept for tensor in each)]

    def _of_rows(self) -> list[State]:
        return [state for state in self.own if state.slots_dim is None]

    def counters(self, count: int) -> torch.Tensor:
        """Returns int32 [count] in which the programs of a kernel count themselves. It
        is zeros before and after each launch, and the same tensor for all layers and
        steps."""
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
        """Returns a cache of the first `batch` rows: the same tensors and the same
        `position`, with a count, padding and prefix of its own."""
        rows = copy.copy(self)
        rows.batch = batch
        first = {old: old.first_rows(rows) for old in self.own}
        rows.own = list(first.values())
        rows.layers = [
            LayerState(**{name: first[state] for name, state in vars(layer).items()})
            for layer in self.layers
        ]
        return rows

    def reserve(self, total: int) -> None:
        """Makes room for `total` slots; growing at least doubles the capacity."""
        if total <= self.capacity:
            return
        self.capacity = max(total, 2 * self.capacity)
        for state in self.own:
            state.grow(self.capacity, self.length)

    def __repr__(self) -> str:
        return (
            f"Cache(layers={len(self.layers)}, batch={self.batch}, "
            f"length={self.length}, capacity={self.capacity})"
        )
