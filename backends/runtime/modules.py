"""The base of every emitted model, whatever it answers."""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import torch
from torch import nn

from .devices import MACHINES, OPERATIONS, TARGET

if TYPE_CHECKING:
    from .cache import Cache
    from .graphs import Recorder
    from .recipes import Bind
    from .state import Declared


def parameter(*shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
    """Makes an uninitialised weight; loading gives it its values and, without `dtype`,
    the dtype of the model."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


class Machine(Protocol):
    """A module with the needs of a kind of device beside its operations."""

    def ready(self, operations: ModuleType) -> None:
        """Prepares the operations before the first call."""

    def packing(
        self, dtype: torch.dtype
    ) -> Callable[[str, torch.Tensor], torch.Tensor] | None:
        """Returns what lays out the weights of a model of that dtype, given the path of
        each and the weight, whose memory it may take. None: they stay as they are."""

    def loaded(self, model: "BaseModel") -> None:
        """Takes a model whose weights lie on the device."""

    def recorder(self, device: torch.device) -> "Recorder | None":
        """Returns the recorder of decode steps on a device; None: there is none."""


class Engine(Protocol):
    """A program that computes what `run` of a model does, in one call."""

    def serves(self, model: Any, ids: torch.Tensor, cache: "Cache") -> bool:
        """Tells whether it computes what the model means now."""

    def run(
        self,
        model: Any,
        ids: torch.Tensor,
        pos: torch.Tensor,
        cache: "Cache",
        keep: int,
    ) -> torch.Tensor:
        """Returns what `run` of the model does."""


def machine(device_type: str) -> Machine | None:
    """Returns the module for a kind of device; None where it needs nothing."""
    name = MACHINES.get(device_type)
    if name is None:
        return None
    return cast(Machine, importlib.import_module(f".{name}", __package__))


#: Kind of device to its operations, once they were called: a table, and no cache of a
#: function, as torch.compile reads the one and not the other.
_READY: dict[str, ModuleType] = {}


def operations(device_type: str) -> ModuleType:
    """Returns the build's module of operations for a kind of device, ready to be
    called."""
    found = _READY.get(device_type)
    if found is None:
        found = _READY[device_type] = _made_ready(device_type)
    return found


def _made_ready(device_type: str) -> ModuleType:
    """Imports operations, and readies them. Where the build has none for a kind of
    device the reference runs, and a warning says so."""
    name = OPERATIONS.get(device_type)
    if name is None:
        warnings.warn(
            f"this build was compiled for the target {TARGET} and has no "
            f"operations for {device_type!r}: those of reference.py run, in plain torch"
            ", which is slower. `glmc compile --target` makes a build for another.",
            stacklevel=4,
        )
        return importlib.import_module(".reference", __package__)
    found = importlib.import_module(f".{name}", __package__)
    if wants := machine(device_type):
        wants.ready(found)
    return found


def item(output: tuple[Any, ...], key: Any) -> Any:
    """Returns a field of a named tuple by name, or items by index or slice."""
    return getattr(output, key) if isinstance(key, str) else tuple(output)[key]


class Block(nn.Module):
    """A module that shows its own weights when it is printed."""

    #: What a layer keeps from one call to the next.
    states: ClassVar[Mapping[str, "Declared"]] = {}

    def extra_repr(self) -> str:
        return "\n".join(
            f"{name}: {str(weight.dtype).removeprefix('torch.')}{list(weight.shape)}"
            for name, weight in self.named_parameters(recurse=False)
        )


class BaseModel(Block):
    """The base of all models, whatever they answer."""

    #: Positions that exist (learned embeddings), or None where any will do.
    max_positions: ClassVar[int | None] = None
    vocab_size: ClassVar[int]
    default_dtype: ClassVar[torch.dtype]

    #: The module of operations; None takes the one that the build's `devices` names
    #: for where the weights are.
    ops: ModuleType | None = None
    #: What computes in the place of `run`, where the build has such a thing and `ops`
    #: is None.
    engine: Engine | None = None

    #: The file that has the weights as the engine reads them, where one is kept.
    packed_in: Path | None = None

    #: The folders that the weights are from, and what each parameter is made of there.
    folders: tuple[Path, ...] = ()
    bound: "tuple[Bind, ...]" = ()

    def described(self, folders: Sequence[Path]) -> None:
        """Takes the folders that the weights are from, for what other files there
        say."""

    def held(self, binds: "Sequence[Bind]") -> "Sequence[Bind]":
        """Returns the parameters, by their bindings, that are held here: all of them,
        but where others hold layers of the model."""
        return binds

    def keep_cache_as(self, name: str) -> None:
        """Raises ValueError: this model keeps no keys and values."""
        raise ValueError(
            f"cache_dtype={name!r} is for models that generate, which keep keys and "
            "values of the tokens before; this model keeps none. Leave it out."
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        places = [p.device for p in self.parameters()]
        # Weights that are brought when they are needed lie on no device until then.
        return next((one for one in places if one.type != "meta"), places[0])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; codes of quantised ones have their own."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())
