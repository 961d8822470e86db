"""Read YAML as a tree that remembers where every entry was written.

Scalars beginning with ``=`` become expressions here, so that a mistake in one is told
with its file and line before anything is evaluated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from glmc.frontends.language.expressions import parse_expression
from glmc.ir.errors import SpecSyntaxError


@dataclass(frozen=True)
class Position:
    """A line of a file; prints as editors understand it."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Branch(dict[str, object]):
    """A mapping with the position of itself and of each of its keys."""

    def __init__(self, at: Position) -> None:
        super().__init__()
        self.at = at
        self.keys_at: dict[str, Position] = {}

    def put(self, key: str, value: object, at: Position) -> None:
        self[key] = value
        self.keys_at[key] = at

    def without(self, *keys: str) -> "Branch":
        """Copy the mapping without some keys; what is below the others is shared."""
        left = Branch(self.at)
        for key, value in self.items():
            if key not in keys:
                left.put(key, value, self.keys_at[key])
        return left


class Items(list[object]):
    """A sequence with the position of each of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.items_at: list[Position] = []


def read_tree(text: str, file: str) -> Branch:
    """Read the mapping a YAML document holds.

    Raises:
        GlmcError: on malformed YAML, duplicate keys, keys that are not strings,
            anchors, or a document that is not a mapping; tells file and line.
    """
    _refuse_deep(text, file)
    loader = _loader(text, file)
    try:
        node = loader.get_single_node()
        reader = _Reader(loader, file)
        if not isinstance(node, yaml.MappingNode):
            raise SpecSyntaxError(f"{file}: a spec must be a mapping of sections")
        return reader.mapping(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecSyntaxError(f"{file}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SpecSyntaxError(f"{file}: not YAML: {error}") from None
    except RecursionError:
        raise SpecSyntaxError(f"{file}: nested too deeply") from None
    finally:
        loader.dispose()


_DEEPEST = 64


def _refuse_deep(text: str, file: str) -> None:
    """Refuse a document of absurd depth before a tree is made of it: the C loader does
    that recursively, without a limit; reading events it does not."""
    loader, depth = _loader(text, file), 0
    try:
        while loader.check_event():
            event = loader.get_event()  # type: ignore[no-untyped-call]
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                at = Position(file, event.start_mark.line + 1)
                raise SpecSyntaxError(f"{at}: nested more than {_DEEPEST} deep")
    except yaml.YAMLError:
        pass  # told when the tree is made, with all that is known then
    finally:
        loader.dispose()


def _loader(text: str, file: str) -> yaml.SafeLoader:
    # The C loader reads a spec in a tenth of the time; it is absent from some wheels.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        made: yaml.SafeLoader = loader(text)
    except yaml.YAMLError as error:
        raise SpecSyntaxError(f"{file}: not YAML: {error}") from None
    return made


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, file: str) -> None:
        self.loader, self.file = loader, file
        self.seen: set[int] = set()

    def mapping(self, node: yaml.MappingNode) -> Branch:
        branch = Branch(self.position(node))
        for key_node, value_node in node.value:
            at = self.position(key_node)
            key = self.scalar(key_node)
            if not isinstance(key, str):
                raise SpecSyntaxError(
                    f"{at}: the key {key!r} must be a string; quote it"
                )
            if key in branch:
                first = branch.keys_at[key].line
                raise SpecSyntaxError(
                    f"{at}: the key {key!r} is already on line {first}"
                )
            branch.put(key, self.value(value_node), at)
        return branch

    def value(self, node: yaml.Node) -> object:
        if id(node) in self.seen:
            raise SpecSyntaxError(
                f"{self.position(node)}: specs have no anchors and aliases"
            )
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node)
        if isinstance(node, yaml.SequenceNode):
            return self.items(node)
        scalar = self.scalar(node)
        if isinstance(scalar, str) and scalar.startswith("="):
            return parse_expression(scalar[1:], str(self.position(node)))
        return scalar

    def scalar(self, node: yaml.Node) -> object:
        """Construct the value of a node without parts."""
        try:
            found: object = self.loader.construct_object(node)
        except ValueError as error:  # a number of 5000 digits, a date of no calendar
            raise SpecSyntaxError(f"{self.position(node)}: {error}") from None
        if found is not None and not isinstance(found, bool | int | float | str):
            raise SpecSyntaxError(
                f"{self.position(node)}: {node.value} is a {type(found).__name__} in"
                " YAML, of which specs have none; quote it"
            )
        return found

    def items(self, node: yaml.SequenceNode) -> Items:
        items = Items()
        for element in node.value:
            items.items_at.append(self.position(element))
            items.append(self.value(element))
        return items

    def position(self, node: yaml.Node) -> Position:
        return Position(self.file, node.start_mark.line + 1)


def merge(base: Branch, child: Branch) -> Branch:
    """Merge ``child`` over ``base``: mappings merge, anything else replaces.

    A null deletes the key; ``key!`` replaces a mapping instead of merging into it.
    """
    merged = Branch(child.at)
    for key, value in base.items():
        merged.put(key, value, base.keys_at[key])
    for key, value in child.items():
        at, old = child.keys_at[key], merged.get(key)
        if key.endswith("!"):
            merged.put(key[:-1], value, at)
        elif value is None:
            merged.pop(key, None)
        elif isinstance(old, Branch) and isinstance(value, Branch):
            merged.put(key, merge(old, value), at)
        else:
            merged.put(key, value, at)
    return merged


def position_of(tree: Branch, path: Sequence[str | int]) -> Position:
    """Return where the deepest part of ``path`` that exists was written."""
    at: Position = tree.at
    node: object = tree
    for step in path:
        if isinstance(node, Branch) and step in node:
            at, node = node.keys_at[str(step)], node[str(step)]
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node):
            at, node = node.items_at[step], node[step]
        else:
            break
    return at
