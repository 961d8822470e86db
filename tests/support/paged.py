"""A stand-in for vLLM: all that a build imports of it, with a scheduler of its own.

Keys, values and states of requests lie in slots and pages in no order, full of numbers
that mean nothing; a step has the tokens of several requests in one row, prompts in
chunks. There is no batching by length, no graph and no second process: those are the
real engine's, which `make test-vllm` runs.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from glmc.backends.runtime.ranks import Ranks
from support import builds

SLOTS, PAGES, BUDGET = 400, 16, 7
"""Slots of tokens, pages of requests, and the tokens of a step."""


@dataclass
class Context(threading.local):
    """The globals of vLLM while it makes a model, and while it runs one: of a thread,
    as ranks are threads here."""

    config: Any = None
    step: Any = None
    group: Any = None
    registered: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)


NOW = Context()


@dataclass
class Step:
    """The requests of a step: what each layer's metadata says in vLLM."""

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    state_indices_tensor: torch.Tensor
    slots: list[torch.Tensor]
    num_decodes: int
    num_prefills: int


class Group:
    """The tensor-parallel group of a rank, which sums in the place of a tensor, as
    vLLM does it on CPUs."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.rank_in_group, self.world_size = ranks.rank, ranks.count

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        total = self.ranks.sum(x.clone())
        return x.copy_(total)

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self.ranks.gather(x), dim)


def _garbage(*shape: int) -> torch.Tensor:
    return torch.full(shape, 1e4)


class Attention(nn.Module):
    """Attention over slots: of each request those that its tokens were given."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        cache_config: Any = None,
        logits_soft_cap: float | None = None,
        per_layer_sliding_window: int | None = None,
        prefix: str = "",
        kv_sharing_target_layer_name: str | None = None,
        alibi_slopes: list[float] | None = None,
        sinks: torch.Tensor | None = None,
    ):
        super().__init__()
        window = per_layer_sliding_window
        self.window = cache_config.sliding_window if window is None else window
        self.heads, self.kv_heads, self.width = num_heads, num_kv_heads, head_size
        self.scale, self.cap, self.sinks = scale, logits_soft_cap, sinks
        self.slopes = torch.tensor(alibi_slopes) if alibi_slopes else None
        layers = NOW.config.compilation_config.static_forward_context
        assert prefix not in layers
        assert sum(part.isdigit() for part in prefix.split(".")) == 1, prefix
        owner = layers.get(kv_sharing_target_layer_name)
        assert (owner is None) == (kv_sharing_target_layer_name is None)
        layers[prefix] = self
        self.owner = [owner or self]
        shape = (SLOTS, num_kv_heads, head_size)
        self.keys, self.values = _garbage(*shape), _garbage(*shape)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None
    ) -> torch.Tensor:
        for x, heads in ((q, self.heads), (k, self.kv_heads), (v, self.kv_heads)):
            assert x is None or x.shape == (len(q), heads * self.width)
        (owner,) = self.owner
        assert (owner is self) == (k is not None)
        q = q.view(len(q), self.heads, self.width)
        out = []
        for tokens, slots in _requests():
            if k is not None and v is not None:
                new = slots[len(slots) - (tokens.stop - tokens.start) :]
                self.keys[new] = k[tokens].view(-1, self.kv_heads, self.width)
                self.values[new] = v[tokens].view(-1, self.kv_heads, self.width)
            out.append(self.attend(q[tokens], owner.keys[slots], owner.values[slots]))
        return torch.cat(out).flatten(1)

    def attend(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Queries [T, H, D] of the last slots of a request, one head at a time."""
        keys, values = (
            x.repeat_interleave(self.heads // self.kv_heads, 1) for x in (keys, values)
        )
        scores = torch.einsum("thd,shd->hts", q, keys) * self.scale
        if self.cap:
            scores = self.cap * torch.tanh(scores / self.cap)
        at = torch.arange(len(keys))
        apart = at[len(keys) - len(q) :, None] - at
        if self.slopes is not None:
            scores = scores - self.slopes[:, None, None] * apart
        hidden = apart < 0
        if self.window is not None:
            hidden = hidden | (apart >= self.window)
        scores = scores.masked_fill(hidden, -torch.inf)
        if self.sinks is not None:
            sink = self.sinks.view(-1, 1, 1).expand(-1, len(q), 1)
            scores = torch.cat((scores, sink), -1)
        weights = scores.softmax(-1)[..., : len(keys)]
        return torch.einsum("hts,shd->thd", weights, values)


class MLAAttention(nn.Module):
    """Attention over latents, which the product of the build expands."""

    def __init__(self, *, prefix: str, kv_b_proj: Any, **sizes: Any):
        super().__init__()
        self.sizes, self.product = SimpleNamespace(**sizes), kv_b_proj
        NOW.config.compilation_config.static_forward_context[prefix] = self
        width = sizes["kv_lora_rank"] + sizes["qk_rope_head_dim"]
        self.slots = _garbage(SLOTS, width)

    def forward(
        self,
        q: torch.Tensor,
        latent: torch.Tensor,
        shared: torch.Tensor,
        output_shape: torch.Size,
    ) -> torch.Tensor:
        of, out = self.sizes, []
        for tokens, slots in _requests():
            new = slots[len(slots) - (tokens.stop - tokens.start) :]
            self.slots[new] = torch.cat((latent[tokens], shared[tokens, 0]), -1)
            kept = self.slots[slots]
            made, none = self.product(kept[:, : of.kv_lora_rank])
            assert none is None
            made = made.view(len(kept), of.num_heads, -1)
            turned = kept[:, None, of.kv_lora_rank :].expand(-1, of.num_heads, -1)
            keys = torch.cat((made[..., : of.qk_nope_head_dim], turned), -1)
            scores = torch.einsum("thd,shd->hts", q[tokens], keys) * of.scale
            at = torch.arange(len(kept))
            hidden = at[len(kept) - q[tokens].shape[0] :, None] < at
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            values = made[..., of.qk_nope_head_dim :]
            out.append(torch.einsum("hts,shd->thd", weights, values))
        return torch.cat(out).reshape(output_shape)


class MambaBase:
    """The base of layers with states of a request; `bind` gives them their pages."""

    def bind(self: Any) -> None:
        pairs = zip(self.get_state_shape(), self.get_state_dtype(), strict=True)
        self.kv_cache = tuple(_garbage(PAGES, *s).to(d) for s, d in pairs)


def lay_out(layer: Any, remove_weight: bool) -> None:
    """Take the weight of a layer, and leave a function that multiplies with it."""
    assert remove_weight
    kept = layer.weight.detach().clone()
    layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    layer.cpu_linear = lambda x, weight, bias: F.linear(x, kept, bias)


def _requests() -> Iterator[tuple[slice, torch.Tensor]]:
    """The tokens of each request of this step, and the slots of all it has."""
    starts = NOW.step.query_start_loc.tolist()
    for at, slots in enumerate(NOW.step.slots):
        yield slice(starts[at], starts[at + 1]), slots


def _modules() -> dict[str, dict[str, Any]]:
    registry = SimpleNamespace(register_model=NOW.registered.__setitem__)
    codes = type("QuantizationConfig", (), {})
    nothing = staticmethod(lambda vllm_config: None)
    check = type("Check", (), {"verify_and_update_config": nothing})
    compiled = lambda **_: lambda cls: cls  # noqa: E731
    context = lambda: SimpleNamespace(attn_metadata=NOW.step)  # noqa: E731
    register = lambda name: lambda cls: NOW.codes.__setitem__(name, cls)  # noqa: E731
    layers = "vllm.model_executor.layers"
    return {
        "vllm": {"ModelRegistry": registry},
        "vllm.config": {"get_current_vllm_config": lambda: NOW.config},
        "vllm.compilation.decorators": {"support_torch_compile": compiled},
        "vllm.distributed": {"get_tp_group": lambda: NOW.group},
        "vllm.forward_context": {"get_forward_context": context},
        f"{layers}.attention": {"Attention": Attention, "MLAAttention": MLAAttention},
        f"{layers}.mamba.abstract": {"MambaBase": MambaBase},
        f"{layers}.quantization": {"register_quantization_config": register},
        f"{layers}.quantization.base_config": {"QuantizationConfig": codes},
        "vllm.model_executor.models.config": {
            "MODELS_CONFIG_MAP": NOW.checks,
            "VerifyAndUpdateConfig": check,
        },
        f"{layers}.utils": {"dispatch_cpu_unquantized_gemm": lay_out},
        f"{layers}.mamba.mamba_utils": {"get_temporal_copy_spec": None},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type="cpu")},
        "vllm.transformers_utils.config": {"_CONFIG_REGISTRY": {}},
        "vllm.v1.attention.backends.registry": {
            "MambaAttentionBackendEnum": SimpleNamespace(LINEAR="linear")
        },
    }


@contextmanager
def stand_in() -> Iterator[Context]:
    """Let `import vllm` find this, and forget it afterwards."""
    assert "vllm" not in sys.modules
    made: dict[str, ModuleType] = {}
    for name, names in _modules().items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            made.setdefault(part, ModuleType(part)).__dict__.update(__path__=[])
        made[name].__dict__.update(names)
    for name, module in made.items():
        above, _, own = name.rpartition(".")
        if above:
            setattr(made[above], own, module)
    sys.modules.update(made)
    try:
        yield NOW
    finally:
        for name in made:
            del sys.modules[name]
        NOW.config = NOW.step = None
        NOW.registered.clear()
        NOW.codes.clear()
        NOW.checks.clear()


def config(checkpoint: Path, **changes: Any) -> Any:
    """The config of vLLM that a model is made with."""
    model: dict[str, Any] = {
        "model": str(checkpoint),
        "revision": None,
        "hf_overrides": {},
        "max_model_len": 64,
        "is_hybrid": False,
        "dtype": torch.float32,
    }
    parallel: dict[str, Any] = {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "enable_expert_parallel": False,
    }
    given = {k: changes.pop(k, v) for k, v in model.items()}
    ranks = {k: changes.pop(k, v) for k, v in parallel.items()}
    world = ranks["tensor_parallel_size"] * ranks["pipeline_parallel_size"]
    return SimpleNamespace(
        model_config=SimpleNamespace(**given),
        parallel_config=SimpleNamespace(world_size=world, **ranks),
        cache_config=SimpleNamespace(
            sliding_window=changes.pop("sliding_window", None)
        ),
        compilation_config=SimpleNamespace(static_forward_context={}),
        speculative_config=changes.pop("speculative_config", None),
    )


class Engine:
    """A model of a build, and requests that it answers."""

    def __init__(self, build: Path, checkpoint: Path, **changes: Any):
        self.build = builds.import_build(build)
        self.module = importlib.import_module(f"{self.build.__name__}.vllm_model")
        NOW.config = config(checkpoint, **changes)
        (made,) = (
            value
            for value in vars(self.module).values()
            if isinstance(value, type)
            and value.__module__ == self.module.__name__
            and hasattr(value, "compute_logits")
        )
        self.served = made
        self.model = made(vllm_config=NOW.config)
        layers = NOW.config.compilation_config.static_forward_context
        for layer in layers.values():
            if isinstance(layer, MambaBase):
                layer.bind()
        shuffled = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(0))
        self.free = shuffled.tolist()
        self.pages = [*range(1, PAGES)]

    @torch.no_grad()
    def answer(
        self, texts: list[torch.Tensor], *, ahead: int = 5
    ) -> list[torch.Tensor]:
        """The logits of every token of some texts, of which the last `ahead` are read
        one by one, as if they had been generated."""
        done = [0] * len(texts)
        slots: list[list[int]] = [[] for _ in texts]
        pages = [self.pages.pop() for _ in texts]
        logits: list[list[torch.Tensor]] = [[] for _ in texts]
        while any(at < len(text) for at, text in zip(done, texts, strict=True)):
            counts = self._schedule(texts, done, ahead)
            for one, count in counts.items():
                slots[one] += [self.free.pop() for _ in range(count)]
            hidden = self._step(texts, done, counts, slots, pages)
            parts = torch.split(hidden, list(counts.values()))
            for (one, count), part in zip(counts.items(), parts, strict=True):
                logits[one].append(self.model.compute_logits(part))
                done[one] += count
        return [torch.cat(found) for found in logits]

    def _schedule(
        self, texts: list[torch.Tensor], done: list[int], ahead: int
    ) -> dict[int, int]:
        """The tokens that each request reads in a step: first those that read one."""
        left = {r: len(text) - done[r] for r, text in enumerate(texts)}
        decoding = [r for r, count in left.items() if 0 < count <= ahead]
        counts = dict.fromkeys(decoding, 1)
        for one, count in left.items():
            room = BUDGET - sum(counts.values())
            if count > ahead and room > 0:
                counts[one] = min(count - ahead, room)
        return dict(sorted(counts.items(), key=lambda pair: pair[1] > 1))

    def _step(
        self,
        texts: list[torch.Tensor],
        done: list[int],
        counts: dict[int, int],
        slots: list[list[int]],
        pages: list[int],
    ) -> torch.Tensor:
        ones = sum(count == 1 for count in counts.values())
        starts = torch.tensor([0, *counts.values()]).cumsum(0)
        NOW.step = Step(
            query_start_loc=starts.to(torch.int32),
            seq_lens=torch.tensor([done[r] + n for r, n in counts.items()]),
            state_indices_tensor=torch.tensor([pages[r] for r in counts]),
            slots=[torch.tensor(slots[r]) for r in counts],
            num_decodes=ones,
            num_prefills=len(counts) - ones,
        )
        ids = [texts[r][done[r] : done[r] + n] for r, n in counts.items()]
        at = [torch.arange(done[r], done[r] + n) for r, n in counts.items()]
        hidden: torch.Tensor = self.model(torch.cat(ids).to(torch.int32), torch.cat(at))
        return hidden
