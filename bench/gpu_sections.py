"""Measure one build, section by section, for `gpu.py`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_models
import torch
from gpu_calls import Comparison, costs, noted, watching
from gpu_timing import Clock, interleaved
from random_weights import import_build, random_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Row = dict[str, Any]


@dataclass(frozen=True)
class Lengths:
    """The lengths of prompts and generations, in tokens."""

    prompt: int = 128
    new: int = 128
    rounds: int = 3
    context: int = 1024
    long: int = 32768
    prefill: int = 2048
    attention: int = 8192
    check: int = 41


TINY = Lengths(4, 2, 1, 6, 24, 12, 16, 9)


class Bench:
    """A build's model with random weights on a device, and what it is measured with."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        device: str,
        dtype: torch.dtype,
        clock: Clock,
        read: float,
        lengths: Lengths,
        backend: str,
    ) -> None:
        self.config, self.clock, self.read = config, clock, read
        self.lengths, self.backend, self.dtype = lengths, backend, dtype
        build = import_build(folder)
        self.model = random_model(build, device, dtype)
        modules = importlib.import_module(f"{build.__name__}.modules")
        self.kernels: Any = importlib.import_module(f"{build.__name__}.kernels")
        if clock.gpu:  # with what was tuned
            self.kernels = modules.operations("cuda")
        self.reference = importlib.import_module(f"{build.__name__}.reference")
        # Interpreted kernels, on a CPU, can be right but not fast.
        self.timed = self.kernels if clock.gpu else self.reference
        self.model.ops = self.timed
        if not clock.gpu and hasattr(self.kernels, "SPLITS"):
            self.kernels.SPLITS = 2  # each part costs the interpreter time

    def ids(self, batch: int, tokens: int) -> torch.Tensor:
        """The same random ids whenever they are asked for."""
        generator = torch.Generator(self.clock.device).manual_seed(1)
        shape, device = (batch, tokens), self.clock.device
        vocab = self.model.vocab_size
        return torch.randint(3, vocab, shape, device=device, generator=generator)

    def filled(self, slots: int) -> Any:
        """A cache of one row whose slots hold random numbers."""
        cache = self.model.new_cache(1, slots + 8)
        for state in cache.own:
            for kept in state.tensors().values():
                kept.normal_()
        cache.length = slots
        return cache

    @torch.no_grad()
    def step(self, cache: Any) -> None:
        """One token after what a cache holds; where it ends stays as it was."""
        length = cache.length
        self.model(self.ids(1, 1), past_key_values=cache)
        cache.length = length


