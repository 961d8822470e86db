"""Read the documentation of fields: the string literals below them."""

import ast
import inspect
import re
from functools import cache
from textwrap import dedent
from typing import Any

from glmc.frontends.language.derived import IN_SLOTS
from glmc.frontends.language.sections import Section


@cache
def field_docs(cls: type[Any]) -> dict[str, str]:
    """Map field names to the string literals that follow them in the class's source."""
    (body,) = ast.parse(dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(doc))),
            ):
                found[name] = inspect.cleandoc(doc)
    return found


def key_docs(section: type[Section]) -> dict[str, str]:
    """Map the keys of a section to their documentation: its own, or that of the node's
    field."""
    found = {}
    for makes in section.made.values():
        docs = field_docs(makes.node)
        for name, holds in makes.fields.items():
            if name in docs and holds.kind not in IN_SLOTS:
                found[makes.key(name)] = docs[name]
    for cls in reversed(section.mro()):
        if issubclass(cls, Section):
            found |= field_docs(cls)
    return {
        key: _ROLE.sub(r"\1", " ".join(text.split())) for key, text in found.items()
    }


_ROLE = re.compile(r":\w+:(`[^`]+`)")
"""A cross-reference, of which Sphinx makes a link."""
