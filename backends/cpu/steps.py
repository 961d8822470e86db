"""Emit steps.py: what the engine has to know of the C++, and the steps that stay with
the reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from glmc.backends.cpu.layout import Layout, Place
from glmc.backends.cpu.plan import Plan, Step
from glmc.backends.emit import STATE, lines
from glmc.backends.layout import assignment, bracketed, call, repeated
from glmc.ir.state import StateType
from glmc.ir.types import TensorType


def view(plan: Plan, layout: Layout) -> Mapping[str, Any]:
    """Return the variables of steps.py.j2."""
    blocks = plan.program.blocks
    rows = any(step.given for step in plan.steps)
    constants = [place for place in layout.model if place.constant]
    computed = [f'"{one.name}": ops.{one.constant}' for one in constants]
    text = "".join(computed)
    return {
        "imports": [*(["Rows"] if rows else []), *(["Step"] if plan.steps else [])],
        "cpu": "CPU" in text,
        "zero": "ZERO" in text,
        "model": _pairs("MODEL = (", layout.model, 0),
        "layers": _table(
            "LAYERS",
            [(block.name, _pairs("(", layout.block(block), 4)) for block in blocks],
        ),
        "states": _table(
            "STATES",
            [(b.name, _names([s.name for s in layout.states(b)])) for b in blocks],
        ),
        "schedule": assignment(
            "SCHEDULE", repeated([f'"{b.name}"' for b in plan.program.schedule()]), 0
        ),
        "constants": bracketed("return {", computed, "}", 4),
        "functions": [_function(plan, step) for step in plan.steps],
        "steps": _steps(plan),
    }


def _pairs(before: str, places: Sequence[Place], indent: int) -> str:
    items = [f'("{one.name}", "{one.kind}")' for one in places]
    return _tuple(before, items, indent)


def _names(names: Sequence[str]) -> str:
    return "(" + ", ".join(_trailing([f'"{name}"' for name in names])) + ")"


def _tuple(before: str, items: Sequence[str], indent: int) -> str:
    """Lay out a tuple; its lines, if there are several, all end in commas."""
    text = bracketed(before, items, ")", indent)
    return f"{text[:-1]},)" if len(items) == 1 and "\n" not in text else text


def _trailing(items: Sequence[str]) -> list[str]:
    """Give the only item of a tuple its comma."""
    return [f"{items[0]},"] if len(items) == 1 else list(items)


def _table(name: str, rows: Sequence[tuple[str, str]]) -> str:
    items = [f'"{key}": {value}' for key, value in rows]
    return bracketed(f"{name} = {{", items, "}", 0)


def _name(step: Step) -> str:
    return f"{step.graph.name}_{step.number}"


def _function(plan: Plan, step: Step) -> Mapping[str, Any]:
    states = [name for name in step.own if _is_state(step, name)]
    given = [*step.given, *(name for name in step.own if name not in states)]
    written = {
        name: f"{STATE}.{_state_of(step, name)}"
        for name in states
        if step.graph.state(name) is None
    }
    graph = step.graph.replace(
        ops=step.ops, returns=(*step.made, *step.kept) or step.graph.returns
    )
    body = [f"{name} = {of}" for name, of in written.items()]
    body += lines(graph, 4)
    results = [*step.made, *step.kept]
    return {
        "name": _name(step),
        "signature": ", ".join(["self", STATE, "ops", *given]),
        "lines": body,
        "returns": "(" + ", ".join(_trailing(results)) + ")",
    }


def _is_state(step: Step, name: str) -> bool:
    return isinstance(step.graph.types[name], StateType)


def _state_of(step: Step, name: str) -> str:
    """Return the state that a value is after a write."""
    while step.graph.state(name) is None:
        op = step.graph.producers[name]
        name = next(of for _, access, of in op.states() if access == "write")
    return name


def _steps(plan: Plan) -> str:
    rows = list(map(_step, plan.steps))
    return _tuple("STEPS = (", rows, 0)


def _step(step: Step) -> str:
    own = [name for name in step.own if not _is_state(step, name)]
    arguments = [_name(step)]
    if step.given:
        given = [_rows(step.graph.types[name]) for name in step.given]
        arguments.append(f"given=({', '.join(_trailing(given))})")
    if own:
        arguments.append(f"own={_names(own)}")
    if step.made:
        arguments.append(f"made={len(step.made)}")
    if step.kept:
        arguments.append(f"kept={_names(step.kept)}")
    return call("", "Step", arguments, 4, tail="")


def _rows(kind: object) -> str:
    assert isinstance(kind, TensorType)
    sizes = ", ".join(_trailing([str(dim) for dim in kind.dims[2:]]))
    own = {"f32": ", exact=True", "i64": ", whole=True"}.get(kind.dtype, "")
    return f"Rows(({sizes}){own})"
