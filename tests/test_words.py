"""Docstrings say with a verb what a thing does: a stranger reads them once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ir", "frontends", "backends", "codegen_templates", "glmc")
"""The rooms that are read to the end; their code is held to the rules."""

BESIDE = ("tests", "bench", "examples", "docs")
"""The code beside them: no docstring there begins with a question word either, but
those of tests state what holds, and begin as they like."""

LATER: dict[str, str] = {}
"""Folders in them that are not held to the rules, with the reason; best none."""

QUESTIONS = ("What", "How", "Whether", "Why", "Where", "Which", "Whose", "Who")
"""No docstring begins so, be it of a module, a class, a function or a field."""

ARTICLES = ("The", "A", "An", "All", "Every", "Each")
"""No docstring of a function begins so, for it begins with a verb. One of a property
does: a property is what it gives."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _is_property(node: ast.AST) -> bool:
    marks = getattr(node, "decorator_list", ())
    return any(ast.unparse(mark).endswith("property") for mark in marks)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield (line, text, words it may not begin with) of each docstring."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for at, one in enumerate(body if isinstance(body, list) else ()):
            value = one.value if isinstance(one, ast.Expr) else None
            if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
                continue
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            verb = function and at == 0 and not _is_property(node)
            yield one.lineno, value.value, QUESTIONS + (ARTICLES if verb else ())


def faults(source: str, articles: bool = True) -> list[str]:
    """List the docstrings of some Python that begin with a word they may not."""
    found = []
    for line, text, refused in _texts(ast.parse(source)):
        first = (text.split() or [""])[0].rstrip(",:;.")
        if first in (refused if articles else QUESTIONS):
            found.append(f"line {line}: begins with {first!r}: {text.strip()[:60]}")
    return found


def sources() -> list[Path]:
    """List the Python files of the rooms that are held to the rules."""
    rooms = (*ROOMS, *BESIDE)
    every = (path for room in rooms for path in (ROOT / room).rglob("*.py"))
    later = [ROOT / folder for folder in LATER]
    return sorted(p for p in every if not any(p.is_relative_to(one) for one in later))


@pytest.mark.parametrize("room", [*ROOMS, *BESIDE])
def test_docstrings_begin_with_what_they_say(room: str) -> None:
    """No text begins with a question word, and those of functions do with a verb."""
    paths = [path for path in sources() if path.is_relative_to(ROOT / room)]
    assert paths
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in paths
        if (wrong := faults(path.read_text(encoding="utf-8"), room in ROOMS))
    }
    assert not found, f"say with a verb, or name the thing: {found}"


@pytest.mark.parametrize(
    "planted",
    [
        '"""What a layer keeps."""',
        'class State:\n    """How a state is kept."""',
        'class State:\n    dims: int\n    """Where the sizes are."""',
        'def dims(self):\n    """Whether it has sizes."""',
        'def dims(self):\n    """The sizes."""',
        'SIZES = 3\n"""Which sizes there are."""',
    ],
)
def test_a_planted_riddle_is_found(planted: str) -> None:
    """Each kind of text is looked at."""
    assert len(faults(planted)) == 1


def test_a_property_is_what_it_gives() -> None:
    """A property may begin with an article, like the class that has it."""
    text = 'class A:\n    """A thing."""\n    @cached_property\n    def size(self):\n'
    assert faults(text + '        """The size."""') == []
