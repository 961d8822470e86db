"""A build as a model of transformers: the part that decoders and encoders share.

Imported when asked for, as `build.hf`; nothing else of a build needs transformers.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .accepted import NAMED_ELSEWHERE, loading_options
from .checks import of_kind
from .drift import (
    COMPILED,
    Drift,
    compiled_beside,
    differences,
    refuse_drift,
)
from .faults import WeightsError
from .loading import find_folder, load, set_parameter
from .modules import BaseModel, operations
from .spelling import settled
from .strict_json import MEGABYTE, read_object
from .tapping import Embeddings, Found, Lookup, Tapped


class PlainConfig(PreTrainedConfig):  # type: ignore[misc, unused-ignore]
    """The config of a model type that transformers does not know: its keys as they
    are. Sizes that tools look for are attributes of subclasses, so that a config is
    saved as it was published."""

    def get_text_config(self, *_: Any, **__: Any) -> "PlainConfig":
        """Returns the config itself: a build is of the text part."""
        return self


class Pretrained(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """A PreTrainedModel around an emitted model, which it holds as `model`.

    A subclass in the build's `hf.py` names the class of the emitted model and its
    binding table.
    """

    config_class = PreTrainedConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    #: The emitted class, and the module `weights` of its build.
    build_class: ClassVar[type[BaseModel]]
    weights: ClassVar[Any]

    model: Any
    _gradient_checkpointing_func: Any

    def __init__(self, config: Any, model: BaseModel | None = None):
        super().__init__(config)
        self.model = self.build_class() if model is None else model
        self.gradient_checkpointing = False
        layers = [*self.model.get_submodule("layers").children()]
        self._no_split_modules = sorted({type(one).__name__ for one in layers})
        self._arrived: dict[str, torch.Tensor] = {}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leaves weights as they are: they come from a checkpoint."""

    @classmethod
    def from_pretrained(cls, source: str | Path, *_: Any, **options: Any) -> Any:
        """Loads the weights of a checkpoint folder or hub id into a build's model.

        Takes what `from_pretrained` of transformers takes, of which `config`, `dtype`,
        `device_map` and `generation_config` do something, and `allow_config_drift` of
        `load`. Raises ValueError for what a build cannot do, such as another
        `attn_implementation`, and WeightsError as `load` does.
        """
        asked = loading_options(options)
        folder = find_folder(source, **asked.hub)
        drifts = asked.load.get("allow_config_drift", False)
        if not _lies_beside(cls.build_class, COMPILED):
            refuse_drift(str(folder / COMPILED), [folder], drifts)
        model = load(
            cls.build_class,
            cls.weights,
            folder,
            device=asked.first_device,
            dtype=asked.dtype,
            **asked.load,
        )
        found = cls.around(model, asked.config, asked.generation_config)
        for key, value in asked.of_config.items():
            if not hasattr(found.config, key):
                raise ValueError(
                    f"from_pretrained() of a build takes no {key}={value!r:.60}, and "
                    "the config has no key of that name."
                )
            setattr(found.config, key, value)
        found = asked.placed(found)
        return (found, asked.info) if asked.wants_info else found

    @classmethod
    def around(
        cls,
        model: BaseModel,
        config: Any = None,
        generation_config: Any = None,
    ) -> Any:
        """Returns a PreTrainedModel around a loaded model, which shares its weights.

        `config` defaults to that of the folder that the weights are from. Raises
        ValueError where it is the config of another model.
        """
        of_kind(
            model,
            cls.build_class,
            f"{type(model).__name__} is not the model of this build: give what its "
            "load() returned.",
        )
        folder = model.folders[-1] if model.folders else None
        if config is None:
            found = config_of(folder, model)
        else:
            _refuse_other(config, model)
            found = config
        wrapped = cls(found, model)
        for path, weight in [*model.named_parameters()]:
            if packed := getattr(weight, "unpacked", None):
                set_parameter(model, path, packed())  # training writes to weights
                model.engine = None
        for weight in model.parameters():
            weight.requires_grad_(weight.is_floating_point())
        found.dtype = model.dtype
        if wrapped.can_generate():
            wrapped.generation_config = generation_config or _generation(folder, found)
        return wrapped.eval()

    @property
    def device(self) -> torch.device:
        """The device of the weights, or where they are brought for a call."""
        hook = getattr(self, "_hf_hook", None)
        place = getattr(hook, "execution_device", None)
        return self.model.device if place is None else torch.device(place)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; codes of quantised ones have their own."""
        found: torch.dtype = self.model.dtype
        return found

    @contextmanager
    def _running(self, **taps: Any) -> Iterator[Tapped]:
        """Runs the model within on operations that have a gradient where one is asked
        for, and that give away or take what `taps` say."""
        own = self.model.ops
        needs = torch.is_grad_enabled() and any(
            weight.requires_grad for weight in self.model.parameters()
        )
        # Kernels have no backward; the reference computes the same.
        ops = reference() if needs else own or operations(self.device.type)
        tapped = Tapped(ops, self.model, **taps)
        self.model.ops = tapped.operations
        checkpointed = self.gradient_checkpointing and self.training and needs
        try:
            with tapped.watching(self._checkpoint if checkpointed else None):
                yield tapped
        finally:
            self.model.ops = own

    def _checkpoint(self, function: Any, *inputs: Any) -> Any:
        return self._gradient_checkpointing_func(function, *inputs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """Keeps of each layer only its input for the way back, and computes the rest
        again."""
        asked = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        if asked["use_reentrant"]:
            raise ValueError(
                "use_reentrant=True loses the gradients of what layers share, such as "
                "rope tables and keys of other layers; leave it out."
            )
        function = _checkpointing(asked)
        self._set_gradient_checkpointing(True, gradient_checkpointing_func=function)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """Is what newer versions of transformers call it."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Returns a module that looks ids up as the model does; its `weight` is the
        model's own."""
        found: Any = self.__dict__.get("_embeddings")
        if found is None:
            found = Embeddings(self.model, self._looked_up())
            self.__dict__["_embeddings"] = found  # no submodule: its weight has a name
        return found  # type: ignore[no-any-return]

    def _looked_up(self) -> Lookup:
        """Returns the first operation on ids."""
        with self._running(find=True), torch.no_grad():
            try:
                self._first_call(
                    torch.zeros(1, 1, dtype=torch.int64, device=self.device)
                )
            except Found as found:
                return found.lookup
        raise ValueError("this model looks no ids up.")

    def _first_call(self, ids: torch.Tensor) -> None:
        """Calls the emitted model with ids [1, 1]."""
        raise NotImplementedError

    def _inputs(
        self, ids: torch.Tensor | None, embeds: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns ids, or zeros in their place, and embeddings where these are to be
        taken."""
        if embeds is not None and ids is None:
            shape = embeds.shape[:2]
            return torch.zeros(shape, dtype=torch.int64, device=embeds.device), embeds
        if ids is None or embeds is not None:
            raise ValueError("give either input_ids or inputs_embeds.")
        looking: Any = self.__dict__.get("_embeddings")
        # Who hooks the look-up wants to see or change what it gives.
        hooked = looking is not None and bool(looking._forward_hooks)
        return ids, looking(ids) if hooked else None

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Raises ValueError: a build has the vocabulary that it was compiled with."""
        raise ValueError(_FIXED)

    def resize_token_embeddings(
        self, new_num_tokens: Any = None, *_: Any, **__: Any
    ) -> Any:
        """Returns the embeddings where the size is as it was. Raises ValueError for
        another: a build has the vocabulary that it was compiled with."""
        if new_num_tokens in (None, self.model.vocab_size):
            return self.get_input_embeddings()
        raise ValueError(_FIXED)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Writes the weights under their published names, as `build.save` does, with
        the config as it is now. What lies in the folder is replaced file by file.

        Raises WeightsError for weights that cannot be written so. Refuses
        `push_to_hub`, and ignores how large files shall be: they are as published.
        """
        from .saving import into_folder

        if options.get("push_to_hub"):
            raise ValueError("push_to_hub: save to a folder, and upload that.")
        if not is_main_process:
            return
        into_folder(
            self.model, Path(save_directory), state_dict, self.base_model_prefix
        )
        self.config.save_pretrained(save_directory)
        if self.can_generate():
            self.generation_config.save_pretrained(save_directory)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Takes weights by the names of this model, or as `save_pretrained` wrote
        them."""
        own = {
            f"{self.base_model_prefix}.{path}"
            for path, _ in self.model.named_parameters()
        }
        if not state_dict or own & state_dict.keys():
            return super().load_state_dict(state_dict, strict, assign)
        from .saving import take

        self._arrived |= state_dict
        missing, left = take(self.model, self._arrived)
        if strict and (missing or left):
            raise WeightsError(
                f"{len(missing)} parameters of this model are not in the weights given "
                f"({', '.join(missing[:3])}), and {len(left)} tensors are of none."
            )
        if not missing:
            self._arrived = {}
        return nn.modules.module._IncompatibleKeys(missing, [])


_FIXED = (
    "a build has the vocabulary that it was compiled with: change vocab_size in the "
    "config and the weights, and compile that."
)


def reference() -> ModuleType:
    """Returns the build's operations in plain torch."""
    return importlib.import_module(".reference", __package__)


def _checkpointing(options: Mapping[str, Any]) -> Any:
    from torch.utils.checkpoint import checkpoint

    def run(function: Any, *inputs: Any) -> Any:
        return checkpoint(function, *inputs, **options)

    return run


def _lies_beside(model_class: type[BaseModel], name: str) -> bool:
    file = getattr(sys.modules.get(model_class.__module__), "__file__", None)
    return file is not None and Path(file).with_name(name).is_file()


def config_of(folder: Path | None, model: BaseModel) -> Any:
    """Returns the config beside the weights, as transformers' own class where it knows
    the type; else with the sizes that tools look for under the names they know."""
    file = None if folder is None else folder / "config.json"
    said = read_object(file, MEGABYTE, finite=False) if file and file.is_file() else {}
    if said.get("model_type") in CONFIG_MAPPING:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kept = {key: value for key, value in said.items() if key not in NAMED_ELSEWHERE}
    kind = said.get("model_type", "glmc_build")
    made = type("BuildConfig", (PlainConfig,), {"model_type": kind, **sizes(model)})
    return made(**kept)


def sizes(model: BaseModel) -> dict[str, Any]:
    """Returns sizes and special tokens of a model by the names that tools know."""
    eos: Sequence[int] = getattr(model, "eos_token_id", ())
    found = {
        "vocab_size": model.vocab_size,
        "num_hidden_layers": len([*model.get_submodule("layers").children()]),
        "max_position_embeddings": model.max_positions,
        "eos_token_id": [*eos] if len(eos) > 1 else next(iter(eos), None),
        "pad_token_id": getattr(model, "pad_token_id", None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _refuse_other(config: Any, model: BaseModel) -> None:
    """Refuses the config of another model than the one that was compiled."""
    file = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    compiled = compiled_beside(file)
    if compiled is None:
        return
    changed = differences(compiled, settled(config.to_dict(), compiled))
    if changed:
        raise ValueError(Drift("the config given", changed).refusal())


def refuse(options: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Refuses what a call asks for and a build does not do."""
    for name, value in options.items():
        if name not in known and value is not None and value is not False:
            why = ": its kernels keep no weights of attention" * (
                name == "output_attentions"
            )
            raise ValueError(f"a build does not obey {name}={value!r:.60}{why}.")


def _generation(folder: Path | None, config: Any) -> Any:
    if folder is not None and (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)
