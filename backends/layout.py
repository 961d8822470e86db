"""Lay out Python source as ``ruff format`` does, where a line may be too long.

Templates decide structure; these helpers decide line breaks, which depend on how long
a model's names are. The rule is ruff's: everything on one line if it fits, else the
arguments on one indented line, else one argument a line with a trailing comma.
"""

from collections.abc import Sequence
from itertools import groupby

WIDTH = 88
# Runs of layers that may come before those that repeat a pattern.
FIRST_RUNS = 4
# Single items that stand in one tuple.
TOGETHER = 4


def bracketed(
    before: str,
    items: Sequence[str],
    after: str,
    indent: int,
    *,
    magic: bool = True,
    then: str = "",
) -> str:
    """Lay out
    ``before`` + ``items`` joined by commas + ``after``, from column ``indent`` on.

    ``before`` ends in the opening bracket and ``after`` begins with the closing one.
    The first line carries no indentation (the template has written it). With ``magic``
    false the items stay together on one inner line where that fits. ``then`` is what
    follows on the last line, such as the comma after an item of an outer bracket.
    """
    line = before + ", ".join(items) + after + then
    if indent + len(line) <= WIDTH and "\n" not in line:
        return line
    pad = " " * (indent + 4)
    inner = ", ".join(items)
    if not magic and len(pad) + len(inner) <= WIDTH and "\n" not in inner:
        return f"{before}\n{pad}{inner}\n{' ' * indent}{after}{then}"
    body = "".join(f"{pad}{item},\n" for item in items)
    return f"{before}\n{body}{' ' * indent}{after}{then}"


def item(before: str, items: Sequence[str], after: str, indent: int) -> str:
    """Lay out a bracket within a broken one: the comma that follows it counts for the
    width."""
    return bracketed(before, items, after, indent, magic=False, then=",")[:-1]


def call(
    target: str, function: str, arguments: Sequence[str], indent: int, tail: str = ""
) -> str:
    """Lay out ``target = function(arguments)``, broken over lines where it must be."""
    prefix = f"{target} = " if target else ""
    return bracketed(f"{prefix}{function}(", arguments, ")" + tail, indent, magic=False)


def tuple_of(items: Sequence[str], indent: int) -> str:
    """Lay out a tuple display; one item keeps its comma."""
    if len(items) == 1:
        return f"({items[0]},)"
    return bracketed("(", items, ")", indent)


def assignment(target: str, terms: Sequence[str], indent: int) -> str:
    """Lay out ``target = term + term``, broken where it is too long.

    Three terms and more go into a bracket of their own; of one or two, the last is
    opened if what stands before it fits on a line, else the first.
    """
    line = f"{target} = {' + '.join(terms)}"
    if indent + len(line) <= WIDTH:
        return line
    if len(terms) > 2:
        return _opened(f"{target} = (", terms, ")", indent)
    *before, last = terms
    first = f"{target} = {' + '.join([*before, '('])}"
    if indent + len(first) <= WIDTH:
        inner, tail = _unwrapped(last)
        return _opened(first, inner, tail, indent)
    inner, tail = _unwrapped(terms[0])
    return _opened(f"{target} = (", inner, f"{tail} + {last}", indent)


def _opened(first: str, terms: Sequence[str], last: str, indent: int) -> str:
    """Lay out a sum between two brackets, on one line if it fits, else one term a line;
    of a tuple, one item a line."""
    pad = " " * (indent + 4)
    if len(terms) == 1 and "(" not in terms[0]:
        items = "".join(f"{pad}{item},\n" for item in terms[0].rstrip(",").split(", "))
        return f"{first}\n{items}{' ' * indent}{last}"
    fits = len(pad) + len(" + ".join(terms)) <= WIDTH
    body = (" + " if fits else f"\n{pad}+ ").join(terms)
    return f"{first}\n{pad}{body}\n{' ' * indent}{last}"


def _unwrapped(term: str) -> tuple[list[str], str]:
    """Return the terms inside ``((a,) * 2 + (b,)) * 3``, and ``) * 3``."""
    terms: list[str] = []
    depth, begin = 0, 1
    for at, sign in enumerate(term):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return [*terms, term[begin:at]], term[at:]
        if depth == 1 and term.startswith(" + ", at):
            terms, begin = [*terms, term[begin:at]], at + 3
    raise ValueError(f"{term} does not begin with a bracket that closes")


def repeated(items: Sequence[str]) -> list[str]:
    """Write a tuple of many items as terms of a sum that repeats its shortest period.

    ``a a b a a b a`` becomes ``((a,) * 2 + (b,)) * 2`` and ``(a,)``: what is emitted
    does not grow with the number of layers. The first runs may be of their own kind,
    and after some layers another period may begin.
    """
    starts = [n for n in range(1, len(items)) if items[n] != items[n - 1]]
    ways = [
        [*_runs(items[:start]), *_periodic(items[start:])]
        for start in [0, *starts[:FIRST_RUNS]]
    ]
    if len(min(ways, key=len)) > 2:
        ways += [[*_periodic(items[:at]), *_periodic(items[at:])] for at in starts]
    return min(ways, key=len)


def _periodic(items: Sequence[str]) -> list[str]:
    period = next(
        size for size in range(1, len(items) + 1) if items[size:] == items[:-size]
    )
    times, rest = divmod(len(items), period)
    if times == 1:
        return _runs(items)
    unit = _runs(items[:period])
    one = unit[0] if len(unit) == 1 else f"({' + '.join(unit)})"
    return [f"{one} * {times}", *_runs(items[:rest])]


def _runs(items: Sequence[str]) -> list[str]:
    """Return ``(a,) * 2`` for each run of equal items, ``(a, b)`` for some that
    differ."""
    found: list[str] = []
    alone: list[str] = []
    for item, run in groupby(items):
        count = len(list(run))
        if count == 1 and len(alone) < TOGETHER:
            found = found[:-1] if alone else found
            alone.append(item)
            found.append(f"({', '.join(alone)}{',' * (len(alone) == 1)})")
        else:
            alone = [item] if count == 1 else []
            found.append(f"({item},) * {count}" if count > 1 else f"({item},)")
    return found
