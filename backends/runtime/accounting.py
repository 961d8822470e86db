"""The account of a checkpoint: every tensor bound, waived, or reported.

Works on names, dtypes and shapes from headers; needs no torch. `load` and `glmc check`
both ask here, the one for a binding table, the other for a program.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from .storage import FLOATS, INDICES, Found, Need, storage_fault


class Entry(NamedTuple):
    """A weight: a tensor, or codes and then their scale and so on; full names."""

    needs: tuple[tuple[str, Need], ...]
    plain: tuple[str, Need] | None = None
    """The same weight as floats, by its own name, which may stand in for codes."""


class Rules(NamedTuple):
    """Ways in which a checkpoint may differ from a table of weights."""

    optional_prefix: str | None = None
    """Left out of all names, where the head was not saved."""
    old_names: Sequence[tuple[str, str]] = ()
    """(ending in old checkpoints, ending today)."""
    waived: Sequence[tuple[str, str]] = ()
    """(glob pattern, reason) of tensors that may stay unused."""


@dataclass
class Account:
    """The account of every tensor of a checkpoint: bound, missing, wrong, waived or
    unused."""

    bound: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    waived: dict[str, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    shapes_known: bool = True
    fault: str | None = None
    """The disagreement of files and config about quantised weights, and what to do."""
    spelt: dict[str, str] = field(default_factory=dict)
    """Full name to what the checkpoint calls the tensor."""
    plain: set[str] = field(default_factory=set)
    """Codes, by full name, for which the checkpoint holds floats."""

    @property
    def ok(self) -> bool:
        """True where the checkpoint is one of this model."""
        return not (self.missing or self.wrong or self.unused)


def account(
    entries: Iterable[Entry], headers: Mapping[str, Found], rules: Rules
) -> Account:
    """Compares weights with a checkpoint's headers."""
    result = Account()
    result.shapes_known = all(info.shape is not None for info in headers.values())
    needs = _settled(entries, headers, rules, result)
    for name, need in needs.items():
        if name not in headers:
            result.missing.append(name)
            continue
        result.bound.add(name)
        wrong = _wrong(headers[name], need)
        if wrong:
            result.wrong[name] = wrong
    result.fault = storage_fault(needs, headers)
    for name in sorted(headers.keys() - result.bound):
        reason = _waiver(name, rules)
        if reason is None:
            result.unused.append(name)
        else:
            result.waived.setdefault(reason, []).append(name)
    result.fault = result.fault or _dressed(result, headers)
    return result


#: What names of a LoRA adapter's tensors hold.
ADAPTED = (".lora_A.", ".lora_B.", ".lora_embedding_")


def _dressed(result: Account, headers: Mapping[str, Found]) -> str | None:
    """Names the adapter or wrapper that the model was saved with, and what to do."""
    if any(mark in name for name in result.unused for mark in ADAPTED):
        return (
            "It holds tensors of a LoRA adapter, which change what the model computes: "
            "merge them into the weights (peft's `merge_and_unload()`) and save that."
        )
    if not result.missing or not result.unused:
        return None
    first = result.missing[0]
    ends = (name for name in result.unused if name.endswith(f".{first}"))
    prefix = next(ends, first).removesuffix(first)
    if prefix and all(name.startswith(prefix) for name in headers):
        return (
            f"All its names begin with {prefix!r}, which a wrapper of the model put "
            "there: save the model within it, or take that off the names."
        )
    return None


def needed(
    entries: Iterable[Entry], headers: Mapping[str, Found], rules: Rules
) -> dict[str, Need]:
    """Returns every tensor that weights are made of, by the names that a checkpoint
    uses.

    A weight that the config calls quantised may be stored as floats: lists of modules
    that were left out are not always right. It then needs no scale.
    """
    return _settled(entries, headers, rules, Account())


def _settled(
    entries: Iterable[Entry],
    headers: Mapping[str, Found],
    rules: Rules,
    result: Account,
) -> dict[str, Need]:
    """Returns the needed tensors by the checkpoint's names; notes those in `result`."""
    found: dict[str, Need] = {}
    for needs, plain in entries:
        spelt = {name: _find(name, headers, rules) for name, _ in needs}
        if plain and spelt[needs[1][0]] not in headers:
            own = _find(plain[0], headers, rules)
            if own in headers and headers[own].dtype in (None, *FLOATS):
                result.plain.add(needs[0][0])
                needs, spelt = (plain,), {plain[0]: own}
        result.spelt |= spelt
        found |= {spelt[name]: need for name, need in needs}
    return found


def _find(name: str, headers: Mapping[str, Found], rules: Rules) -> str:
    """Returns the checkpoint's name of a tensor; the full name where it has none."""
    return next((one for one in spellings(name, rules) if one in headers), name)


def spellings(name: str, rules: Rules) -> Iterator[str]:
    """Yields the names a checkpoint may have for a tensor, today's full name first."""
    endings = [(name, "")]
    for old, new in rules.old_names:
        if name.endswith(new):
            endings.append((name.removesuffix(new), old))
    for stem, ending in endings:
        yield stem + ending
        yield stem.removeprefix(rules.optional_prefix or "") + ending


def _wrong(info: Found, need: Need) -> str | None:
    if info.shape is not None and not need.fits(tuple(info.shape)):
        return f"is {list(info.shape)}, the model needs {list(need.shape or ())}"
    if info.dtype is not None and not need.takes(info.dtype):
        kind = f"{need.codes} codes" if need.codes else "a float tensor"
        kind = "whole numbers" if need.codes == INDICES else kind
        return f"is stored as {info.dtype}, the model needs {kind}"
    return None


def _waiver(name: str, rules: Rules) -> str | None:
    spellings = (name, (rules.optional_prefix or "") + name)
    for pattern, reason in rules.waived:
        if any(fnmatchcase(full, pattern) for full in spellings):
            return reason
    return None
