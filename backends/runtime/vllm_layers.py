"""vLLM's layers, which keep what a build's layers keep and attend: what each kind of
layer is made with, and what its operations are given as a state."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .state import From
from .vllm_interface import Attention, MLAAttention
from .vllm_requests import RequestStates, Rows


@dataclass(frozen=True)
class Place:
    """The place at which a layer of vLLM is made."""

    config: Any
    """vLLM's."""
    block: nn.Module
    """The layer of the build, with the weights that attention reads."""
    name: str
    """Its name in vLLM: unique, with one number in it."""
    owner: str | None = None
    """The layer of vLLM that keeps what this one reads."""


@dataclass(frozen=True)
class Attends:
    """Attention over keys and values, as the config of the model has it.

    `sinks` names the parameter with a logit of each head, `slopes` makes those of
    ALiBi, given positions.
    """

    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: str | None = None
    slopes: Callable[[torch.Tensor], torch.Tensor] | None = None

    def layer(self, place: Place) -> "Paged":
        """Makes vLLM's layer, in its default dtype and on its default device."""
        more: dict[str, Any] = {}
        if self.sinks is not None:
            more["sinks"] = getattr(place.block, self.sinks)
        if self.slopes is not None:
            with torch.device("cpu"):
                more["alibi_slopes"] = self.slopes(torch.zeros(1)).tolist()
        attention = Attention(
            self.heads,
            self.width,
            self.scale,
            num_kv_heads=self.kv_heads,
            cache_config=without_window(place.config.cache_config),
            logits_soft_cap=self.softcap,
            per_layer_sliding_window=self.window,
            prefix=place.name,
            kv_sharing_target_layer_name=place.owner,
            **more,
        )
        return Paged(attention, self)

    @property
    def width(self) -> int:
        """The channels of a head in vLLM's cache: its keys and values are as wide as
        one another."""
        return max(self.k_dim, self.v_dim)


def without_window(config: Any) -> Any:
    """Returns a config of vLLM's cache without a window of the whole model, which a
    layer that has none of its own would take."""
    if config is None or config.sliding_window is None:
        return config
    found = copy(config)
    found.sliding_window = None
    return found


class Paged(nn.Module):
    """Stands for a layer's keys and values in operations: vLLM's attention."""

    def __init__(self, attention: Any, row: Attends):
        super().__init__()
        self.attention = attention
        self.width = row.width
        self.v_dim = row.v_dim

    def forward(
        self, q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None
    ) -> torch.Tensor:
        """Keeps `k` and `v` [1, N, K, D], if any, and attends with `q` [1, N, H, D] ->
        [1, N, H * Dv]."""
        made: torch.Tensor = self.attention(self.flat(q), self.flat(k), self.flat(v))
        if self.width == self.v_dim:
            return made[None]
        heads = made.view(1, q.shape[1], q.shape[2], self.width)
        return heads[..., : self.v_dim].flatten(2)

    def flat(self, x: torch.Tensor | None) -> torch.Tensor | None:
        """Returns `x` [1, N, n, D] as [N, n * width], with zeros where D is less."""
        if x is None:
            return None
        if x.shape[3] < self.width:
            x = F.pad(x, (0, self.width - x.shape[3]))
        return x.reshape(x.shape[1], x.shape[2] * self.width)


@dataclass(frozen=True)
class Latents:
    """Attention over latents: `kv_b` names the parameter [H * (nope + v), R] that makes
    a head's key and value of one."""

    heads: int
    nope: int
    turned: int
    v_dim: int
    rank: int
    scale: float
    kv_b: str

    def layer(self, place: Place) -> "PagedLatents":
        """Makes vLLM's layer, in its default dtype and on its default device."""
        attention = MLAAttention(
            num_heads=self.heads,
            scale=self.scale,
            qk_nope_head_dim=self.nope,
            qk_rope_head_dim=self.turned,
            v_head_dim=self.v_dim,
            q_lora_rank=None,
            kv_lora_rank=self.rank,
            kv_b_proj=Product(getattr(place.block, self.kv_b)),
            cache_config=place.config.cache_config,
            prefix=place.name,
        )
        return PagedLatents(attention, self.heads * self.v_dim)


class PagedLatents(nn.Module):
    """Stands for a layer's latents in operations: vLLM's latent attention."""

    def __init__(self, attention: Any, width: int):
        super().__init__()
        self.attention = attention
        self.width = width

    def forward(
        self, q: torch.Tensor, latent: torch.Tensor, shared: torch.Tensor
    ) -> torch.Tensor:
        """Keeps `latent` [1, N, R] and `shared` keys [1, N, 1, r], and attends with `q`
        [1, N, H, nope + r] -> [1, N, H * v]."""
        shape = torch.Size((q.shape[1], self.width))
        made: torch.Tensor = self.attention(
            q[0], latent[0].contiguous(), shared[0], output_shape=shape
        )
        return made[None]


class Product(nn.Module):
    """A product with a weight of the build, called as vLLM calls its own."""

    quant_method = None

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.held = [weight]  # in a list: its name is the build's

    @property
    def weight(self) -> nn.Parameter:
        """The weight."""
        return self.held[0]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Returns the product, and that there is no bias to be added."""
        return F.linear(x, self.weight), None


class Kept:
    """The states of one layer, each an attribute by its name."""

    def __init__(self, states: Mapping[str, Any]):
        for name, state in states.items():
            setattr(self, name, state)


#: What a kind of layer keeps, by name, to what vLLM's layer for it is made with.
Row = Mapping[str, Attends | Latents | Rows]


class Cache(nn.Module):
    """All that the layers of a model keep, in vLLM's layers; `layers` is what a body
    is called with."""

    def __init__(self, config: Any, blocks: Any, rows: Any, prefix: str):
        super().__init__()
        self.made = nn.ModuleDict()
        self.layers: list[Kept] = []
        for number, (block, row) in enumerate(zip(blocks, rows, strict=True)):
            states: dict[str, Any] = {}
            for name, kind in row.items():
                own = block.states.get(name)
                place = Place(config, block, f"{prefix}layers.{number}.{name}")
                if isinstance(own, From):
                    owner = f"{prefix}layers.{own.of(number)}.{name}"
                    place = Place(config, block, place.name, owner)
                layer = kind.layer(place)
                self.made[f"{number}_{name}"] = layer
                if isinstance(layer, RequestStates):
                    states |= layer.by_name()
                else:
                    states[name] = layer
            self.layers.append(Kept(states))
