"""The hooks of mkdocs: generated pages, and links it can follow."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from glmc.book.error_pages import error_pages
from glmc.book.gallery import gallery
from glmc.book.reference import pages

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are written from the code."""
    generated = {**pages(), **error_pages(), "gallery.md": gallery()}
    for name, text in generated.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shows the code that a page names, and mends its links.

    Links to source files, which are not part of the site, become plain text.
    """
    shown = re.sub(
        r"<!-- source: (\S+) (\S+) -->", lambda m: _fenced(m[1], m[2]), markdown
    )
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!decisions)[^)]*\)", r"\1", shown)


def _fenced(file: str, name: str) -> str:
    return f"```python\n{source(ROOT / file, name)}\n```"


def source(file: Path, name: str) -> str:
    """The lines of a class, a function, a value or a test of a file.

    Raises:
        LookupError: when the file has none of that name; the site is not built.
    """
    text = file.read_text("utf-8")
    for node in ast.parse(text).body:
        if name in _names(node):
            first = getattr(node, "decorator_list", None) or [node]
            return "\n".join(text.splitlines()[first[0].lineno - 1 : node.end_lineno])
    raise LookupError(f"{file} has no {name}, which a page wants to show")


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [t.id for t in targets if isinstance(t, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
