"""Make a build known to vLLM, in each of its processes, and as often as it asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .vllm_versions import installed, refuse_untried, taken


@dataclass(frozen=True)
class Registered:
    """A build, as its config introduces itself."""

    package: str
    architecture: str
    """The name in `architectures`, by which vLLM looks up the class of a model."""
    model_type: str
    sizes: Mapping[str, Any]
    """Sizes by the names that vLLM looks for, where transformers does not know the
    model type."""
    ranks: int
    """The ranks that it is dealt to."""


def register(build: Registered) -> None:
    """Puts the build's class in the place of vLLM's own for its architecture.

    Raises VersionError where this vLLM is none that builds were tried with.
    """
    refuse_untried(installed(), build.package)
    taken("ModelRegistry").register_model(
        build.architecture, f"{build.package}.vllm_model:{build.architecture}"
    )
    _register_check(build)
    _register_config(build)
    _register_codes(build)


def refuse_ranks(architecture: str, parallel: Any, count: int) -> None:
    """Raises ValueError where vLLM, by its parallel config, would deal a build to
    other devices than the `count` that it was compiled for."""
    asked = parallel.tensor_parallel_size
    if asked != count:
        compiled = f"--tensor-parallel {asked}" if asked > 1 else "no --tensor-parallel"
        raise ValueError(
            f"{architecture} is a build of glmc for {count} rank{'s' * (count > 1)}, "
            f"and --tensor-parallel-size is {asked}: give {count}, or compile the "
            f"model again with --engine vllm and {compiled}."
        )
    if parallel.world_size != count:
        raise ValueError(
            f"{architecture} is a build of glmc, and inside vLLM it has one stage: "
            "leave --pipeline-parallel-size and --prefill-context-parallel-size out."
        )
    if parallel.decode_context_parallel_size > 1:
        raise ValueError(
            f"{architecture} is a build of glmc, whose ranks keep whole texts: leave "
            "--decode-context-parallel-size out."
        )
    if parallel.enable_expert_parallel:
        raise ValueError(
            f"{architecture} is a build of glmc, and how its experts are dealt was "
            "said when it was compiled: leave --enable-expert-parallel out; glmc "
            "compile --expert-parallel deals them whole."
        )


def _register_check(build: Registered) -> None:
    """Refuses ranks before vLLM starts a process for each, whose errors are lost among
    others; what vLLM itself checks of the architecture is checked as before."""
    known = taken("MODELS_CONFIG_MAP")
    own = known.get(build.architecture, taken("VerifyAndUpdateConfig"))
    if getattr(own, "of_build", False):
        return

    class Checked(own):  # type: ignore[misc, valid-type, unused-ignore]
        of_build = True

        @classmethod
        def verify_and_update_config(cls, vllm_config: Any) -> None:
            parallel = vllm_config.parallel_config
            refuse_ranks(build.architecture, parallel, build.ranks)
            own.verify_and_update_config(vllm_config)

    known[build.architecture] = Checked


def _register_config(build: Registered) -> None:
    """Gives vLLM a config for a model type that neither it nor transformers knows."""
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    own = taken("_CONFIG_REGISTRY")
    if build.model_type in CONFIG_MAPPING or build.model_type in own:
        return
    said = {"model_type": build.model_type, **build.sizes}
    made = type(f"{build.architecture}Config", (PreTrainedConfig,), said)
    AutoConfig.register(build.model_type, made, exist_ok=True)


def _register_codes(build: Registered) -> None:
    """Takes vLLM's rules for quantised checkpoints, such as which dtypes a model may
    have, out of the way of a build, which reads codes by its own table."""
    method = f"glmc-{build.architecture}"

    class Codes(taken("QuantizationConfig")):  # type: ignore[misc, unused-ignore]
        """The codes of a checkpoint, as the build reads them."""

        def get_name(self) -> str:
            return method

        def get_supported_act_dtypes(self) -> list[Any]:
            import torch

            return [torch.float32, torch.bfloat16, torch.float16]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> "Codes":
            return cls()

        def get_quant_method(self, layer: Any, prefix: str) -> None:
            return None

        @classmethod
        def override_quantization_method(
            cls, hf_quant_cfg: Any, user_quant: Any, hf_config: Any = None
        ) -> str | None:
            named = getattr(hf_config, "architectures", None) or []
            return method if build.architecture in named else None

    taken("register_quantization_config")(method)(Codes)
