"""Let Triton's interpreter look up once what it looks up in every call.

In each call of a function, of every program, it searches the members of its language
for what to replace: a third of the time of our kernels, most of it after the caller
replaced all. And it makes the table of dtypes anew for every value.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

CHANGED = ("_patch_attr", "_patch_builtin", "_get_np_dtype")


def hasten(interpreter: ModuleType) -> None:
    """Change ``triton.runtime.interpreter``, where it has what is changed here."""
    if getattr(interpreter, "hastened", False):
        return
    if not all(hasattr(interpreter, name) for name in CHANGED):
        return
    made: Any = interpreter
    patch, is_builtin = made._patch_attr, made.tl.core.is_builtin
    names: dict[Any, list[str]] = {}

    def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
        if package not in names:
            members = inspect.getmembers(package)
            names[package] = [name for name, member in members if is_builtin(member)]
        for name in names[package]:
            member = getattr(package, name)
            if not is_builtin(member):
                return  # whoever called this function has replaced them all
            patch(package, name, member, builder, scope)

    looked_up = made._get_np_dtype
    of_element = functools.cache(looked_up)
    block, pointer = made.tl.block_type, made.tl.pointer_type

    def np_dtype(kind: Any) -> Any:
        element = kind.element_ty if isinstance(kind, block) else kind
        known = not isinstance(element, pointer)
        return of_element(element) if known else looked_up(element)

    made._patch_builtin, made._get_np_dtype = patch_builtin, np_dtype
    made.hastened = True
