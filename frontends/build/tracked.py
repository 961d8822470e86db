"""A config that notes what is read of it."""

from collections.abc import ItemsView, Iterator, Mapping, ValuesView


class Tracked(Mapping[str, object]):
    """A mapping that notes the keys that are asked for, there or not.

    An evaluation that finds the same values under these keys runs the same way, so no
    other key can change what comes of it.
    """

    def __init__(self, of: Mapping[str, object], seen: set[str] | None = None) -> None:
        self.of = of
        self.seen: set[str] = set() if seen is None else seen

    def __getitem__(self, key: str) -> object:
        self.seen.add(key)
        return self.of[key]

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return key in self.of

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)

    # Whoever measures or shows a mapping as a whole computes nothing with it.
    def values(self) -> ValuesView[object]:
        """Return all values, unnoticed."""
        return self.of.values()

    def items(self) -> ItemsView[str, object]:
        """Return all items, unnoticed."""
        return self.of.items()
