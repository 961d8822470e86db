"""Which files of the runtime a build takes along."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmc.backends import runtime
from glmc.backends.package import siblings

FILES = sorted(Path(next(iter(runtime.__path__))).glob("*.py"))


def imported(node: ast.AST) -> Iterator[str]:
    """The siblings that run-time imports of a parsed file name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.level == 1:
            yield str(child.module)
        yield from imported(child)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_siblings_are_what_a_parser_finds(path: Path) -> None:
    text = path.read_text("utf-8")
    assert siblings(text) == list(imported(ast.parse(text)))


def test_imports_for_types_and_within_functions_are_told_apart() -> None:
    text = """\
if TYPE_CHECKING:
    from .types import A

    from .more import B
from .first import C


def late():
    from .second import D
"""
    assert siblings(text) == ["first", "second"]
