"""Reads texts and contracts into a machine, and answers its imports."""

import ast
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from glmc.frontends.code import functions, namespaces, objects
from glmc.frontends.code.expressions import EXPRESSIONS
from glmc.frontends.code.limits import Limits
from glmc.frontends.code.machine import Machine
from glmc.frontends.code.statements import STATEMENTS
from glmc.frontends.code.values import Absent, Builtin, Class, Instance, Module, Scope
from glmc.ir.errors import TextUnreadableError

PACKAGE = "transformers.models.text"
"""The place where a text is taken to stand: `.x` is beside it, `...` is
transformers."""
_DEEPEST = 200
_CONTRACT = "contracts."


class Library:
    """A machine with its tables, its contracts, and the texts it may import.

    ``texts`` maps the name of a file, without ``.py``, to what is in it.
    """

    def __init__(self, texts: Mapping[str, str], limits: Limits | None = None) -> None:
        self.texts = texts
        self.machine = Machine(limits or Limits())
        self.machine.statements = STATEMENTS
        self.machine.expressions = EXPRESSIONS
        self.machine.builtins = functions.builtins()
        self.machine.importer = self.find
        self.modules: dict[str, Module] = {}
        self.tables: dict[str, Any] = {}
        with self.machine.answering():
            names = self._contract("builtins").names
            hidden = objects.CONTRACT_ONLY
            self.machine.builtins |= {
                name: value for name, value in names.items() if name not in hidden
            }
            namespaces.fill(self.tables, self._contract)

    def open(self, name: str) -> Module:
        """Carry a text out from top to bottom, once.

        Raises:
            GlmcError: when there is no such text, or it cannot be carried out.
        """
        if name not in self.texts:
            raise TextUnreadableError(f"there is no file {name}.py beside the model's.")
        with self.machine.answering():
            return self._text(name)

    def find(self, name: str) -> Any:
        """Return the meaning of ``import name``; :class:`Absent` where no table has
        it."""
        if name in self.tables:
            return self.tables[name]
        last = name.rpartition(".")[2]
        beside = name == last or name == f"{PACKAGE}.{last}"
        if last in self.texts and (beside or name.startswith("transformers.models.")):
            return self._text(last)
        if name.startswith(_CONTRACT):
            return self._contract(last)
        if name.partition(".")[0] == "transformers":
            return self.tables["transformers"]
        return Absent(name, "no table of the reader has that module")

    def _text(self, name: str) -> Module:
        if name not in self.modules:
            tree = parse(self.texts[name], f"{name}.py", self.machine.limits.source)
            module = Module(name, f"{name}.py", package=PACKAGE)
            self._run(module, tree)
        return self.modules[name]

    def _contract(self, name: str) -> Module:
        key = _CONTRACT + name
        if key not in self.modules:
            module = Module(key, f"contract {name}", contract=True)
            module.names.update(objects.CONTRACT_ONLY)
            module.names["auto_class"] = Builtin("auto_class", self._auto)
            self._run(module, _contract_tree(name))
        return self.modules[key]

    def _auto(self, machine: Machine, kind: str, given: Any) -> Class:
        """Find the class that transformers' tables would name, among the texts.

        A configuration is found by its ``model_type``; a model by the rule that
        XConfig belongs to XModel in the modeling file of the same name.
        """
        if kind == "config":
            for name, text in self.texts.items():
                if name.startswith("configuration_") and f'"{given}"' in text:
                    for value in self._text(name).names.values():
                        if isinstance(value, Class) and (
                            value.names.get("model_type") == given
                        ):
                            return value
        elif isinstance(given, Instance):
            file = given.cls.module.name.replace("configuration_", "modeling_")
            wanted = given.cls.name.removesuffix("Config") + kind
            if file in self.texts:
                found = self._text(file).names.get(wanted)
                if isinstance(found, Class):
                    return found
            given = given.cls.name
        return machine.refuse(f"the {kind} of {given} is in no text beside this one")

    def _run(self, module: Module, tree: ast.Module) -> None:
        self.modules[module.name] = module
        module.names["__name__"] = module.name
        self.machine.enter(module)
        self.machine.execute(tree.body, Scope(module, "module", module.names))
        self.machine.frames.pop()


@lru_cache
def _contract_tree(name: str) -> ast.Module:
    folder = resources.files("glmc.frontends.code") / "contracts"
    return ast.parse((folder / f"{name}.py.txt").read_text(encoding="utf-8"))


def parse(text: str, file: str, most: int) -> ast.Module:
    """Parse a text into its syntax tree.

    Raises:
        GlmcError: when it is too large, nested too deeply, or not Python.
    """
    if len(text.encode("utf-8", "replace")) > most:
        raise TextUnreadableError(
            f"{file} has more than {most:,} bytes; modeling files are smaller."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        raise TextUnreadableError(
            f"{file}:{error.lineno or 1}: this is not Python ({error.msg})."
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "nested too deeply"
        raise TextUnreadableError(f"{file}: it cannot be parsed ({reason}).") from None
    _check_depth(tree, file)
    return tree


def _check_depth(tree: ast.Module, file: str) -> None:
    """Refuse nodes within nodes beyond what carrying them out has room for."""
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    line = next((n.lineno for n in level if isinstance(n, ast.expr | ast.stmt)), 1)
    raise TextUnreadableError(
        f"{file}:{line}: the code is nested more than {_DEEPEST} deep."
    )
