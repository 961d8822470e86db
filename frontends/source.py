"""What the user named: a config.json, a model folder, or a repository on the hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from glmc.frontends.json_text import MEGABYTE, read_json_object
from glmc.ir.errors import GlmcError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_MAX_CONFIG = 8 * MEGABYTE


@dataclass(frozen=True)
class Source:
    """Where a model's description lies."""

    given: str
    """What the user wrote."""
    config_path: Path
    folder: Path
    """The folder of config.json; for a hub id, the hub's cache of it."""
    hub_id: str | None = None
    revision: str | None = None

    def read_config(self) -> dict[str, object]:
        """config.json.

        Raises:
            GlmcError: when it is missing or not a JSON object of reasonable size.
        """
        return read_json_object(self.config_path, _MAX_CONFIG)

    def read_generation_config(self) -> dict[str, object]:
        """generation_config.json beside it; empty where there is none."""
        return self._beside("generation_config.json")

    def read_quantization(self) -> dict[str, object]:
        """hf_quant_config.json beside it, which quantised repositories may have."""
        return self._beside("hf_quant_config.json")

    def _beside(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return read_json_object(path, _MAX_CONFIG) if path.is_file() else {}


def resolve_source(given: str, revision: str | None = None) -> Source:
    """Find the config that ``given`` stands for.

    Args:
        given: a path to a config.json or to a folder with one, or ``ORG/NAME``.
        revision: a branch, tag or commit; hub ids only.

    Raises:
        GlmcError: when there is nothing of that name.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(given, path)
    if path.is_file():
        if path.suffix != ".json":
            raise GlmcError(
                f"{given} is not a config.json; name the config or its folder"
            )
        return Source(given, path, path.parent)
    looks_like_path = given.startswith((".", "/", "~")) or path.suffix == ".json"
    if not looks_like_path and _HUB_ID.fullmatch(given):
        from glmc.frontends.hub import fetch_description

        folder = fetch_description(given, revision)
        return Source(given, folder / "config.json", folder, given, revision)
    raise GlmcError(
        f"{given!r} is neither a file or folder here nor a hub id of the form ORG/NAME,"
        " as in zai-org/chatglm3-6b"
    )


def _folder(given: str, folder: Path) -> Source:
    config = folder / "config.json"
    if not config.is_file():
        raise GlmcError(f"the folder {given} has no config.json")
    return Source(given, config, folder)
