"""Write the documentation's page for every error, with the forms its message takes.

The forms are read from the source, where they are raised, so they say what glmc says.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import glmc.backends
import glmc.frontends
import glmc.ir
from glmc.ir.errors import GlmcError, catalogue
from glmc.look.explaining import error_facts

_ROOMS = (glmc, glmc.ir, glmc.frontends, glmc.backends)
_ABOUT = """\
What glmc refuses, it refuses with a code, which never changes its meaning.
`glmc explain GLMC012` says in a terminal what is said here; in Python the code is
`error.code` of a `glmc.GlmcError`. The command line ends with the exit code 2.

| code | what it is | class |
|---|---|---|"""


def error_pages() -> dict[str, str]:
    """Map file names to Markdown: the table of all errors, and a page for each."""
    forms = message_forms()
    rows = [
        f"| [{code}](errors/{code}.md) | {cls.title()} | `{cls.__name__}` |"
        for code, cls in catalogue().items()
    ]
    pages = {"errors.md": "\n".join(["# Errors", "", _ABOUT, *rows]) + "\n"}
    for code, cls in catalogue().items():
        pages[f"errors/{code}.md"] = _page(cls, forms.get(cls.__name__, []))
    return pages


def _page(cls: type[GlmcError], forms: list[str]) -> str:
    facts = error_facts(cls)
    parts = [
        f"# {facts['name']}: {facts['title']}",
        facts["about"],
        f"**What to do.** {facts['next_step']}",
    ]
    if forms:
        parts.append("## What it looks like\n\nIn angles stands what differs.")
        parts += [f"```text\n{form}\n```" for form in forms]
    parts.append(
        f"In Python: `glmc.ir.errors.{facts['class']}`. [All errors](../errors.md)"
    )
    return "\n\n".join(parts) + "\n"


def message_forms() -> dict[str, list[str]]:
    """Map class names to the messages they are raised with, as far as they are written
    out."""
    found: dict[str, list[str]] = {}
    for raised in raises():
        forms = filter(_says_something, map(_form, raised.call.args))
        found.setdefault(raised.name, []).extend(forms)
    return {name: sorted(set(forms)) for name, forms in found.items()}


@dataclass(frozen=True)
class Raised:
    """A call in glmc's own source that makes one of its errors."""

    file: Path
    name: str
    call: ast.Call


def raises() -> Iterator[Raised]:
    """Yield all such calls, file by file."""
    names = {GlmcError.__name__, *(cls.__name__ for cls in catalogue().values())}
    for file in _sources():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in names:
                yield Raised(file, node.func.id, node)


def _sources() -> list[Path]:
    """List the files of all rooms, which lie apart in a clone and within glmc in a
    wheel."""
    folders = [Path(folder) for room in _ROOMS for folder in room.__path__]
    return sorted({file for folder in folders for file in folder.rglob("*.py")})


def _form(node: ast.expr) -> str:
    """Return a message with names in angle brackets for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_form, parts))
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _form(left) + _form(right)
        case ast.FormattedValue(value=value):
            return f"⟨{_name(value)}⟩"
    return f"⟨{_name(node)}⟩"


def _name(node: ast.expr) -> str:
    """Return the last name in an expression that is not a function's."""
    functions = {id(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    names = [
        n.attr if isinstance(n, ast.Attribute) else n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute | ast.Name) and id(n) not in functions
    ]
    return names[0].strip("_") if names else "…"


def _says_something(form: str) -> bool:
    return bool(re.sub("⟨[^⟩]*⟩", "", form).strip(" :.[]"))
