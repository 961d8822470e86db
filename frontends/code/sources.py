"""Find a model's text: a file, a folder, a repository on the hub."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glmc.frontends.code.text import Text
from glmc.frontends.read.auto_map import AutoClass, read_auto_map
from glmc.frontends.read.hub import Hub, fetch, is_hub_id
from glmc.frontends.read.json_text import MEGABYTE
from glmc.ir.errors import TextUnreadableError

_MOST = 2 * MEGABYTE
_FILES = 40
_BESIDE = re.compile(
    r"^\s*from\s+\.(\w+)\s+import|^\s*from\s+\.\s+import\s+(\w+)", re.M
)
_BARE = re.compile(r"^\s*from\s+(\w+)\s+import", re.M)
"""A file beside the text may be named without a dot; asked for in folders only."""
_ROLES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel")


def find_text(given: str, config: Mapping[str, Any], hub: Hub) -> Text:
    """Read the modeling text that ``given`` stands for, with the files it imports.

    Args:
        given: a ``modeling_*.py``, a folder with one, or a hub id.
        config: config.json of the weights; its ``auto_map`` or ``architectures`` name
            the class, where the folder or repository has no config of its own.
        hub: how the hub is asked.

    Raises:
        GlmcError: when there is no such file, or nothing names a class in it.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return _named(given, path.stem, _folder(path.parent), config)
    if path.is_dir():
        return _by_map(given, config, _folder(path))
    if not is_hub_id(given):
        raise TextUnreadableError(
            f"{given} is neither a file or folder here nor a hub id, ORG/NAME."
        )

    def read(name: str) -> str | None:
        found = fetch(given, f"{name}.py", hub)
        return None if found is None else _read(found)

    return _by_map(given, config, read)


def _folder(folder: Path) -> Callable[[str], str | None]:
    def read(name: str) -> str | None:
        path = folder / f"{name}.py"
        return _read(path) if path.is_file() else None

    return read


def _read(path: Path) -> str:
    if path.stat().st_size > _MOST:
        raise TextUnreadableError(
            f"{path.name} has more than {_MOST:,} bytes; modeling files are smaller."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise TextUnreadableError(f"{path.name} is not text in UTF-8.") from None


def _by_map(
    given: str, config: Mapping[str, Any], read: Callable[[str], str | None]
) -> Text:
    entries = {e.role: e for e in read_auto_map(config.get("auto_map"), "config.json")}
    model = next((entries[role] for role in _ROLES if role in entries), None)
    if model is None:
        raise TextUnreadableError(
            f"{given}: config.json has no auto_map that names a model; name the "
            "modeling file itself."
        )
    _own(given, model)
    return _complete(given, model.module, model.name, entries.get("AutoConfig"), read)


def _own(given: str, entry: AutoClass) -> None:
    if entry.repo is not None:
        raise TextUnreadableError(
            f"{given}: auto_map names {entry.module}.{entry.name} in another "
            f"repository; name that one instead: {entry.repo}."
        )


def _named(
    given: str,
    file: str,
    read: Callable[[str], str | None],
    config: Mapping[str, Any],
) -> Text:
    entries = read_auto_map(config.get("auto_map"), "config.json")
    mine = {e.role: e.name for e in entries if e.module == file}
    name = next((mine[role] for role in _ROLES if role in mine), None)
    if name is None:
        classes = config.get("architectures")
        name = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(name, str):
        raise TextUnreadableError(
            f"{given}: config.json names no class in it, neither in auto_map nor in "
            "architectures."
        )
    about = next((e for e in entries if e.role == "AutoConfig" and not e.repo), None)
    return _complete(given, file, name, about, read)


def _complete(
    given: str,
    file: str,
    name: str,
    about: AutoClass | None,
    read: Callable[[str], str | None],
) -> Text:
    """Return the text with all files that it imports from beside itself."""
    texts: dict[str, str] = {}
    waiting = [file] if about is None or about.repo else [file, about.module]
    while waiting:
        one = waiting.pop(0)
        if one in texts:
            continue
        found = read(one)
        if found is None:
            if one == file:
                raise TextUnreadableError(f"{given} has no file {file}.py.")
            continue
        texts[one] = found
        waiting += [a or b for a, b in _BESIDE.findall(found)]
        if Path(given).expanduser().exists():
            waiting += _BARE.findall(found)
        if len(texts) > _FILES:
            raise TextUnreadableError(
                f"{given}: more than {_FILES} files are imported."
            )
    if about is not None and about.module in texts:
        return Text(texts, file, name, about.module, about.name, given)
    return Text(texts, file, name, given=given)
