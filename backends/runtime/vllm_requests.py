"""States of a request, such as those of mixers, as vLLM keeps them: one page for each
request, found by the metadata of a step."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .state import PerRow
from .vllm_interface import BY_REQUEST, MambaBase, register_layer, step_of


class Rows:
    """The states of a request that a kind of layer declares, as `states` of its class
    has them; those of other kinds are left out."""

    def __init__(self, states: Mapping[str, Any]):
        found = [(k, kept) for k, kept in states.items() if isinstance(kept, PerRow)]
        # In a page they lie one after the other: first those of the widest elements.
        found.sort(key=lambda one: one[1].dtype is None)
        self.states = dict(found)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Returns the shape of each state, in the order of a page."""
        return tuple(kept.sizes for kept in self.states.values())

    def dtypes(self, model: torch.dtype) -> tuple[torch.dtype, ...]:
        """Returns the dtype of each, in a model of the dtype `model`."""
        return tuple(kept.dtype or model for kept in self.states.values())

    def layer(self, place: Any) -> "RequestStates":
        """Makes a layer that vLLM keeps the states of."""
        return RequestStates(self, place.name, torch.get_default_dtype())


class RequestStates(nn.Module, MambaBase):  # type: ignore[misc, unused-ignore]
    """The states of one layer, for all requests."""

    def __init__(self, rows: Rows, name: str, dtype: torch.dtype):
        super().__init__()
        self.rows = rows
        self.name = name
        self.dtype = dtype
        self.kv_cache = tuple(torch.tensor([]) for _ in rows.states)
        register_layer(name, self)

    def get_state_shape(self) -> tuple[tuple[int, ...], ...]:
        """Is vLLM's question."""
        return self.rows.shapes()

    def get_state_dtype(self) -> tuple[torch.dtype, ...]:
        """Is vLLM's question."""
        return self.rows.dtypes(self.dtype)

    @property
    def mamba_type(self) -> Any:
        """Is vLLM's question."""
        return BY_REQUEST

    def by_name(self) -> dict[str, "RequestState"]:
        """Returns each state by its name."""
        names = enumerate(self.rows.states)
        return {name: RequestState(self, at) for at, name in names}


@dataclass(frozen=True)
class RequestState:
    """One state of a layer: the place `at` of a page."""

    of: RequestStates
    at: int

    def read(self, group: "Group", device: torch.device) -> torch.Tensor:
        """Returns the state of each request of a group [R, ...], zeros for those that
        begin."""
        shape = self.of.get_state_shape()[self.at]
        if group.pages is None:
            dtype = self.of.get_state_dtype()[self.at]
            return torch.zeros((1, *shape), dtype=dtype, device=device)
        rows = self.of.kv_cache[self.at][group.pages]
        begin = group.begins.view(-1, *[1] * len(shape))
        return torch.where(begin, 0, rows)

    def write(self, group: "Group", rows: torch.Tensor) -> None:
        """Keeps the state of each request of a group."""
        if group.pages is not None:
            self.of.kv_cache[self.at][group.pages] = rows


@dataclass(frozen=True)
class Group:
    """Requests with equally many tokens in a step, which lie after one another."""

    tokens: slice
    each: int
    """The tokens of each request."""
    pages: torch.Tensor | None
    """The pages with the states of each; None while vLLM only warms up."""
    begins: torch.Tensor
    """True for those that have no tokens from before."""


def groups(step: Any, tokens: int) -> list[Group]:
    """Returns the requests of a step: those with one token together, as vLLM puts them
    first, and each of the others by itself. Tokens beyond the last request are those
    that vLLM fills a step up with."""
    if step is None:
        return [Group(slice(0, tokens), tokens, None, torch.zeros(0))]
    known: list[Group] | None = getattr(step, "groups_of_build", None)
    if known is None:
        known = list(_groups(step))
        step.groups_of_build = known  # the same for all layers
    return known


def _groups(step: Any) -> Iterator[Group]:
    starts: list[int] = step.query_start_loc.tolist()
    lengths = torch.diff(step.query_start_loc)
    count = step.num_decodes + step.num_prefills
    pages = step.state_indices_tensor
    begins = (step.seq_lens[: len(lengths)] - lengths)[:count] <= 0
    at = 0
    while at < count:
        each = starts[at + 1] - starts[at]
        to = at + 1
        while each == 1 and to < count and starts[to + 1] - starts[to] == 1:
            to += 1
        rows = slice(at, to)
        if each:
            yield Group(slice(starts[at], starts[to]), each, pages[rows], begins[rows])
        at = to


class View:
    """One state of some requests, as operations read and overwrite it."""

    start = None
    past = 0

    def __init__(self, rows: torch.Tensor):
        self.rows = rows
        self.position = torch.zeros(1, dtype=torch.int32, device=rows.device)


def each_request(
    op: Callable[..., Any],
    values: Sequence[str],
    states: Sequence[str],
    rings: Sequence[str] = (),
) -> Callable[..., Any]:
    """Returns an operation on the tokens of all requests of a step.

    `values` are the arguments [1, N, ...] of `op` that have something of each token,
    `states` those that are states, `rings` those of them where the token in slot s lies
    in column s % W. Requests have other lengths, so that in vLLM's pages a ring is
    turned until the next token is the first.
    """
    signature = inspect.signature(op)

    def run(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named).arguments
        kept: dict[str, RequestState] = {name: bound[name] for name in states}
        first = bound[values[0]]
        step = step_of(kept[states[0]].of.name)
        made, pair = [], False
        for group in groups(step, first.shape[1]):
            views = {k: View(one.read(group, first.device)) for k, one in kept.items()}
            given = {k: _tokens(bound.get(k), group) for k in values if k in bound}
            y = op(**bound | given | views)
            pair = isinstance(y, tuple)
            y = y[0] if isinstance(y, tuple) else y
            made.append(y.reshape(1, -1, *y.shape[2:]))
            for name, view in views.items():
                turned = view.rows.roll(-group.each, 2) if name in rings else view.rows
                kept[name].write(group, turned)
        y = _filled(torch.cat(made, 1), first.shape[1])
        return (y, bound[states[-1]]) if pair else y

    return run


def _tokens(x: torch.Tensor | None, group: Group) -> torch.Tensor | None:
    """Returns what a group has of `x` [1, N, ...], as [R, T, ...]."""
    if x is None:
        return None
    return x[0, group.tokens].reshape(-1, group.each, *x.shape[2:])


def _filled(y: torch.Tensor, tokens: int) -> torch.Tensor:
    """Returns `y` [1, n, ...] with zeros up to the tokens of a step."""
    missing = tokens - y.shape[1]
    if not missing:
        return y
    return torch.cat((y, y.new_zeros(1, missing, *y.shape[2:])), 1)
