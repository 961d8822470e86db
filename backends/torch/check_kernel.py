"""Run as a module, by ``own_kernels``: hold a user's kernel against the reference.

Reads a JSON object from stdin (``op``, ``file``, ``model``, ``target``, ``disable``)
and answers with one: ``worst``, or ``error`` with the reason. A small model runs with
the reference ops; each call of the op is made a second time with the user's function.
"""

import copy
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import State
from glmc.backends.target import target
from glmc.backends.torch import ops
from glmc.backends.torch.execute import Executor, run_batch
from glmc.backends.torch.weights import random_checkpoint
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.op import Op
from glmc.ir.text import parse_model

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2}
"""Difference allowed, relative to the largest value where that is above 1."""


class Refused(Exception):
    """A kernel that must not be used; the message says why."""


class Checker(Executor):
    """The reference, with each call of one op made by the user's function too."""

    def __init__(self, program: Program, op: str, own: Callable[..., Any]) -> None:
        super().__init__(program, random_checkpoint(program))
        self._op, self._own = op, own
        self.calls, self.worst = 0, 0.0

    def cache(self, batch: int, capacity: int) -> Cache:
        """Returns an empty cache whose unwritten slots are NaN, so that reading one too
        early shows."""
        empty = super().cache(batch, capacity)
        for state in empty.own:
            for slots in _slots(state).values():
                slots[:, empty.length :] = torch.nan
        return empty

    def apply(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Returns the reference's results; the user's are compared and dropped."""
        if op.mnemonic != self._op:
            return super().apply(op, args, kwargs)
        fields = [field for field, _, _ in op.operands()]
        before, given = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
        expected = super().apply(op, args, kwargs)
        try:
            made = self._own(*given[0], **given[1])
        except Exception as error:
            raise Refused(
                f"raises {_one_line(error)} where it is {_call(op)}"
            ) from error
        pairs = dict(_results(op, made, expected))
        pairs |= _operands(fields, given, (args, kwargs), before)
        for name, (got, want) in pairs.items():
            self._compare(name, got, want, _call(op))
        self.calls += 1
        return expected

    def _compare(self, name: str, got: Any, want: torch.Tensor, where: str) -> None:
        if not isinstance(got, torch.Tensor):
            raise Refused(f"{name} is {type(got).__name__} and no tensor, for {where}")
        if (got.dtype, got.shape) != (want.dtype, want.shape):
            raise Refused(
                f"{name} is {got.dtype} {list(got.shape)} and must be {want.dtype}"
                f" {list(want.shape)}, for {where}"
            )
        if not want.numel():
            return
        scale = max(1.0, float(want.float().abs().max()))
        difference = float((got.float() - want.float()).abs().max()) / scale
        if not difference <= TOLERANCE.get(want.dtype, 0.0):
            raise Refused(f"{name} differs by {difference:.2g}, for {where}")
        self.worst = max(self.worst, difference)


def _call(op: Op) -> str:
    attributes = ", ".join(f"{k}={v!r}" for k, v in op.attributes().items())
    return f"called with {attributes}" if attributes else "called"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} ({' '.join(str(error).split())[:200]})"


def _results(op: Op, made: Any, expected: Any) -> Iterable[tuple[str, Any]]:
    wanted = expected if isinstance(expected, tuple) else (expected,)
    results = made if isinstance(made, tuple) else (made,)
    if len(results) != len(wanted):
        raise Refused(f"returns {len(results)} values, not {len(wanted)}")
    for at, (got, want) in enumerate(zip(results, wanted, strict=True)):
        name = f"result {at}" if len(wanted) > 1 else "the result"
        if isinstance(want, State):
            yield from _filled(name, got, want)
        else:
            yield name, (got, want)


def _operands(
    fields: Iterable[str],
    given: tuple[list[Any], Mapping[str, Any]],
    reference: tuple[list[Any], Mapping[str, Any]],
    before: tuple[list[Any], Mapping[str, Any]],
) -> dict[str, Any]:
    """Yields operands after the call: states as the reference leaves them, else
    untouched."""
    found: dict[str, Any] = {}
    for at, field in enumerate(fields):
        got, want, old = (
            one[1][field] if field in one[1] else one[0][at]
            for one in (given, reference, before)
        )
        if isinstance(want, State):
            found |= _filled(field, got, want)
        else:
            found[f"{field} after the call"] = (got, old)
    return found


def _filled(name: str, got: Any, want: State) -> Iterable[tuple[str, Any]]:
    """Yields the tensors of a state, of slots those that were written."""
    if not isinstance(got, type(want)):
        raise Refused(f"{name} is {type(got).__name__} and no {type(want).__name__}")
    slots = _slots(want)
    for of, right in want.tensors().items():
        mine = got.tensors()[of]
        if of in slots:
            written = torch.isfinite(slots[of][0].flatten(1)).all(-1)
            mine, right = _slots(got)[of][:, written], slots[of][:, written]
        yield f"{of} of {name}", (mine, right)


def _slots(state: State) -> dict[str, torch.Tensor]:
    """Returns the tensors that are kept for each token, with slots as dimension 1."""
    if state.slots_dim is None:
        return {}
    return {k: v.movedim(state.slots_dim, 1) for k, v in state.tensors().items()}


def load(file: str, op: str) -> Callable[..., Any]:
    """Imports the user's file and returns its function."""
    spec = importlib.util.spec_from_file_location(f"own_{op}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Refused(f"cannot be imported: {_one_line(error)}") from error
    function: Callable[..., Any] = getattr(module, op)
    return function


def check_signature(own: Callable[..., Any], op: str) -> None:
    """Hold a function's parameters against the reference's: same names, order, kinds.

    It may leave out keywords that have a default, which only some models pass: a call
    that passes one tells. Parameters of its own must have defaults.
    """
    given = inspect.signature(own).parameters
    wanted = inspect.signature(getattr(ops, op)).parameters
    shown = f"{op}{_bare(wanted)}"
    any_name = any(p.kind is p.VAR_KEYWORD for p in given.values())
    for parameter in wanted.values():
        mine = given.get(parameter.name)
        spare = any_name or parameter.default is not parameter.empty
        if mine is None and spare and parameter.kind is parameter.KEYWORD_ONLY:
            continue
        if mine is None:
            raise Refused(f"lacks the parameter {parameter.name} of {shown}")
        if parameter.default is not parameter.empty and mine.default is mine.empty:
            raise Refused(f"needs a default for {parameter.name}, as {shown} has")
    by_place = [n for n, p in wanted.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    mine_by_place = [n for n, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if mine_by_place[: len(by_place)] != by_place:
        raise Refused(f"takes its arguments in another order than {shown}")
    for name, parameter in given.items():
        open_end = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in wanted and parameter.default is parameter.empty and not open_end:
            raise Refused(f"needs {name}, which {shown} is not given")


def _bare(parameters: Mapping[str, inspect.Parameter]) -> str:
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters.values()]
    return str(inspect.Signature(bare))


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a request."""
    op = request["op"]
    try:
        own = load(request["file"], op)
        check_signature(own, op)
        program = lower(parse_model(request["model"]))
        stages = target(request["target"]).stages(program, request["disable"])
        checker = Checker([*stages][-1].program, op, own)
        run_batch(checker)
    except Refused as error:
        return {"error": str(error)}
    return {"worst": checker.worst, "calls": checker.calls}


def main() -> None:
    """Reads one request, and prints one answer."""
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the user's file prints is no answer
    print(json.dumps(check(request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