@torch.no_grad()
def kernels(bench: Bench) -> Iterator[Row]:
    """Every call of prompts and single tokens, beside the reference: the largest
    difference, 1 being all that is allowed."""
    compared = Comparison(bench.kernels, bench.reference)
    ids = bench.ids(2, bench.lengths.check)
    prompt = ids.shape[1] - 2
    mask = torch.ones_like(ids)
    mask[1, : prompt // 4] = 0
    with watching(bench.model, bench.kernels, compared.look):
        compared.real = mask[:, :prompt].bool()
        cache = bench.model(ids[:, :prompt], mask[:, :prompt]).past_key_values
        compared.real = None
        for at in range(prompt, ids.shape[1]):
            bench.model(ids[:, at : at + 1], past_key_values=cache)
        bench.model(bench.ids(1, bench.lengths.prompt))
        bench.model(bench.ids(1, 1), past_key_values=bench.filled(bench.lengths.long))
    for op, worst in sorted(compared.worst.items()):
        right = "yes" if worst <= 1 else "NO"
        yield {"op": op, "calls": compared.calls[op], "worst": worst, "right": right}


@torch.no_grad()
def per_kernel(bench: Bench) -> Iterator[Row]:
    """One token in a filled cache, kind of op by kind of op, without Python's time."""
    cache = bench.filled(bench.lengths.context)
    calls = noted(bench.model, bench.timed, lambda: bench.step(cache))
    for cost in costs(calls, bench.timed, bench.clock):
        rate = cost.bytes / cost.seconds / 1e9
        yield {
            "op": cost.kind,
            "calls": cost.calls,
            "us": cost.seconds * 1e6,
            "GB/s": rate,
            "of read": rate / bench.read,
        }


def weight_bytes(bench: Bench) -> int:
    """Bytes of the weights that a token reads whole: all but a table of embeddings."""
    calls = noted(bench.model, bench.timed, lambda: bench.step(bench.filled(1)))
    read = {
        id(weight): weight.nbytes
        for call in calls
        if "embedding" not in call.op
        for weight in call.tensors()
        if isinstance(weight, nn.Parameter)
    }
    return sum(read.values())


def decode(bench: Bench) -> Iterator[Row]:
    """Tokens a second of one row and of more, and what part of the measured read the
    weights' bytes make of it."""
    new, size = bench.lengths.new, weight_bytes(bench)
    for batch in (1, 2, 4, 8, 16) if bench.clock.gpu else (1, 2):
        ids = bench.ids(batch, bench.lengths.prompt)
        generate = gpu_models.ours(bench.model, ids)
        generate(1 + new)
        rates = {"glmc": lambda g=generate: gpu_models.token_rate(g, bench.clock, new)}
        steps = interleaved(rates, bench.lengths.rounds)["glmc"]
        yield {
            "batch": batch,
            "tok/s": steps * batch,
            "of read": steps * size / 1e9 / bench.read,
            "path": bench.model.decode_path,
        }


def beside(bench: Bench) -> Iterator[Row]:
    """Decoding of one row by turns: the build, transformers, a plain compiled model.
    One that cannot run is told in the row of its name."""
    ids, new = bench.ids(1, bench.lengths.prompt), bench.lengths.new
    made = _contenders(bench, ids, new)
    ready: dict[str, gpu_models.Generate] = {}
    for name, make in made.items():
        try:
            ready[name] = make()
            for count in (1 + new, 1, 1 + new):  # compiled for both lengths
                ready[name](count)
        except Exception as error:  # whatever another library may raise
            ready.pop(name, None)
            yield {
                "model": name,
                "tok/s": None,
                "ratio": None,
                "why": _of(error),
            }
    turns: dict[str, Callable[[], float]] = {
        # mypy infers no type for a default that binds the loop variable.
        name: lambda g=generate: gpu_models.token_rate(g, bench.clock, new)  # type: ignore[misc]
        for name, generate in ready.items()
    }
    rates = interleaved(turns, bench.lengths.rounds)
    for name, rate in rates.items():
        yield {"model": name, "tok/s": rate, "ratio": rates["glmc"] / rate, "why": ""}


def _contenders(
    bench: Bench, ids: torch.Tensor, new: int
) -> Mapping[str, Callable[[], gpu_models.Generate]]:
    device = str(bench.clock.device)
    known: list[Any] = []

    def transformers() -> Any:
        if not known:
            made = gpu_models.transformers_model(bench.config, device, bench.dtype)
            known.append(made)
        return known[0]

    sizes = gpu_models.Sizes.of(bench.config)
    return {
        "glmc": lambda: gpu_models.ours(bench.model, ids),
        "transformers eager": lambda: gpu_models.theirs(transformers(), ids),
        "transformers static, compiled": lambda: gpu_models.theirs(
            transformers(), ids, static=True
        ),
        "plain, compiled": lambda: gpu_models.plain(
            sizes, ids, 1 + new, bench.dtype, bench.backend
        ),
    }


@torch.no_grad()
def kv_read(bench: Bench) -> Iterator[Row]:
    """Attention of one token over a long cache: what part of the measured read the
    bytes of its slots make."""
    cache = bench.filled(bench.lengths.long)
    calls = noted(bench.model, bench.timed, lambda: bench.step(cache))
    attending = [call for call in calls if "attention" in call.op]
    for cost in costs(attending, bench.timed, bench.clock):
        rate = cost.bytes / cost.seconds / 1e9
        slots, part = bench.lengths.long, rate / bench.read
        yield {"op": cost.kind, "slots": slots, "GB/s": rate, "of read": part}


@torch.no_grad()
def prefill(bench: Bench) -> Iterator[Row]:
    """A prompt's tokens a second; transformers' where it is there."""
    ids, tokens = bench.ids(1, bench.lengths.prefill), bench.lengths.prefill
    contenders: dict[str, Any] = {"glmc": bench.model}
    try:
        device = str(bench.clock.device)
        made = gpu_models.transformers_model(bench.config, device, bench.dtype)
        contenders["transformers"] = made
    except Exception as error:  # as in `beside`
        yield {"model": "transformers", "tok/s": None, "why": _of(error)}
    turns: dict[str, Callable[[], float]] = {
        name: lambda m=model: (  # type: ignore[misc]
            tokens / bench.clock.once(lambda: m(ids, logits_to_keep=1))
        )
        for name, model in contenders.items()
    }
    for turn in turns.values():
        turn()
    for name, rate in interleaved(turns, bench.lengths.rounds).items():
        yield {"model": name, "tok/s": rate, "why": ""}


@torch.no_grad()
def attention(bench: Bench) -> Iterator[Row]:
    """Attention of a long prompt in one layer, rope and cache write included, beside
    torch's flash attention alone."""
    tokens = bench.lengths.attention
    calls = _first_attention(bench, tokens)
    kv = bench.model.layer_states[0]["kv"]
    sizes = gpu_models.Sizes.of(bench.config)
    shape = (1, sizes.heads, tokens, kv.k_dim)
    q = torch.randn(shape, device=bench.clock.device, dtype=bench.dtype)
    k, v = (torch.randn_like(q[:, : kv.kv_heads]) for _ in range(2))
    backend = SDPBackend.FLASH_ATTENTION if bench.clock.gpu else SDPBackend.MATH

    def flash() -> None:
        nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )

    def mine() -> None:
        for call in calls:
            call.run(bench.timed)

    with sdpa_kernel(backend):  # type: ignore[no-untyped-call, unused-ignore]
        runs = {"glmc": bench.clock.launched(mine), "sdpa": bench.clock.launched(flash)}
        turns = {
            name: lambda r=run: bench.clock.median(r) for name, run in runs.items()
        }
        times = interleaved(turns, 1 if not bench.clock.gpu else 3)
    flops = 2 * 2 * sizes.heads * kv.k_dim * tokens * tokens / 2
    for name, seconds in times.items():
        ratio = times["sdpa"] / seconds
        yield {"model": name, "TFLOP/s": flops / seconds / 1e12, "ratio": ratio}


class _Enough(Exception):
    """Raised when the call that is wanted was seen."""


def _first_attention(bench: Bench, tokens: int) -> list[Any]:
    """The first layer's call of attention for a prompt of so many tokens."""
    calls: list[Any] = []

    def look(call: Any) -> Any:
        if "attention" in call.op:
            calls.append(call)
            raise _Enough
        return call.run(bench.timed)

    cache = bench.model.new_cache(1, tokens)
    try:
        with watching(bench.model, bench.timed, look):
            bench.model(bench.ids(1, tokens), past_key_values=cache)
    except _Enough:
        pass
    return calls


def _of(error: Exception) -> str:
    """The first line of what an error says."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]


SECTIONS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "kernels": kernels,
    "decode": decode,
    "per kernel": per_kernel,
    "kv read": kv_read,
    "attention": attention,
    "prefill": prefill,
    "beside": beside,
}


def of_build(name: str) -> tuple[str, ...]:
    """The sections of a build: of quantised ones those that differ."""
    some = ("kernels", "decode", "per kernel")
    return some if "-int" in name else tuple(SECTIONS)
