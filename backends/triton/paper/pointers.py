"""Follow the addresses of a kernel's loads back to its arguments."""

import re
from collections.abc import Iterator, Mapping, Sequence

from glmc.backends.triton.paper.sass import Instruction

# Where the first argument lies in constant bank 0, by compute capability. Read off
# binaries of kernels whose arguments are known; a test compiles one for each.
_FIRST: Mapping[int, int] = {
    80: 0x160,
    86: 0x160,
    89: 0x160,
    90: 0x210,
    100: 0x380,
    120: 0x380,
}
_CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_NAMED = re.compile(r"\b(U?R)(\d+)(\.64)?")
_DESCRIPTOR = re.compile(r"desc\[UR\d+\](?:\.64)?")
# What these write does not come from the registers that they name.
_FRESH = ("LDG", "LDS", "LDL", "LDSM", "S2R", "S2UR", "CS2R", "SHFL", "ATOM")


def offsets(signature: Mapping[str, str], arch: int) -> dict[int, str]:
    """Map places in constant bank 0 to the pointers of a kernel.

    Args:
        signature: argument -> Triton type, in order, without constants.
        arch: the compute capability, 90.
    """
    found, at = {}, _FIRST[arch]
    for name, kind in signature.items():
        width = 8 if kind.startswith("*") else 4
        at = -(-at // width) * width
        if width == 8:
            found[at] = name
        at += width
    return found


def sources(
    code: Sequence[Instruction], pointers: Mapping[int, str]
) -> list[frozenset[str]]:
    """Return the pointers that each instruction's address is made of, for loads.

    Registers are followed along the text twice, so that what goes round a loop arrives.
    """
    holds: dict[str, frozenset[str]] = {}
    found: list[frozenset[str]] = []
    for _ in range(2):
        found = [_step(one, holds, pointers) for one in code]
    return found


def _step(
    one: Instruction,
    holds: dict[str, frozenset[str]],
    pointers: Mapping[int, str],
) -> frozenset[str]:
    """Run one instruction on what registers are made of; return its sources if it
    loads."""
    written = list(_registers(one.operands[0])) if one.operands else []
    asks = one.name in ("LDG", "LDGSTS")
    read = one.operands[1:]
    text = _DESCRIPTOR.sub("", " ".join(read))
    made = frozenset[str]().union(
        *(holds.get(n, frozenset()) for n in _registers(text))
    )
    constants = {int(place, 16) for place in _CONSTANT.findall(text)}
    made |= {pointers[place] for place in constants if place in pointers}
    if one.writes_registers:
        kept = frozenset[str]() if one.name.startswith(_FRESH) else made
        for name in _widened(written, one.words):
            # Under a guard, what was there may stay.
            holds[name] = kept | holds.get(name, kept) if one.guard else kept
    return made if asks else frozenset()


def _registers(text: str) -> Iterator[str]:
    for kind, number, wide in _NAMED.findall(text):
        yield f"{kind}{number}"
        if wide:
            yield f"{kind}{int(number) + 1}"


def _widened(written: Sequence[str], words: int) -> Iterator[str]:
    for name in written[:1]:
        kind, number = name.rstrip("0123456789"), int(name.lstrip("UR"))
        yield from (f"{kind}{number + at}" for at in range(words))


def early(code: Sequence[Instruction], pointers: Mapping[int, str]) -> set[str] | None:
    """Return the pointers that are read before a kernel waits for the launch before it.

    Returns:
        None for a kernel that does not wait (``griddepcontrol.wait``, ``ACQBULK`` in
        machine code), which must not be launched before that one ended.
    """
    waits = [at for at, one in enumerate(code) if one.name == "ACQBULK"]
    if not waits:
        return None
    before = sources(code, pointers)[: waits[0]]
    return {name for names in before for name in names}
