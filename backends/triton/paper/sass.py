"""Machine code of NVIDIA's GPUs, parsed from the text of ``nvdisasm -c``.

The instruction set has no public specification; what is read here is the text of
compiled kernels: opcodes, their operands in order with the destination first, and
branches to labels.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_LINE = re.compile(
    r"^\s*/\*(?P<at>[0-9a-f]{4,})\*/\s+"
    r"(?:(?P<guard>@!?U?P\w+)\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;]*);"
)
_LABEL = re.compile(r"^(?P<name>\.L_x_\d+):")
_TARGET = re.compile(r"\.L_x_\d+")
_REGISTER = re.compile(r"\bR(\d+)\b")
# Instructions of which the first operand is not written: stores, and what is read only.
_NO_RESULT = (
    "ST",
    "RED",
    "BRA",
    "EXIT",
    "BAR",
    "DEPBAR",
    "LDGSTS",
    "LDGDEPBAR",
    "CCTL",
)


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    guard    the predicate under which it runs, empty where it always does
    opcode   with its modifiers: ``LDG.E.EF.128``
    operands as written, the destination first
    target   the label that a branch goes to, or ""
    """

    guard: str
    opcode: str
    operands: tuple[str, ...]
    target: str = ""

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The modifiers of the opcode."""
        return tuple(self.opcode.split(".")[1:])

    @property
    def writes_registers(self) -> bool:
        """Tell whether its first operand is a destination."""
        return bool(self.operands) and not self.name.startswith(_NO_RESULT)

    @property
    def writes(self) -> frozenset[int]:
        """The 32-bit registers that it writes, uniform ones apart."""
        found = _REGISTER.match(self.operands[0]) if self.writes_registers else None
        if not found:
            return frozenset()
        first = int(found[1])
        return frozenset(range(first, first + self.words))

    @property
    def reads(self) -> frozenset[int]:
        """The 32-bit registers that it names as operands; of wide ones the first."""
        begin = 0 if not self.writes else 1
        text = " ".join(self.operands[begin:])
        return frozenset(int(name) for name in _REGISTER.findall(text))

    @property
    def words(self) -> int:
        """The 32-bit registers that its destination is."""
        if "128" in self.modifiers:
            return 4
        wide = {"64", "WIDE"} & set(self.modifiers) or self.name == "CS2R"
        return 2 if wide else 1


@dataclass(frozen=True)
class Loop:
    """The instructions from a label to the branch back to it, both counted."""

    first: int
    last: int


def parse(text: str) -> tuple[list[Instruction], list[Loop]]:
    """Parse a kernel's instructions, and the loops that have none inside.

    Code behind the last exit, where the assembler leaves a branch to itself, is not a
    loop of the kernel.
    """
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label["name"]] = len(found)
        elif parsed := _LINE.match(line):
            operands = [part.strip() for part in parsed["operands"].split(",")]
            target = _TARGET.search(parsed["operands"])
            found.append(
                Instruction(
                    parsed["guard"] or "",
                    parsed["opcode"],
                    tuple(operand for operand in operands if operand),
                    target[0] if target and parsed["opcode"] == "BRA" else "",
                )
            )
    return found, _innermost(list(_loops(found, labels)))


def _loops(code: Sequence[Instruction], labels: dict[str, int]) -> Iterator[Loop]:
    for at, instruction in enumerate(code):
        first = labels.get(instruction.target, at) if instruction.target else at
        if first < at:
            yield Loop(first, at)


def _innermost(loops: Sequence[Loop]) -> list[Loop]:
    def holds(outer: Loop, inner: Loop) -> bool:
        return outer != inner and outer.first <= inner.first <= inner.last <= outer.last

    return [one for one in loops if not any(holds(one, other) for other in loops)]


def disassemble(cubin: bytes) -> str:
    """Disassemble a binary by the tool that comes with Triton.

    Raises:
        FileNotFoundError: where Triton, or its disassembler, is not installed.
    """
    found = find_spec("triton")
    if found is None or found.origin is None:
        raise FileNotFoundError("triton")
    tool = Path(found.origin).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.TemporaryDirectory(prefix="glmc-sass-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), "-c", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout
