"""The options that from_pretrained of transformers takes, as far as a build does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

#: Keys of a config.json that transformers reads to find code or an implementation.
NAMED_ELSEWHERE = ("model_type", "auto_map", "attn_implementation")
#: Options that change nothing here, whatever they are: a build reads each weight once,
#: from safetensors or a pickle that is not run, and no code.
_IDLE = frozenset(
    (
        *("trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "weights_only"),
        *("code_revision", "use_auth_token", "ignore_mismatched_sizes", "use_kernels"),
        *("adapter_kwargs", "allow_all_kernels", "experts_implementation"),
        "tqdm_class",
    )
)
#: Options whose value must be one of these.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "attn_implementation": (None, "sdpa", "eager"),
    "quantization_config": (None,),
    "state_dict": (None,),
    "subfolder": ("", None),
    "variant": (None,),
    "gguf_file": (None,),
    "key_mapping": (None,),
    "tp_plan": (None,),
    "tp_size": (None,),
    "device_mesh": (None,),
    "distributed_config": (None,),
    "kernel_config": (None,),
    "from_tf": (False, None),
    "from_flax": (False, None),
}
#: What a hub id is fetched with; the client takes the rest from its environment.
_OF_HUB = ("cache_dir", "force_download", "proxies", "token", "mirror")
_PLACED = ("max_memory", "offload_folder", "offload_buffers", "offload_state_dict")
_OF_LOAD = ("strict", "progress", "tuned", "cache_dtype", "allow_config_drift")


@dataclass
class Asked:
    """The options, sorted by who takes them."""

    hub: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    of_config: dict[str, Any] = field(default_factory=dict)
    dispatch: dict[str, Any] = field(default_factory=dict)
    config: Any = None
    generation_config: Any = None
    dtype: Any = None
    device_map: Any = None
    wants_info: bool = False

    @property
    def info(self) -> dict[str, Any]:
        """The answer to `output_loading_info`: nothing is missing, or loading fails."""
        names = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        return {name: [] for name in names}

    @property
    def first_device(self) -> Any:
        """The device to load on: of several the CPU, from where weights are placed."""
        given = self.device_map
        if isinstance(given, dict):
            places = set(given.values())
            given = places.pop() if len(places) == 1 else "cpu"
        if given in _AUTO:
            return _accelerator()
        if isinstance(given, int):
            return f"cuda:{given}"
        return "cpu" if given in (None, "disk") else given

    def placed(self, model: Any) -> Any:
        """Returns the model with its parts where a `device_map` says."""
        if (
            not isinstance(self.device_map, dict)
            or len({*self.device_map.values()}) < 2
        ):
            return model
        refuse_several(self.device_map)
        # accelerate has no types, and is there only where somebody deals parts out.
        from accelerate import dispatch_model  # type: ignore[import-untyped, import-not-found, unused-ignore]

        return dispatch_model(model, self.device_map, **self.dispatch)


_AUTO = ("auto", "balanced", "balanced_low_0", "sequential")


def _accelerator() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def refuse_several(device_map: Mapping[str, Any]) -> None:
    """Refuses a device_map that computes on several devices: all layers keep what they
    keep on one. Some parts may wait on the CPU or on a disk."""
    computing = {str(one) for one in device_map.values()} - {"cpu", "disk", "meta"}
    if len(computing) > 1:
        raise ValueError(
            f"device_map computes on {', '.join(sorted(computing))}, and a build's "
            "cache lies on one device; name one of them, beside cpu and disk."
        )


def loading_options(given: Mapping[str, Any]) -> Asked:
    """Sorts the options of a call. Raises ValueError for one that asks for what a
    build does not do."""
    asked = Asked()
    for name, value in given.items():
        if name.startswith("_") or name in _IDLE:
            continue
        if name in _ONLY:
            if value not in _ONLY[name]:
                raise ValueError(
                    f"from_pretrained() of a build does not take {name}={value!r:.60}: "
                    "operations, formats and layout were decided when it was compiled."
                )
        elif name in ("dtype", "torch_dtype"):
            asked.dtype = None if value == "auto" else value
        elif name == "output_loading_info":
            asked.wants_info = bool(value)
        elif name in ("config", "generation_config", "device_map"):
            setattr(asked, name, value)
        elif name == "local_files_only":
            asked.hub["offline"] = bool(value)
        elif name in ("revision", "endpoint", "offline", "timeout"):
            asked.hub[name] = value
        elif name in _OF_HUB:
            if value not in (None, False, True):
                raise ValueError(
                    f"from_pretrained() of a build does not take {name}=: set it where "
                    "huggingface_hub reads it (HF_HOME, HF_TOKEN, HTTPS_PROXY)."
                )
        elif name in _PLACED:
            if name == "offload_folder" and value is not None:
                asked.dispatch["offload_dir"] = value
        elif name in _OF_LOAD:
            asked.load[name] = value
        elif value is not None:
            asked.of_config[name] = value
    return asked
