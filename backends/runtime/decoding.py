"""The decode step, on tensors that keep their place, so that it can be recorded."""

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .cache import Cache
from .modules import operations
from .sampling import Sampler

if TYPE_CHECKING:
    from .causal_lm import CausalLM
    from .graphs import Recorder, Run

#: Rows that steps are recorded for; a batch takes the next of them.
BUCKETS = (1, 2, 4, 8, 16)


class Step:
    """The step from the newest token of every row to the next.

    `ids` int64 [R, 1] is the newest token, afterwards the next; `pos` int64 [R, 1] or
    [R, 2, 1] its position, of whose two streams the second counts. All that changes
    from token to token lies in these, in `cache` and in the generator of `sampler`.
    """

    def __init__(
        self, cache: Cache, ids: torch.Tensor, pos: torch.Tensor, sampler: Sampler
    ):
        self.cache = cache
        self.ids = ids
        self.pos = pos
        self.sampler = sampler

    @torch.no_grad()
    def run(self, model: "CausalLM", ops: ModuleType) -> None:
        """Advances by one token, but for the counts that `cache` has on the host."""
        logits = model.compute(self.ids, self.pos, self.cache, 1, ops)
        self.ids.copy_(model.choose(logits, self.ids, self.sampler, ops)[:, None])
        counting = self.pos[:, -1] if self.pos.ndim == 3 else self.pos
        counting.add_(1)
        self.cache.position.add_(1)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Restores afterwards what runs within has changed, but for slots that are not
        filled yet."""
        tensors = (self.ids, self.pos, *self.cache.changing())
        before = [tensor.clone() for tensor in tensors]
        drawn = self.sampler.state()
        try:
            yield
        finally:
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)
            self.sampler.restore(drawn)


class Recorded:
    """A cache that stays with a model between generations, and the steps recorded on
    it.

    `begun` int32 [2, R] is where the rows' `start` and `prefix` are put.
    """

    def __init__(self, cache: Cache, recorder: "Recorder"):
        # Rows that fill up a bucket attend to slots that nothing was written to.
        for state in cache.own:
            state.clear()
        self.cache = cache
        self.recorder = recorder
        self.begun = cache.position.new_zeros(2, cache.batch)
        self.steps: dict[Hashable, tuple[Step, Run]] = {}

    def holds(self, rows: int, slots: int) -> bool:
        """Tells whether a generation of this size fits."""
        return self.cache.batch >= rows and self.cache.capacity >= slots

    def rows(self, batch: int) -> Cache:
        """Returns the cache of a new generation, empty."""
        self.cache.restart()
        return self.cache.first_rows(batch)

    def new_step(self, rows: int, pos: torch.Tensor, sampler: Sampler) -> Step:
        """Makes a step of so many rows, with positions like `pos`."""
        ids = pos.new_zeros(rows, 1)
        places = pos.new_zeros(rows, *pos.shape[1:])
        kept = sampler.kept(rows, self.cache.capacity)
        return Step(self.cache.first_rows(rows), ids, places, kept)

    def continue_from(self, prompt: Cache, step: Step) -> None:
        """Lets the rows of a step begin where those of the prompt end."""
        step.cache.learned = prompt.learned
        step.cache.follow(prompt.length - step.cache.length)
        for name, all_rows in zip(("start", "prefix"), self.begun, strict=True):
            buffer, value = all_rows[: step.cache.batch], getattr(prompt, name)
            if value is not None:
                _fill(buffer, value)
            setattr(step.cache, name, None if value is None else buffer)


class Session:
    """One generation: a prompt into `cache`, then `begin`, then `step` by step."""

    def __init__(
        self, model: "CausalLM", cache: Cache, sampler: Sampler, kept: Recorded | None
    ):
        self.model = model
        self.cache = cache
        self.sampler = sampler
        self.kept = kept
        self.ops = model.ops or operations(model.device.type)

    def begin(self, token: torch.Tensor, pos: torch.Tensor) -> str | None:
        """Prepares decoding: `token` [B] follows the prompt, `pos` [B, 1] or [B, 2, 1]
        is its position.

        Returns why steps are not recorded, if they could be and were not.
        """
        self._advance: Run = self._eagerly
        if self.kept is None:
            self._step = Step(self.cache, token[:, None], pos.clone(), self.sampler)
            return None
        rows, prompt = bucket(self.cache.batch), self.cache
        bounds = prompt.start is not None, prompt.prefix is not None
        key = (rows, pos.shape[1:], bounds, self.sampler.settings)
        known = self.kept.steps.get(key)
        self._step = known[0] if known else self.kept.new_step(rows, pos, self.sampler)
        self.kept.continue_from(prompt, self._step)
        _fill(self._step.ids, token[:, None])
        _fill(self._step.pos, pos)
        self._step.sampler.follow(self.sampler)
        if known:
            self._advance = known[1]
            return None
        return self._record(self.kept, key)

    def restart(self) -> Cache:
        """Empties the cache for a prompt that is read again; then comes `begin`."""
        self.sampler.restore(self._step.sampler.state())
        self.cache.restart()
        return self.model.begin_cache(self.cache)

    def step(self) -> None:
        """Begins to compute the next token; nothing waits for it."""
        self._advance()
        self._step.cache.follow(1)

    def chosen(self) -> torch.Tensor:
        """Returns the newest token of each row, int64 [B], on the device."""
        return self._step.ids[: self.cache.batch, 0].clone()

    def newest(self) -> Callable[[], torch.Tensor]:
        """Starts copying the newest token of each row to the host; returns a function
        that waits for it, but not for steps that are begun later, and gives int64 [B]
        on the CPU."""
        ids = self._step.ids[: self.cache.batch, 0]
        if not ids.is_cuda:
            return functools.partial(_same, ids.clone())
        there = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        there.copy_(ids, non_blocking=True)
        # Not typed in every torch.
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
        arrived.record(torch.cuda.current_stream(ids.device))
        return functools.partial(_arrived, there, arrived)

    def _eagerly(self) -> None:
        self._step.run(self.model, self.ops)

    def _record(self, kept: Recorded, key: Hashable) -> str | None:
        """Puts a replay in the place of the step, or says why it cannot."""
        step, run = self._step, self._eagerly
        with step.undone():
            why = kept.recorder.refusal(run, step.cache)
        if why:
            return why
        with step.undone():
            kept.recorder.warm(run)
        try:
            with step.undone(), step.cache.on_device():
                replay = kept.recorder.record(run, step.sampler.generator)
        except RuntimeError as error:
            return "recording failed: " + str(error).strip().partition("\n")[0]
        kept.steps[key] = step, replay
        self._advance = replay
        return None


def bucket(batch: int) -> int:
    """Returns the number of rows that a batch is filled up to."""
    return next(rows for rows in BUCKETS if rows >= batch)


def _fill(buffer: torch.Tensor, rows: torch.Tensor) -> None:
    """Puts `rows` into the first rows of a buffer, the last of them into the rest."""
    buffer[: len(rows)] = rows
    buffer[len(rows) :] = rows[-1:]


def _same(token: torch.Tensor) -> torch.Tensor:
    return token


def _arrived(token: torch.Tensor, event: torch.cuda.Event) -> torch.Tensor:
    event.synchronize()
    return token
