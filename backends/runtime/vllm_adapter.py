"""A build's model as vLLM calls it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from .drift import COMPILED, refuse_drift
from .faults import WeightsError
from .modules import BaseModel
from .recipes import Recipe
from .vllm_interface import copied_whole, device_type, support_torch_compile
from .vllm_laid_out import lay_out
from .vllm_layers import Cache, Row
from .vllm_registration import refuse_ranks
from .vllm_requests import Rows
from .vllm_weights import load_arriving

#: Keys of `hf_overrides` that change nothing of what a build computes.
HARMLESS = ("architectures", "quantization_config")


class ServedModel(BaseModel):
    """An emitted model in two parts, as `vllm_model` has it; a type."""

    layers: nn.ModuleList

    def to_hidden(
        self, ids: torch.Tensor, pos: torch.Tensor, cache: Any, ops: ModuleType
    ) -> torch.Tensor:
        """Returns hidden states [1, N, E] of `ids` int32 [1, N] at `pos` int64
        [1, N]: the tokens of all requests of a step, one after the other."""
        raise NotImplementedError

    def to_logits(self, hidden: torch.Tensor, ops: ModuleType) -> torch.Tensor:
        """Returns logits [1, R, V] of hidden states [1, R, E]."""
        raise NotImplementedError


def is_traced(config: Any) -> bool:
    """Tells whether vLLM may compile the body: where its operations are torch's. Those
    for GPUs are kernels already, and states of a request are looked up in Python."""
    model = config.model_config
    return device_type() == "cpu" and not model.is_hybrid


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": 0}, enable_if=is_traced
)
class Body(nn.Module):
    """The layers of a model up to its hidden states, which vLLM may compile."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", served: "CausalLM"):
        super().__init__()
        self.model = served.build_class()
        self.ops = served.operations
        at = f"{prefix}." if prefix else ""
        self.cache = Cache(vllm_config, self.model.layers, served.rows, at)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns hidden states [N, E] of `input_ids` int32 [N] at `positions` int64
        [N]."""
        return self.model.to_hidden(
            input_ids[None], positions[None], self.cache, self.ops
        )[0]


class CausalLM(nn.Module):
    """A decoder in vLLM. An emitted class says of which build; vLLM calls the rest."""

    #: The emitted model, its binding table, its operations, what vLLM's layers are
    #: made with for each layer, and the positions from which on tables hang on the
    #: longest text of a call.
    build_class: ClassVar[type[ServedModel]]
    weights: ClassVar[Any]
    operations: ClassVar[ModuleType]
    rows: ClassVar[Sequence[Row]]
    steady_until: ClassVar[int | None] = None
    #: Matrices that only products without a bias read.
    laid_out: ClassVar[Sequence[str]] = ()
    #: The ranks that the build was compiled for.
    count: ClassVar[int] = 1

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        refuse(type(self), vllm_config)
        self.model = Body(vllm_config=vllm_config, prefix=prefix, served=self)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Raises ValueError: the table of embeddings is a part of the body."""
        raise ValueError("a build looks up its embeddings itself, of ids; give ids.")

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns hidden states [N, E] of `input_ids` int32 [N] at `positions` int64
        [N]. Raises ValueError for embeddings in the place of ids."""
        if inputs_embeds is not None:
            self.embed_input_ids(inputs_embeds)
        hidden: torch.Tensor = self.model(input_ids, positions)
        return hidden

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns logits [R, V] of hidden states [R, E]."""
        return self.model.model.to_logits(hidden_states[None], self.operations)[0]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fills the parameters; returns their names. Raises ValueError where these are
        not the weights of this model."""
        try:
            filled = load_arriving(
                self.model.model, self.weights, weights, self.own_part
            )
        except WeightsError as error:
            raise ValueError(str(error)) from error
        if self.laid_out and self.operations.lays_out:
            lay_out(self.model.model, self.laid_out)
        return {f"model.model.{name}" for name in filled}

    def own_part(self, recipe: Recipe) -> Recipe:
        """Returns the recipe of what this process has of a parameter: all of it."""
        return recipe


class HybridLM(CausalLM):
    """A decoder some of whose layers keep states of a request."""

    is_hybrid: ClassVar[bool] = True
    has_inner_state: ClassVar[bool] = True

    @classmethod
    def states(cls) -> Rows:
        """Returns what each layer with states of a request keeps; raises ValueError
        where they keep different things, as vLLM's pages are all alike."""
        found = [kind for row in cls.rows for kind in row.values()]
        rows = [kind for kind in found if isinstance(kind, Rows)]
        if any(one.shapes() != rows[0].shapes() for one in rows):
            raise ValueError("the layers of this model keep states of several shapes.")
        return rows[0]

    @classmethod
    def get_mamba_state_shape_from_config(cls, vllm_config: Any) -> Any:
        """Is vLLM's question."""
        return cls.states().shapes()

    @classmethod
    def get_mamba_state_dtype_from_config(cls, vllm_config: Any) -> Any:
        """Is vLLM's question."""
        return cls.states().dtypes(vllm_config.model_config.dtype)

    @classmethod
    def get_mamba_state_copy_func(cls) -> Any:
        """Is vLLM's question: how each state is copied from page to page, where the
        beginning of a text is kept for other requests."""
        return (copied_whole,) * len(cls.states().states)

    @classmethod
    def get_mamba_state_copy_funcs(cls, mamba_types: Any) -> Any:
        """Is vLLM's question: the same, for each kind of layer."""
        return dict.fromkeys(mamba_types, cls.get_mamba_state_copy_func())


