"""Check that names of the IR can become names of the emitted module.

A value is a local variable of a ``forward``, a parameter an attribute of a module, a
block a class. So each is an identifier of Python, and none that Python or the code
around the ops uses itself.
"""

from collections.abc import Collection, Iterable
from keyword import iskeyword

from glmc.backends.emit import class_name
from glmc.backends.taken import ATTRIBUTES, BLOCKS, CLASSES, VALUES
from glmc.ir.errors import DumpNameError
from glmc.ir.graph import Program
from glmc.ir.model import Model


def check_names(model: Model, program: Program) -> None:
    """Refuse names that cannot stand in the emitted code.

    Raises:
        DumpNameError: naming the first of them.
    """
    _identifiers("the model", [model.name, program.name], ())
    _classes(program)
    for graph in program.graphs:
        _identifiers(f"{graph.name}: a value", graph.types, VALUES)
        _parameters(f"{graph.name}: a parameter", [p.name for p in graph.params])
    _parameters("a parameter", [param.name for param in program.params])


def _classes(program: Program) -> None:
    """Check that every block has a class name of its own."""
    made: dict[str, str] = {}
    for block in program.blocks:
        _identifiers("a block", [block.name], BLOCKS | CLASSES)
        name = class_name(block)
        if not name.isidentifier() or name in CLASSES:
            _refuse("a block", block.name, CLASSES)
        if name in made:
            raise DumpNameError(
                f"the blocks {made[name]!r} and {block.name!r} would both be the class"
                f" {name} of the emitted code; rename one of them."
            )
        made[name] = block.name


def _parameters(what: str, names: Iterable[str]) -> None:
    names = list(names)
    _identifiers(what, names, ATTRIBUTES)
    for name in names:
        if name.startswith("_"):
            _refuse(what, name, ATTRIBUTES)


def _identifiers(what: str, names: Iterable[str], taken: Collection[str]) -> None:
    for name in names:
        plain = name.isascii() and name.isidentifier() and len(name) <= _LONGEST
        private = name.startswith("__")
        if not plain or iskeyword(name) or private or name in taken:
            _refuse(what, name, taken)


_LONGEST = 200
"""Characters of a name; what is longer was not meant to be one."""


def _refuse(what: str, name: str, taken: Collection[str]) -> None:
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    also = f", and {', '.join(sorted(taken))}" if taken else ""
    raise DumpNameError(
        f"{what}: {shown!r} cannot be a name in the emitted code; choose another"
        f" (taken are Python's keywords, names that begin with two underscores{also})."
    )
