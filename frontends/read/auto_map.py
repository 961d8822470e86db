"""Read ``auto_map``: the published classes a repository names, which are never
imported."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from glmc.frontends.wording import named, show
from glmc.ir.errors import AutoMapError

_REFERENCE = re.compile(
    r"(?:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)--)?"
    r"(?P<module>[A-Za-z_]\w*)\.(?P<name>[A-Za-z_]\w*)",
    re.ASCII,
)
_FORMS = "'file.Class' or 'ORG/REPO--file.Class'"


@dataclass(frozen=True)
class AutoClass:
    """One entry: ``AutoModel`` is class ``name`` in ``module``.py of ``repo``.

    ``repo`` is None where the file lies beside the config.
    """

    role: str
    repo: str | None
    module: str
    name: str


def read_auto_map(value: object, where: str) -> tuple[AutoClass, ...]:
    """Return the entries of a config's ``auto_map``, sorted by role.

    Tokenizer entries name a pair of classes, either of which may be null.

    Raises:
        GlmcError: when an entry has neither of the two published forms.
    """
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise AutoMapError(f"{where}: auto_map must be an object, found {show(value)}")
    found: list[AutoClass] = []
    for role in sorted(value):
        entry = value[role]
        references = entry if isinstance(entry, list) else [entry]
        found += [_entry(role, r, where) for r in references if r is not None]
    return tuple(found)


def _entry(role: str, reference: object, where: str) -> AutoClass:
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if not match:
        raise AutoMapError(
            f"{where}: auto_map.{named(role)} is {show(reference)}, expected {_FORMS}"
            " with identifiers for file and class"
        )
    return AutoClass(role, match["repo"], match["module"], match["name"])
