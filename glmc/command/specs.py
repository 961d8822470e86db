"""Run the commands of ``glmc specs``."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from glmc.authoring.listing import entries, listing_text
from glmc.authoring.showing import merged_text
from glmc.files.replacing import write_file
from glmc.frontends.spec.library import builtin_specs, load_spec
from glmc.frontends.wording import nearest
from glmc.ir.errors import OutputExistsError, UnknownSpecError
from glmc.shell.options import hub_of


def list_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc specs``."""
    found = list(entries())
    if arguments.json:
        rows = [asdict(entry) for entry in found]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print(listing_text(found))
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc specs show``."""
    path = _find(arguments.name)
    if arguments.raw:
        print(path.read_text("utf-8"), end="")
    elif arguments.config:
        print(_evaluated(path, arguments.config), end="")
    else:
        print(merged_text(load_spec(path)), end="")
    return 0


def _find(name: str) -> Path:
    known = builtin_specs()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    meant = nearest(name, known)
    hint = f" (did you mean {meant}?)" if meant else ""
    raise UnknownSpecError(
        f"{name} is neither a spec of glmc{hint} nor a .yaml file here; `glmc specs`"
        " lists those there are"
    )


def _evaluated(path: Path, config: str) -> str:
    from glmc.frontends.build.source import resolve_source
    from glmc.frontends.frontend import load_model
    from glmc.ir.text import print_model

    return print_model(load_model(resolve_source(config), spec_path=path).model)


def new_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc specs new``."""
    if arguments.read or arguments.text:
        from glmc.prove.texts.command import read_command

        return read_command(arguments)
    from glmc.authoring.drafting import draft, summary

    out: Path | None = arguments.out
    if out and out.exists() and not arguments.force:
        raise OutputExistsError(f"{out} is there already; --force writes over it")
    hub = hub_of(arguments)
    made = draft(arguments.checkpoint, hub=hub)
    if out is None:
        print(made.text, end="")
        return 0
    write_file(out, made.text)
    for line in summary(made, str(out)):
        print(line)
    return 0


def schema_command(_: argparse.Namespace) -> int:
    """Run ``glmc specs schema``."""
    from glmc.frontends.spec.schema import spec_schema

    print(json.dumps(spec_schema(), indent=2, ensure_ascii=False))
    return 0
