"""A spec as YAML again: after inheritance, each section with the files it came from."""

from collections.abc import Iterator, Mapping

import yaml

from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.yaml_tree import Branch, Items, Position
from glmc.frontends.spec.library import SpecTree

_WIDTH = 88


class _Dumper(yaml.SafeDumper):
    """Writes what :mod:`glmc.frontends.language.yaml_tree` reads."""


def _mapping(dumper: yaml.SafeDumper, value: Branch) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items())


def _sequence(dumper: yaml.SafeDumper, value: Items) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value)


def _expression(dumper: yaml.SafeDumper, value: Expression) -> yaml.Node:
    return dumper.represent_str(str(value))


_Dumper.add_representer(Branch, _mapping)
_Dumper.add_representer(Items, _sequence)
_Dumper.add_representer(Expression, _expression)


def merged_text(found: SpecTree) -> str:
    """Write the whole spec as one file that extends nothing.

    Loading it gives the same spec. A comment over each section names its files.
    """
    parts = [f"# {' extends '.join(file.name for file in found.files)}"]
    for key, value in found.tree.items():
        files = dict.fromkeys(_files(found.tree.keys_at[key], value))
        parts.append("\n".join([f"# from {', '.join(files)}", *section(key, value)]))
    return "\n\n".join(parts) + "\n"


def section(key: str, value: object, indent: str = "") -> Iterator[str]:
    """Yield the lines of an entry: a short one takes one line, a section never does."""
    name, short = flow(key), flow(value)
    line = f"{indent}{name}: {short}"
    fits = len(line) <= _WIDTH and bool(indent)
    if isinstance(value, Mapping) and value and not fits:
        yield f"{indent}{name}:"
        for inner, entry in value.items():
            yield from section(inner, entry, f"{indent}  ")
    elif isinstance(value, list) and value and not fits:
        yield f"{indent}{name}:"
        yield from (f"{indent}  - {flow(entry)}" for entry in value)
    else:
        yield line


def flow(value: object) -> str:
    """Write a value of a spec in YAML, on one line."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=True,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")


def _files(at: Position, value: object) -> Iterator[str]:
    """Yield the files that the leaves of a value were written in."""
    if isinstance(value, Branch) and value:
        for key, inner in value.items():
            yield from _files(value.keys_at[key], inner)
    elif isinstance(value, Items) and value:
        for place, inner in zip(value.items_at, value, strict=True):
            yield from _files(place, inner)
    else:
        yield at.file
