"""The engine of a model on a CPU: one call of C++ computes the logits of some tokens.

What the C++ has no kernel for is a step of `reference.py`, which it asks for on the
way. `steps.py` says which, and in what order the C++ is given weights and states.
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .cache import Cache
from .packed import PackedWeight, state_dict_hook

if TYPE_CHECKING:
    from .modules import BaseModel

#: A long prompt is read so many tokens at a time, so that what is computed on the way
#: stays small.
CHUNK = 256

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_int64),
)


class Arguments(ctypes.Structure):
    """The arguments of a call, as `native/call.h` has them."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "tokens", "past", "capacity", "keep", "threads")
        ),
        *((name, ctypes.c_void_p) for name in ("ids", "pos", "start", "prefix")),
        *((name, ctypes.c_void_p) for name in ("logits", "weights", "states")),
        ("reference", _CALLBACK),
    )


class Rows(NamedTuple):
    """The sizes of a value for one token; it is of the model's dtype, or float32, or
    whole numbers, which lie as floats."""

    sizes: tuple[int, ...]
    exact: bool = False
    whole: bool = False

    def dtype(self, usual: torch.dtype) -> torch.dtype:
        """Returns its dtype for the reference, where the model's is `usual`."""
        if self.whole:
            return torch.int64
        return torch.float32 if self.exact else usual


@dataclass(frozen=True)
class Step:
    """A step of the reference between two pieces of C++.

    `run` is called with the module whose parameters it reads, the layer's states, the
    operations, and its values: first those of `given`, then those of `own`, which other
    steps left, by name. It returns `made`, which go back
    to the C++, and then `kept`.
    """

    run: Callable[..., tuple[Any, ...]]
    given: tuple[Rows, ...] = ()
    own: tuple[str, ...] = ()
    made: int = 0
    kept: tuple[str, ...] = ()


