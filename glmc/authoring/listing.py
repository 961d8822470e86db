"""The built-in specs, each with what it is for."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glmc.frontends.language.sections import validate
from glmc.frontends.language.yaml_tree import Branch
from glmc.frontends.spec import Match
from glmc.frontends.spec.library import builtin_specs, load_spec

_WIDTH = 72


@dataclass(frozen=True)
class Entry:
    """A spec in a few words."""

    name: str
    model_types: tuple[str, ...]
    verified: str | None
    """The reference that its numbers were compared with; None: with nothing yet."""
    about: str
    """The comment that its file begins with."""


def entries() -> Iterator[Entry]:
    """Yield every spec that glmc comes with, by name."""
    for name, path in builtin_specs().items():
        tree = load_spec(path).tree
        found = tree.get("match")
        match = validate(Match, found, "match") if isinstance(found, Branch) else None
        verified = tree.get("verified")
        yield Entry(
            name=name,
            model_types=match.model_type if match else (),
            verified=verified if isinstance(verified, str) else None,
            about=_opening_comment(path),
        )


def _opening_comment(path: Path) -> str:
    comment = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)


def listing_text(found: list[Entry]) -> str:
    """Return columns for a terminal: spec, model types, verified with, about."""
    rows = [("SPEC", "MODEL TYPES", "VERIFIED", "ABOUT")]
    rows += [
        (e.name, ", ".join(e.model_types), e.verified or "unverified", _short(e.about))
        for e in found
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _short(about: str) -> str:
    """Return the first sentence, without its full stop, or the beginning of it."""
    first = about.partition(". ")[0].removesuffix(".")
    return textwrap.shorten(first, _WIDTH, placeholder=" ...")
