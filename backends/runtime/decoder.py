"""The decoder of a model: the cache and the recorded steps that stay with it."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from .decoding import BUCKETS, Recorded, Session, bucket
from .modules import machine
from .sampling import Sampler

if TYPE_CHECKING:
    from .causal_lm import CausalLM
    from .graphs import Recorder

#: The kept cache has a multiple of so many slots, so that it serves other prompts too.
SLOTS = 1024


def recorder_of(device: torch.device) -> "Recorder | None":
    """Returns the recorder of steps on a device, None where there is none."""
    found = machine(device.type)
    return found.recorder(device) if found else None


class Decoder:
    """Gives each generation its session: on the kept cache with recorded steps, or on
    a cache of its own, where `path` says why.

    The kept cache fits the last generation that outgrew the one before. It goes when
    the model's weights or its ops are others.
    """

    def __init__(
        self,
        recorder: "Callable[[torch.device], Recorder | None]" = recorder_of,
        ahead: int | None = None,
    ):
        self.recorder = recorder
        #: Steps that are begun before a token is handed out: on a GPU one, so that it
        #: computes while the caller reads.
        self.ahead = ahead
        self.path = "nothing was generated yet"
        self.kept: Recorded | None = None
        self._refusal: str | None = None
        self._model: Hashable = None
        self._busy = threading.Lock()

    @contextmanager
    def session(
        self, model: "CausalLM", batch: int, total: int, sampler: Sampler
    ) -> Iterator[Session]:
        """Yields a session for `batch` rows that grow to `total` tokens."""
        if not self._busy.acquire(blocking=False):
            self.path = "eager: another generation of this model is going on"
            yield Session(model, model.new_cache(batch, total), sampler, None)
            return
        try:
            kept = self._keep(model, batch, total, sampler)
            if kept is None:
                cache = model.new_cache(batch, total)
            else:
                cache = model.begin_cache(kept.rows(batch))
            yield Session(model, cache, sampler, kept)
        finally:
            self._busy.release()

    def begun(self, session: Session, refusal: str | None) -> None:
        """Notes how a session decodes; a refusal holds for those that follow."""
        if refusal:
            self._refusal, self.kept = refusal, None
            self.path = f"eager: {refusal}"
        elif session.kept is not None:
            rows, slots = bucket(session.cache.batch), session.cache.capacity
            self.path = f"one graph replay a token ({rows} rows, {slots} slots)"

    def forget(self) -> None:
        """Frees the kept cache and the recorded steps."""
        self.kept = None

    def _keep(
        self, model: "CausalLM", batch: int, total: int, sampler: Sampler
    ) -> Recorded | None:
        """Returns the kept cache, with room for these rows; None where steps are not
        recorded, and then `path` says why."""
        if model.engine is not None and model.ops is None:
            self.path = "one call of C++ a token"
            return None
        if self._model != (now := _identity(model)):
            self._model, self._refusal, self.kept = now, None, None
        recorder = self.kept.recorder if self.kept else self.recorder(model.device)
        why = self._refusal or _unfit(model, batch, recorder) or sampler.unrecordable
        if why or recorder is None:
            self.path = f"eager: {why}"
            return None
        rows, slots = bucket(batch), total + model.learned
        if self.kept and self.kept.holds(rows, slots):
            return self.kept
        self.kept = None  # before another is allocated
        slots = -(-slots // SLOTS) * SLOTS
        self.kept = Recorded(model.empty_cache(rows, slots), recorder)
        return self.kept


def _unfit(model: "CausalLM", batch: int, recorder: "Recorder | None") -> str | None:
    """Returns why steps of a model are not even tried to be recorded, or None."""
    if recorder is None:
        return f"this build records no steps on a {model.device.type}"
    if batch > BUCKETS[-1]:
        return f"a batch of {batch} has more than {BUCKETS[-1]} rows"
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has a hook, which a replay would not call"
    return None


def _identity(model: "CausalLM") -> Hashable:
    """Returns a value that changes with whatever a recorded step has of a model. What
    was made in inference mode cannot be written to outside of it."""
    weights = tuple(weight.data_ptr() for weight in model.parameters())
    return id(model.ops), torch.is_inference_mode_enabled(), weights
