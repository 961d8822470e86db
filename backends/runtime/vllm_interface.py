"""vLLM's own classes, by the names that the rest of a build has for them."""

from typing import Any

import vllm.config
from vllm.compilation.decorators import support_torch_compile
from vllm.distributed import get_tp_group
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.model_executor.layers.mamba.mamba_utils import (
    get_temporal_copy_spec as copied_whole,
)
from vllm.model_executor.layers.utils import (
    dispatch_cpu_unquantized_gemm as lay_out_for_cpu,
)
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum

__all__ = [
    "BY_REQUEST",
    "Attention",
    "MLAAttention",
    "MambaBase",
    "copied_whole",
    "device_type",
    "gathered",
    "lay_out_for_cpu",
    "own_rank",
    "register_layer",
    "step_of",
    "summed",
    "support_torch_compile",
]

#: The metadata of states of a request: where requests begin, and where states lie.
BY_REQUEST = MambaAttentionBackendEnum.LINEAR


def device_type() -> str:
    """Returns the kind of device that vLLM runs on, as torch calls it."""
    return str(current_platform.device_type)


def own_rank() -> tuple[int, int]:
    """Returns the number of this process in its tensor-parallel group, and how many
    there are."""
    group = get_tp_group()
    return group.rank_in_group, group.world_size


def summed(x: Any) -> Any:
    """Returns the sum of all ranks' `x`, perhaps in the place of it."""
    return get_tp_group().all_reduce(x)


def gathered(x: Any) -> Any:
    """Returns all ranks' `x` [1, ...] as [ranks, ...]."""
    return get_tp_group().all_gather(x, 0)


def register_layer(name: str, layer: Any) -> None:
    """Makes a layer that keeps something known to vLLM, which then sizes its cache."""
    config = vllm.config.get_current_vllm_config()
    layers = config.compilation_config.static_forward_context
    if name in layers:
        raise ValueError(f"vLLM has a layer {name} already.")
    layers[name] = layer


def step_of(name: str) -> Any:
    """Returns the metadata of this step for a layer; None while vLLM only warms up."""
    metadata = get_forward_context().attn_metadata
    return metadata.get(name) if isinstance(metadata, dict) else metadata
