"""Functions of ops with several forms: they hand a call to the launcher of its form."""

import json
import textwrap
from collections.abc import Iterator, Sequence

from glmc.backends import layout
from glmc.backends.triton import forms, placement
from glmc.backends.triton.forms import Choice, Form
from glmc.backends.triton.model import Model
from glmc.backends.triton.uses import OpUse

LINE = 88


def chooser(op: str, told: str, model: Model) -> Iterator[str]:
    """Write the function of an op that has several launchers.

    Args:
        op: its name.
        told: the expression by which a call tells that no kernel takes its sizes.
        model: the model.
    """
    made = model.forms(op)
    lost = [use for use in model.lost if use.name == op]
    if not made or model.launcher(made[0]) == op:
        return
    known, asked, unlike = set(made), [], set()
    for use in lost:
        more = placement.beyond(use)
        if not more and Form.of(use) not in known:
            unlike.add(Form.of(use))
            continue
        sizes = f"{told} == {_literal(forms.told(told, use))}" if not more else ""
        asked.append(sizes or " or ".join(_given(name, use) for name in more))
    others = sorted(unlike, key=repr)
    names = forms.differing([*made, *others])
    if names:
        yield _table(op, names, made, others, model)
    yield _function(op, names, list(dict.fromkeys(asked)), model)


def _given(name: str, use: OpUse) -> str:
    """Write the test of whether a call gives an argument."""
    return f"{name} is not None" if name in use.operands else name


def _table(
    op: str,
    names: Sequence[str],
    made: Sequence[Form],
    others: Sequence[Form],
    model: Model,
) -> str:
    """Write the dict from choices to launchers."""
    rows = [(form, model.launcher(form)) for form in made]
    rows += [(form, f"reference.{op}") for form in others]
    said = f"# Forms of {op}, by {', '.join(forms.key(names, op))}."
    return "\n".join(
        [
            *textwrap.wrap(said, LINE, subsequent_indent="# "),
            f"{_name(op)} = {{",
            *_laid(names, rows),
            "}",
        ]
    )


def _laid(names: Sequence[str], rows: Sequence[tuple[Form, str]]) -> list[str]:
    found = []
    for form, launcher in rows:
        values = [_literal(form[name]) for name in names]
        then = f": {launcher},"
        row = f"{values[0]}{then}"
        if len(values) > 1:
            row = layout.bracketed("(", values, ")", 4, then=then)
        found += f"    {row}".split("\n")
    return found


def _function(op: str, names: Sequence[str], asked: Sequence[str], model: Model) -> str:
    """Write the function of the op; unfit calls go to the reference first."""
    (head,) = model.head(op, op)
    assert isinstance(head, str)
    given = _handed(op, model)
    lines = [head, '    """Takes the launcher of the form that the call has."""']
    for question in asked:
        returned = layout.call("", f"return reference.{op}", given, 8)
        lines += [f"    if {question}:", f"        {returned}"]
    launcher = model.launcher(model.forms(op)[0])
    if names:
        keys = forms.key(names, op)
        lines.append(f"    {layout.bracketed(f'launch = {_name(op)}[', keys, ']', 4)}")
        launcher = "launch"
    lines.append(f"    {layout.call('', f'return {launcher}', given, 4)}")
    return "\n".join(lines)


def _handed(op: str, model: Model) -> list[str]:
    """Return the arguments of a call, handed on."""
    positional, keywords = model.parameters(op)
    names = [keyword.partition("=")[0] for keyword in keywords]
    return [*positional, *(f"{name}={name}" for name in names)]


def _name(op: str) -> str:
    return f"{op.upper()}_FORMS"


def _literal(value: Choice | object) -> str:
    """Write a Python literal, with the quotes that ruff writes."""
    if isinstance(value, tuple):
        return layout.tuple_of([_literal(part) for part in value], 0)
    return json.dumps(value) if isinstance(value, str) else repr(value)


def imported(module: str, names: Sequence[str]) -> str:
    """Write ``from .module import a, b``, broken where it is too long."""
    line = f"from .{module} import {', '.join(names)}"
    if len(line) <= LINE:
        return line
    each = "".join(f"    {name},\n" for name in names)
    return f"from .{module} import (\n{each})"
