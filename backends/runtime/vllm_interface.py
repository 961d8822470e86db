"""vLLM's own classes, by the names that the rest of a build has for them."""

from typing import Any

from .vllm_versions import taken

Attention = taken("Attention")
MLAAttention = taken("MLAAttention")
MambaBase = taken("MambaBase")
copied_whole = taken("get_temporal_copy_spec")
lay_out_for_cpu = taken("dispatch_cpu_unquantized_gemm")
support_torch_compile = taken("support_torch_compile")
_context = taken("get_forward_context")
_group = taken("get_tp_group")

#: The metadata of states of a request: where requests begin, and where states lie.
BY_REQUEST = taken("MambaAttentionBackendEnum").LINEAR


def device_type() -> str:
    """Returns the kind of device that vLLM runs on, as torch calls it."""
    return str(taken("current_platform").device_type)


def own_rank() -> tuple[int, int]:
    """Returns the number of this process in its tensor-parallel group, and how many
    there are."""
    group = _group()
    return group.rank_in_group, group.world_size


def summed(x: Any) -> Any:
    """Returns the sum of all ranks' `x`, perhaps in the place of it."""
    return _group().all_reduce(x)


def gathered(x: Any) -> Any:
    """Returns all ranks' `x` [1, ...] as [ranks, ...]."""
    return _group().all_gather(x, 0)


def register_layer(name: str, layer: Any) -> None:
    """Makes a layer that keeps something known to vLLM, which then sizes its cache."""
    config = taken("get_current_vllm_config")()
    layers = config.compilation_config.static_forward_context
    if name in layers:
        raise ValueError(f"vLLM has a layer {name} already.")
    layers[name] = layer


def step_of(name: str) -> Any:
    """Returns the metadata of this step for a layer; None while vLLM only warms up."""
    metadata = _context().attn_metadata
    return metadata.get(name) if isinstance(metadata, dict) else metadata
