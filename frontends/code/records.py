"""The records of a run: decisions, keys of the config, compared lengths."""

from dataclasses import dataclass, field

Place = tuple[str, int, int]
"""File, line, column."""

_KEPT = 64


@dataclass
class Records:
    """Notes taken while a text ran; contracts are left out."""

    decisions: dict[Place, set[bool]] = field(default_factory=dict)
    """Every condition, and how it came out."""
    data: dict[Place, str] = field(default_factory=dict)
    """Conditions and numbers that were taken from a tensor's values, and how."""
    keys: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """Keys of the config that were read, and where (file, line)."""
    missing: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """Keys that were asked for and not there."""
    compared: dict[Place, set[tuple[int, int]]] = field(default_factory=dict)
    """Integers that were compared by size, both sides."""
    bounds: dict[Place, set[bool]] = field(default_factory=dict)
    """Bounds of tensors of whole numbers, and the sides of them that were met; for one
    in a contract, the line of the text that called it, and the contract's line."""
    lines: dict[str, set[int]] = field(default_factory=dict)
    """Lines of statements that ran, by file."""

    def decide(self, place: Place, outcome: bool) -> None:
        """Note the outcome of a condition."""
        self.decisions.setdefault(place, set()).add(outcome)

    def compare(self, place: Place, left: int, right: int) -> None:
        """Note two integers that were compared; no more than a few per place."""
        found = self.compared.setdefault(place, set())
        if len(found) < _KEPT:
            found.add((left, right))

    def read(self, key: str, file: str, line: int, found: bool) -> None:
        """Note that a key of the config was read."""
        into = self.keys if found else self.missing
        into.setdefault(key, set()).add((file, line))