def refuse(served: type[CausalLM], config: Any) -> None:
    """Raises ValueError for what vLLM was asked for and a build cannot do."""
    model, name = config.model_config, served.__name__
    refuse_ranks(name, config.parallel_config, served.count)
    if config.speculative_config is not None and issubclass(served, HybridLM):
        raise ValueError(
            f"{name}: layers of this model keep states of a request, out of which a "
            "token cannot be taken again; leave --speculative-config out."
        )
    _refuse_overrides(name, model.hf_overrides)
    limits = {
        "is as far as its positions go": served.build_class.max_positions,
        "is where the rope of this model turns all keys of a text by other factors, "
        "and vLLM keeps those of one": served.steady_until,
    }
    for what, limit in limits.items():
        if limit is not None and model.max_model_len > limit:
            raise ValueError(
                f"{name}: max_model_len is {model.max_model_len}, and {limit} {what}. "
                f"Give --max-model-len {limit}."
            )
    _refuse_other_config(model)


def _refuse_overrides(name: str, asked: Any) -> None:
    """Refuses changes of the config that a build, which is compiled, cannot follow."""
    called = callable(asked)
    keys = [] if called else [key for key in asked or () if key not in HARMLESS]
    if called or keys:
        what = "by a function" if called else ", ".join(map(str, keys))
        raise ValueError(
            f"{name} is a build of glmc and computes what was compiled: hf_overrides "
            f"({what}) cannot change it. Compile the model again with --set."
        )


def _refuse_other_config(model: Any) -> None:
    """Refuses a checkpoint whose config is not the one that was compiled."""
    folder = Path(model.model)
    if not folder.is_dir():
        folder = _cached(model)
    here = Path(__file__).with_name(COMPILED)
    try:
        refuse_drift(str(here), [folder], allowed=False)
    except WeightsError as error:
        raise ValueError(str(error)) from error


def _cached(model: Any) -> Path:
    """Returns the folder of a hub id, in the cache to which vLLM has fetched it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.model, "config.json", revision=model.revision)
    if not isinstance(found, str):
        raise ValueError(
            f"the config.json of {model.model} is not in the hub's cache, so that it "
            "cannot be compared with the one that was compiled: give vLLM a folder."
        )
    return Path(found).parent
