"""Write the reference pages from the classes, rules and schemas themselves.

Markdown, for the site that ``make docs`` builds; nothing here is kept by hand.
"""

import inspect
import re
from collections.abc import Iterable
from itertools import starmap
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glmc.backends.target import DEFAULT, every_pass, target
from glmc.frontends import spec as language
from glmc.frontends.language import kinds, sections
from glmc.frontends.language.documented import key_docs
from glmc.ir.op import Op, registry
from glmc.ir.passes.rewrite import Fusion
from glmc.ir.text.printer import is_enum, print_value


def pages() -> dict[str, str]:
    """Map file names to Markdown of every generated page."""
    return {
        "ops.md": _page("Ops", _OPS, map(_op, _by_module())),
        "fusions.md": _page(
            "Passes and fusions",
            _PASSES,
            starmap(_pass, every_pass().values()),
        ),
        "spec-keys.md": _page("Keys of a spec", _KEYS, map(_section, _sections())),
    }


_OPS = """\
Every op of the IR, from its class in `ir/ops/`. Operands with `%` are values, with `@`
parameters; `?` marks what may be left out. What an op means is the function of the same
name in `backends/torch/ops/`."""

_PASSES = """\
What runs between `lowered` and the emitted module, in this order; every target runs
its own choice of them. A fusion replaces
what matches by what stands below it, in the notation of the dumps: `%x` is any value,
`@w` any parameter, `$n` any attribute, and `?` may be absent."""

_KEYS = """\
What may stand in a spec, from the schema that reads it. *expression* means that a value
beginning with `=` is evaluated against the config."""


def _page(title: str, about: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", about, *parts]) + "\n"


def _by_module() -> list[type[Op]]:
    """List the ops in the order of their modules and lines."""
    ops = registry().values()
    return sorted(
        ops, key=lambda op: (op.__module__, inspect.getsourcelines(op)[1], op.mnemonic)
    )


def _op(cls: type[Op]) -> str:
    """Return a heading, the signature in the notation of the dump, and the
    docstring."""
    required = cls.operand_fields()
    given = [
        f"{sigil}{name}" if needed else f"{name}={sigil}{name}?"
        for name, (sigil, needed) in required.items()
    ]
    given += [_attribute(cls, name) for name in cls.attribute_fields()]
    launches = {0: "no kernel launch (a view)", 1: "1 kernel launch"}
    count = target(DEFAULT).launches([cls.mnemonic])
    cost = launches.get(count, f"{count} kernel launches")
    for field, access in cls.state_fields().items():
        cost += f"; {access}s the state `{field}`"
    return (
        f"## {cls.mnemonic}\n\n    {cls.mnemonic}({', '.join(given)})\n\n"
        f"{inspect.getdoc(cls)}\n\n*{cost}*"
    )


def _attribute(cls: type[Op], name: str) -> str:
    field = cls.model_fields[name]
    if field.is_required():
        return f"{name}=…"
    return f"{name}={print_value(field.default, is_enum(cls, name))}?"


def _pass(one: Any, targets: list[str]) -> str:
    parts = [f"## {one.name}", one.doc, f"*Targets: {', '.join(targets)}*"]
    if isinstance(one, Fusion):
        for rule in one.rules:
            before, after = (_code(text) for text in (rule.match, rule.replace))
            parts += [before, "becomes", after]
    return "\n\n".join(parts)


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in inspect.cleandoc(text).splitlines())


def _sections() -> list[type[sections.Section]]:
    """List the classes of the spec language, the whole first."""
    found = [
        cls
        for cls in vars(language).values()
        if inspect.isclass(cls)
        and issubclass(cls, sections.Section)
        and cls is not sections.Section
    ]
    found.sort(key=lambda cls: (cls is not language.Spec, cls.__name__))
    return list(found)


def _section(cls: type[sections.Section]) -> str:
    rows = ["| key | what it takes | default | |", "|---|---|---|---|"]
    docs = key_docs(cls)
    for name, field in cls.model_fields.items():
        takes = _takes(field).replace("|", "\\|")
        about = docs.get(name, "").replace("|", "\\|")
        rows.append(f"| `{name}` | {takes} | {_default(field)} | {about} |")
    about = inspect.getdoc(cls) or ""
    return "\n".join([f"## {_title(cls)}", "", about, "", *rows])


def _title(cls: type[BaseModel]) -> str:
    """Return a class's title: ``AttentionSpec`` is "attention"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__.removesuffix("Spec"))
    return words.lower() or "the whole spec"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    empty = field.default in ({}, (), None) or isinstance(field.default, BaseModel)
    return "" if empty else f"`{field.default!r}`"


def _takes(field: FieldInfo) -> str:
    """Describe the annotation in words."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    for mark in metadata:
        if isinstance(mark, kinds.Takes):
            return mark.description
        if isinstance(mark, kinds.OrExpression):
            return f"{_words(annotation)} or an expression"
    if inspect.isclass(annotation) and issubclass(annotation, sections.Section):
        return f"[{_title(annotation)}](#{_title(annotation).replace(' ', '-')})"
    inner = [a for a in get_args(annotation) if a not in (type(None), ...)]
    if hasattr(annotation, "__metadata__"):
        return _words(annotation.__origin__, annotation.__metadata__)
    if inner and all(isinstance(a, str) for a in inner):
        return " | ".join(f"`{a}`" for a in inner)
    if getattr(annotation, "__origin__", None) is dict:
        return f"mapping of names to {_words(inner[1])}"
    if getattr(annotation, "__origin__", None) is tuple:
        return f"list of {_words(inner[0])}"
    if inner:
        return " or ".join(dict.fromkeys(_words(a) for a in inner))
    return {"Any": "anything", "str": "a name"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )
