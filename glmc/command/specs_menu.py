"""The arguments of ``glmc specs``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

_SHOW = """\
examples:
  glmc specs show qwen3                        after inheritance, as one file
  glmc specs show qwen3 --raw                  the file itself
  glmc specs show qwen3 --config config.json   evaluated: the model as glmc sees it
"""
_NEW = """\
example:
  glmc specs new CHECKPOINT -o my.yaml

Reads config.json and the headers of the weight files, of a hub id too. Lines with
`# ?` say what headers cannot tell. Then:
  glmc compile CHECKPOINT --spec my.yaml -o build/
"""

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]


def add_specs(
    commands: "Subparsers", add_hub: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add ``glmc specs`` and its subcommands; ``add_hub`` adds the options of hub
    ids."""
    about = "list the architectures glmc knows; show, draft and validate specs"
    parser = _parser(commands, "specs", about)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(command=_list)
    inner = parser.add_subparsers(metavar="show | new | schema")
    _add_show(inner)
    add_hub(_add_new(inner))
    schema = _parser(inner, "schema", "print the JSON schema of specs, for editors")
    schema.set_defaults(command=_schema)


def _parser(
    commands: "Subparsers", name: str, about: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_show(commands: "Subparsers") -> None:
    parser = _parser(commands, "show", "print a spec with all it inherits", _SHOW)
    add = parser.add_argument
    add("name", help="a spec of glmc, or a file of your own")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="the file as it was written")
    how.add_argument("--config", metavar="SOURCE", help="evaluate with a config.json")
    parser.set_defaults(command=_show)


def _add_new(commands: "Subparsers") -> argparse.ArgumentParser:
    parser = _parser(commands, "new", "draft a spec for a checkpoint", _NEW)
    add = parser.add_argument
    add("checkpoint", help="a model folder with its weights, or a hub id")
    add("-o", "--out", type=Path, metavar="FILE", help="default: standard output")
    add("--force", action="store_true", help="write over an existing file")
    add("--read", action="store_true",
        help="settle it by the published code, read as text")  # fmt: skip
    add("--text", metavar="FILE|REPO", help="where the code is; default: there too")
    parser.set_defaults(command=_new, json=False)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    from glmc.command.specs import list_command

    return list_command(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from glmc.command.specs import show_command

    return show_command(arguments)


def _new(arguments: argparse.Namespace) -> int:
    from glmc.command.specs import new_command

    return new_command(arguments)


def _schema(arguments: argparse.Namespace) -> int:
    from glmc.command.specs import schema_command

    return schema_command(arguments)
