"""The rules that a reading must satisfy before a spec is accepted; each has a sentence
for its failure.

That the small models stand for the real one is what most of them are about: the text
must decide there as it does with the real config, by file and line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmc.frontends.code.text import Text
from glmc.ir.errors import UnprovedError

Survey = Mapping[str, Any]
Place = tuple[str, int, int]

_DATA = re.compile(
    r"position|expert|rout|topk|top_k|selected|_idx|hit|mask_token|gmask|bos|seq_len",
    re.IGNORECASE,
)
"""The terms in a line that may decide by a tensor's values: dispatch to experts,
special tokens, the longest position."""


def check(text: Text, small: Sequence[Survey], real: Survey) -> dict[str, Any]:
    """Check the runs of a text against the rules; return the certificate's lines on
    them.

    Raises:
        GlmcError: names the rule, the file and the line.
    """
    data = _data(text, [*small, real])
    _same_decisions(text, small, real, data)
    _bounds(text, small)
    return {
        "decisions": len(_decisions(real)),
        "data_decisions": [f"{file}.py:{line}" for file, line in sorted(data)],
        "lengths": list(_lengths(text, small[0])),
    }


def _decisions(found: Survey) -> dict[Place, list[bool]]:
    return {(f, line, col): out for f, line, col, out in found["decisions"]}


def _source(text: Text, file: str, line: int) -> str:
    lines = text.texts[file.removesuffix(".py")].splitlines()
    return lines[line - 1].strip() if line <= len(lines) else ""


def _data(text: Text, runs: Sequence[Survey]) -> set[tuple[str, int]]:
    """Return the lines that decide by a tensor's values; only known kinds of them
    may."""
    found: set[tuple[str, int]] = set()
    for run in runs:
        for file, line, _, how in run["data"]:
            source = _source(text, file, line)
            if not _DATA.search(source):
                raise UnprovedError(
                    f"{file}:{line}: `{source[:90]}` decides by the values of a tensor"
                    f" ({how}); equal logits for some inputs prove nothing for others."
                )
            found.add((file.removesuffix(".py"), line))
    return found


def _same_decisions(
    text: Text,
    small: Sequence[Survey],
    real: Survey,
    data: set[tuple[str, int]],
) -> None:
    wanted = _decisions(real)
    for run in small:
        got = _decisions(run)
        for place in sorted(wanted.keys() | got.keys()):
            file, line, _ = place
            if (file.removesuffix(".py"), line) in data:
                continue
            if wanted.get(place) != got.get(place):
                raise UnprovedError(
                    f"{file}:{line}: `{_source(text, file, line)[:90]}` is "
                    f"{_told(wanted.get(place))} with the real config and "
                    f"{_told(got.get(place))} in a small model, so the small model "
                    "does not stand for it."
                )


def _told(outcomes: list[bool] | None) -> str:
    if not outcomes:
        return "never reached"
    return " and ".join(str(one).lower() for one in outcomes)


def _lengths(text: Text, small: Survey) -> Iterator[str]:
    """Yield comparisons of something that moves with a number; both sides must have
    run."""
    for file, line, _, pairs in small["compared"]:
        left, right = {a for a, _ in pairs}, {b for _, b in pairs}
        if len(left) > 1 and len(right) == 1:
            fixed, moving = right.pop(), left
        elif len(right) > 1 and len(left) == 1:
            fixed, moving = left.pop(), right
        else:
            if {True, False} <= {a > b for a, b in pairs}:
                yield f"{file}:{line}: a length that moves itself, on both sides"
            continue
        ends = small["ends"] and fixed >= max(moving)
        if fixed > max(moving) and not ends:
            raise UnprovedError(
                f"{file}:{line}: `{_source(text, file, line)[:90]}` compares up to "
                f"{max(moving)} with {fixed}, and no small model gets beyond that: "
                "what the code does there is not proved."
            )
        yield f"{file}:{line}: {fixed}, " + ("up to it" if ends else "on both sides")


def _bounds(text: Text, runs: Sequence[Survey]) -> None:
    """Refuse a bound of positions or lengths that no small model came up to."""
    found: dict[Place, set[bool]] = {}
    for run in runs:
        for file, line, column, sides in run["bounds"]:
            found.setdefault((file, line, column), set()).update(sides)
    for (file, line, _), sides in sorted(found.items()):
        if len(sides) == 1:
            raise UnprovedError(
                f"{file}:{line}: `{_source(text, file, line)[:90]}` holds whole numbers"
                " against a bound, and in the small models all of them lie on one side"
                " of it: what the code does on the other is not proved."
            )


def keys(
    unknown: Sequence[str],
    config: Mapping[str, Any],
    small: Sequence[Survey],
    real: Survey,
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Return a fate for each key without a place: ignored, or held to its one value.

    Gives the entries of ``ignore`` and those of ``expect``.
    """
    read = set(real["keys"]).union(*(run["keys"] for run in small))
    ignored = {
        key: "the published code does not read it" for key in unknown if key not in read
    }
    expected = {key: [config[key]] for key in unknown if key in read}
    return ignored, expected
