"""The kernels of a whole model: the forms of its ops, and their names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from glmc.backends import layout
from glmc.backends.triton import forms, tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.uses import OpUse
from glmc.ir.op import Op

# What a launcher asks for beside what a call gives, by what it gives.
_WITH = {
    "top_k": ("scale",),
    "a_log": ("scale",),
    "beta": ("factor",),
    "groups": ("top_groups",),
    "q_norm": ("eps",),
    "g": ("scale",),
    "rate": ("power",),
    "most": ("scale", "eps"),
    "style": ("first",),
    "heads": ("scale", "reach"),
    "factors": ("at",),
}


@dataclass(frozen=True)
class Part:
    """A piece of kernels.py: a template and its variables. Pieces with equal text are
    emitted once."""

    template: str
    variables: Mapping[str, object]


def part(template: str, **variables: object) -> Part:
    """Return a piece of kernels.py."""
    return Part(template, variables)


def cores() -> Part:
    """Return the number of cores that tiles and splits are chosen for."""
    return part("cores", cores=tiles.CORES)


@dataclass(frozen=True)
class Model:
    """The ops of a model, as its layers use them.

    uses  those that have kernels, and what their launchers call in turn
    lost  those that have none
    """

    uses: Sequence[OpUse]
    lost: Sequence[OpUse]

    def of(self, *ops: str) -> list[OpUse]:
        """List the uses of some ops that have kernels."""
        return [use for use in self.uses if use.name in ops]

    def forms(self, *ops: str) -> list[Form]:
        """List the forms of some ops."""
        return forms.forms(self.of(*ops))

    def launcher(self, form: Form) -> str:
        """Return the name of the function that launches a form: the op's, where the
        form is its only one."""
        other = any(use.name == form.op for use in self.lost)
        alone = len(self.forms(form.op)) <= 1 and not other
        return form.op if alone else f"_{self.name(form)}"

    def name(self, form: Form) -> str:
        """Return a form's name: the op's, with a suffix that tells it from the
        others."""
        return form.op + forms.suffix(form, self.forms(form.op))

    def part(self, base: str, form: Form, *choices: str, ops: Iterable[str]) -> str:
        """Name a part that depends on some choices only, and is shared by all forms of
        some ops that agree in these."""
        among = {other.only(*choices) for other in self.forms(*ops)}
        return base + forms.suffix(form.only(*choices), sorted(among, key=repr))

    def head(self, op: str, name: str) -> Lines:
        """Write ``def name(…):`` with the parameters of an op that any call gives."""
        positional, keywords = self.parameters(op)
        stars = ["*"] if keywords else []
        given = [*positional, *stars, *keywords]
        return [layout.bracketed(f"def {name}(", given, "):", 0)]

    def parameters(self, op: str) -> tuple[list[str], list[str]]:
        """Return an op's required operands, and with their defaults the keywords that
        it needs or that any call gives."""
        uses = [use for use in (*self.uses, *self.lost) if use.name == op]
        given = {name for use in uses for name in (*use.operands, *use.attrs)}
        told = forms.differing(forms.forms(uses))
        given |= forms.named(op, told)
        with_ = (also for name, also in _WITH.items() if name in given)
        given |= set().union(*with_)
        return parameters(forms.op_class(op), given)


def parameters(cls: type[Op], passed: set[str]) -> tuple[list[str], list[str]]:
    """Return the positional and the keyword parameters of an op, the latter with their
    defaults."""
    operands = cls.operand_fields()
    positional = [name for name, (_, required) in operands.items() if required]
    keywords = [
        f"{name}=None"
        for name, (_, required) in operands.items()
        if not required and name in passed
    ]
    for name in cls.attribute_fields():
        field = cls.model_fields[name]
        if field.is_required():
            keywords.append(name)
        elif name in passed:
            keywords.append(f"{name}={_literal(field.default)}")
    return positional, keywords


def _literal(value: object) -> str:
    """Write a Python literal, with the quotes that ruff writes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)