class Engine:
    """Computes a model's logits by the library of its build.

    It serves while the weights are those that it was made with, and the ops the
    build's own.
    """

    def __init__(self, model: Any, library: ctypes.CDLL, steps: ModuleType):
        self.library = library
        self.steps = steps
        self.operations = __import__(f"{__package__}.reference", fromlist=["reference"])
        self.constants = steps.constants(self.operations)
        self.modules = [*model.modules()][1:]  # the model itself holds the engine
        self.layers = [*model.layers]
        places = [*self._places(model)]
        weights = [owner[name] for owner, name in places]
        self.weights = list(zip(places, weights, strict=True))
        # A packed weight keeps its blocks for life; others may be given other memory.
        addresses = [_address(weight) for weight in weights]
        self.plain = [
            (weight, address)
            for weight, address in zip(weights, addresses, strict=True)
            if not isinstance(weight, PackedWeight)
        ]
        self.table = (ctypes.c_void_p * len(addresses))(*addresses)
        self.callback = _CALLBACK(_weakly(self))
        self.error: BaseException | None = None
        self.chunks = not steps.STEPS

    @staticmethod
    def attach(model: "BaseModel", library: ctypes.CDLL, steps: ModuleType) -> None:
        """Gives a loaded model its engine."""
        # Not typed in every torch.
        hook = model.register_state_dict_post_hook
        hook(state_dict_hook)  # type: ignore[no-untyped-call, unused-ignore]
        model.engine = Engine(model, library, steps)

    def _places(self, model: Any) -> Iterator[tuple[dict[str, torch.Tensor], str]]:
        """Yields where the weights are, in the order in which the C++ reads them."""
        for name, kind in self.steps.MODEL:
            owner = self.constants if kind == "constant" else model._parameters
            yield owner, name
        for layer, kind in zip(model.layers, self.steps.SCHEDULE, strict=True):
            for name, _ in self.steps.LAYERS[kind]:
                yield layer._parameters, name

    def serves(self, model: Any, ids: torch.Tensor, cache: Cache) -> bool:
        """Tells whether it computes what the model means now."""
        modules = (model, *self.modules)
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        same = (
            [*model.layers] == self.layers
            and all(owner.get(name) is one for (owner, name), one in self.weights)
            and all(weight.data_ptr() == address for weight, address in self.plain)
        )
        kept = cache.kv_dtype == cache.dtype == model.dtype
        return same and kept and not hooked and ids.device.type == "cpu"

    def run(
        self, model: Any, ids: torch.Tensor, pos: torch.Tensor, cache: Cache, keep: int
    ) -> torch.Tensor:
        """Returns logits [B, keep or T, V] of `ids` [B, T] at `pos`, as `Model.run`
        does."""
        batch, tokens = ids.shape
        kept = min(keep, tokens) or tokens
        logits = torch.empty(batch, kept, model.answers or model.vocab_size)
        size = max(1, CHUNK // batch) if self._cuts(cache) else tokens
        for begin in range(0, tokens, size):
            end = min(begin + size, tokens)
            wanted = max(0, end - max(begin, tokens - kept))
            done = end - wanted - (tokens - kept)
            out = logits[:, done : done + wanted]
            part = out if out.is_contiguous() else torch.empty(out.shape)
            self._call(
                model, ids[:, begin:end], pos[..., begin:end], cache, begin, part
            )
            if part is not out:
                out.copy_(part)
        return logits.to(model.dtype)

    def _cuts(self, cache: Cache) -> bool:
        """Tells whether a prompt may be cut: not where a step of the reference, or a
        part that sees itself, must see all of it."""
        return self.chunks and cache.prefix is None

    def _call(
        self,
        model: Any,
        ids: torch.Tensor,
        pos: torch.Tensor,
        cache: Cache,
        begin: int,
        out: torch.Tensor,
    ) -> None:
        ids, pos = ids.contiguous(), pos.contiguous()
        states = self._states(cache)
        self.scene = _Scene(model, cache, ids, pos)
        outcome = self.library.glmc_run(
            ctypes.byref(
                Arguments(
                    *(ids.shape[0], ids.shape[1], cache.length + begin),
                    *(cache.capacity, out.shape[1], threads()),
                    *(ids.data_ptr(), pos.data_ptr()),
                    *(_pointer(cache.start), _pointer(cache.prefix), out.data_ptr()),
                    ctypes.addressof(self.table),
                    ctypes.addressof(states),
                    self.callback,
                )
            )
        )
        del self.scene
        error, self.error = self.error, None
        if error is not None:
            raise error
        if outcome:
            raise MemoryError("there is not enough memory for this call")

    def _states(self, cache: Cache) -> Any:
        """Returns the addresses of what layers keep, in the order of the structs."""
        found = []
        for layer, kind in zip(cache.layers, self.steps.SCHEDULE, strict=True):
            for name in self.steps.STATES[kind]:
                state = vars(layer)[name]
                found += [kept.data_ptr() for kept in state.tensors().values()]
        return (ctypes.c_void_p * max(1, len(found)))(*found)

    def _step(
        self, number: int, layer: int, tokens: int, values: Any, strides: Any
    ) -> int:
        """Runs a step of the reference; its error is raised after the call."""
        try:
            step = self.steps.STEPS[number]
            self._run_step(step, layer, tokens, values, strides)
        except BaseException as error:
            self.error = error
            return 0
        return 1

    def _run_step(
        self, step: Step, layer: int, tokens: int, values: Any, strides: Any
    ) -> None:
        scene = self.scene
        owner = scene.model.layers[layer] if layer >= 0 else scene.model
        state = scene.cache.layers[layer] if layer >= 0 else None
        batch, dtype = len(scene.ids), scene.model.dtype
        given = [
            _rows(values[i], strides[i], (batch, tokens, *rows.sizes)).to(
                rows.dtype(dtype)
            )
            for i, rows in enumerate(step.given)
        ]
        own = [scene.values[name] for name in step.own]
        results = step.run(owner, state, self.operations, *given, *own)
        for i, result in enumerate(results[: step.made], len(step.given)):
            _rows(values[i], strides[i], tuple(result.shape)).copy_(result)
        scene.values.update(zip(step.kept, results[step.made :], strict=True))


def _weakly(engine: Engine) -> Callable[..., int]:
    """Returns what runs its steps, and does not keep it and all its weights alive."""
    reference = weakref.ref(engine)

    def step(*given: Any) -> int:
        found = reference()
        return found._step(*given) if found else 0

    return step


class _Scene:
    """The call that steps of the reference take part in."""

    def __init__(self, model: Any, cache: Cache, ids: torch.Tensor, pos: torch.Tensor):
        self.model = model
        self.cache = cache
        self.ids = ids
        self.values: dict[str, Any] = {"ids": ids, "pos": pos}
        if cache.prefix is not None:
            self.values["prefix"] = cache.prefix


def threads() -> int:
    """Returns how many threads torch would use, of the processors that this process
    may run on."""
    count = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    return count


def _address(weight: torch.Tensor) -> int:
    lying = weight.blocks if isinstance(weight, PackedWeight) else weight
    return lying.data_ptr()


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _rows(address: int, stride: int, shape: Sequence[int]) -> torch.Tensor:
    """Returns a view of the C++'s rows as float32 [B, T, ...]."""
    batch, tokens, *sizes = shape
    steps = [1]
    for size in reversed(sizes[1:]):
        steps.insert(0, steps[0] * size)
    count = batch * tokens * stride
    memory = (ctypes.c_float * count).from_address(address)
    flat = torch.frombuffer(memory, dtype=torch.float32, count=count)
    return flat.as_strided(
        tuple(shape), (tokens * stride, stride, *steps[: len(sizes)])
    )
