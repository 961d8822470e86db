"""Take from a model, or put into it, what lies between ids and logits.

An emitted model calls operations of a module that it is given. Here is one to give it
that stands between: it notes the states around layers, puts embeddings in the place of
looked-up ids, and runs layers through a function, as gradient checkpointing does.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from .modules import BaseModel
from .state import LayerState

#: Operations that look ids up.
LOOKUPS = ("embedding", "quantized_embedding")
_NORMS = ("rms_norm", "layer_norm", "rms_normalize", "layer_normalize")
#: What a fused norm takes for its product, and the norm alone does not.
_OF_PRODUCTS = ("scale", "zeros", "bias", "bits", "fn", "gated", "norm_bias")


class Lookup(NamedTuple):
    """The operation that looks ids up, and its arguments but the ids: parameters by
    their names in the model."""

    operation: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    ops: Any


class Found(Exception):
    """Ends a call of a model at its first operation on ids."""

    def __init__(self, lookup: Lookup):
        super().__init__(lookup.operation)
        self.lookup = lookup


class Tapped:
    """The operations `ops` for one call of `model`.

    With `states`, `hidden` are afterwards the states [B, T, E] before the first layer
    and after each, of which the last has gone through the final norm. `embeds`
    [B, T, E] take the place of what ids are looked up as. With `find`, the call ends
    with `Found`.
    """

    def __init__(
        self,
        ops: Any,
        model: BaseModel,
        *,
        states: bool = False,
        embeds: torch.Tensor | None = None,
        find: bool = False,
    ):
        self.model = model
        self.states = states
        self.embeds = embeds
        self.find = find
        self.hidden: list[torch.Tensor] = []
        self._ops = ops
        self._within = False  # whether the last layer is done
        self._looked_up = False
        self.operations: Any = self if embeds is not None or states or find else ops

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._ops, name)
        return (
            partial(self._call, name, operation) if callable(operation) else operation
        )

    def _call(self, name: str, operation: Any, *given: Any, **named: Any) -> Any:
        if name in LOOKUPS and not self._looked_up:
            self._looked_up = True
            if self.find:
                raise Found(self._lookup(name, given[1:], named))
            if self.embeds is not None:
                self._ids = given[0]
                return self.embeds
        elif self.embeds is not None and any(one is self._ids for one in given):
            raise ValueError(
                "inputs_embeds take the place of the first look-up of ids, and this "
                f"model looks at ids again ({name}); give it input_ids."
            )
        result = operation(*given, **named)
        if self.states and self._within:
            self._within = False
            self.hidden[-1] = self._normed(name, result, given, named)
        return result

    _ids: torch.Tensor | None = None

    def _lookup(self, name: str, given: Any, named: dict[str, Any]) -> Lookup:
        paths = {id(weight): path for path, weight in self.model.named_parameters()}
        return Lookup(
            name,
            tuple(paths.get(id(one), one) for one in given),
            {key: paths.get(id(one), one) for key, one in named.items()},
            self._ops,
        )

    def _normed(self, name: str, result: Any, given: Any, named: dict[str, Any]) -> Any:
        """Returns the last states as the head multiplies them: after the norm, which
        the head may do in one operation with its product."""
        if name in _NORMS:
            return result
        if not name.endswith("_norm_linear"):
            return given[0]
        from .pretrained import reference

        norm = getattr(reference(), name.removesuffix("_linear"))
        kept = {key: one for key, one in named.items() if key not in _OF_PRODUCTS}
        bias = named.get("norm_bias")
        return norm(*given[:2], **kept, **({} if bias is None else {"bias": bias}))

    @contextmanager
    def watching(self, through: Callable[..., Any] | None) -> Iterator[None]:
        """Notes the states around layers within, if that was asked for; `through` is
        given each layer's forward and arguments, and calls it."""
        layers: list[Any] = [*self.model.get_submodule("layers").children()]
        with ExitStack() as stack:
            if self.states:
                before = layers[0].register_forward_pre_hook(self._before)
                hooks = [one.register_forward_hook(self._after) for one in layers]
                for hook in (before, *hooks):
                    stack.callback(hook.remove)
            if through is not None:
                for layer in layers:
                    stack.callback(_restored, layer, vars(layer).get("forward"))
                    layer.forward = partial(through, _Again(layer.forward))
            yield

    def _before(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self.hidden.append(_states(given))

    def _after(self, layer: nn.Module, _: Any, result: Any) -> None:
        self.hidden.append(_states(result if isinstance(result, tuple) else (result,)))
        self._within = layer is [*self.model.get_submodule("layers").children()][-1]


def _states(values: tuple[Any, ...]) -> torch.Tensor:
    """Returns the states among the values that layers hand on: the first."""
    first: torch.Tensor = values[0]
    if first.ndim != 3:
        raise ValueError(
            "this model's layers hand on several streams of states, so it has no "
            "output_hidden_states; leave them out."
        )
    return first


class _Again:
    """A layer's forward that can be run once more after the model has gone on: what is
    kept for rows begins as zeros, and the same slots are written over."""

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward
        self.past: int | None = None

    def __call__(self, *given: Any) -> Any:
        states = [state for one in given for state in _kept_in(one)]
        for state in states:
            if state.slots_dim is None:
                state.rows = torch.zeros_like(state.rows)
        if not states:
            return self.forward(*given)
        cache = states[0].cache
        now = cache.length
        self.past = now if self.past is None else self.past
        cache.length = self.past
        try:
            return self.forward(*given)
        finally:
            cache.length = now


def _kept_in(argument: Any) -> list[Any]:
    """Returns the states that a layer is given, where the argument holds them."""
    return [*vars(argument).values()] if isinstance(argument, LayerState) else []


def _restored(layer: nn.Module, forward: Any) -> None:
    """Gives a layer its forward back: its own, or that of its class."""
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


class Embeddings(nn.Module):
    """Ids [B, T] to embeddings [B, T, E], as a model looks them up; the weights are
    the model's, and not parameters of this module."""

    def __init__(self, model: BaseModel, lookup: Lookup):
        super().__init__()
        self._held = (model, lookup)  # a tuple, which is no submodule

    @property
    def weight(self) -> torch.Tensor:
        """The table [V, E]."""
        return self._filled(self._held[1].arguments[0])  # type: ignore[no-any-return]

    def _filled(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        owner, _, name = value.rpartition(".")
        return getattr(self._held[0].get_submodule(owner), name)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Looks ids up."""
        lookup = self._held[1]
        given = [self._filled(one) for one in lookup.arguments]
        named = {key: self._filled(one) for key, one in lookup.named.items()}
        found: torch.Tensor = getattr(lookup.ops, lookup.operation)(
            ids, *given, **named
        )
        return found
