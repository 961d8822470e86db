"""Find what the user named: a config.json, a folder, a built-in config, or a hub id."""

from dataclasses import dataclass
from pathlib import Path

from glmc.frontends.read.hub import Hub, fetch_description, is_hub_id
from glmc.frontends.read.json_text import MEGABYTE, read_json_object
from glmc.frontends.spec.library import builtin_configs
from glmc.frontends.wording import nearest
from glmc.ir.errors import SourceNotFoundError

SIDECAR = "hf_quant_config.json"
_MAX_CONFIG = 8 * MEGABYTE


@dataclass(frozen=True)
class Source:
    """The place of a model's description."""

    given: str
    """The source as the user wrote it."""
    config_path: Path
    folder: Path
    """The folder of config.json; for a hub id, the hub's cache of it."""
    hub_id: str | None = None
    builtin: bool = False
    """True where this is one of the configs that glmc comes with."""
    note: str | None = None
    """A note for the user on the choice that was made."""

    @property
    def where(self) -> str:
        """The name of the config in messages."""
        return (
            f"built-in config {self.given}" if self.builtin else str(self.config_path)
        )

    def read_config(self) -> dict[str, object]:
        """Read config.json.

        Raises:
            GlmcError: when it is missing or not a JSON object of reasonable size.
                NaN and infinities pass: what a spec reads is looked at key by key.
        """
        return read_json_object(self.config_path, _MAX_CONFIG, finite=False)

    def read_generation_config(self) -> dict[str, object]:
        """Read generation_config.json beside it; empty where there is none."""
        return self._beside("generation_config.json")

    def read_quantization(self) -> dict[str, object]:
        """Read hf_quant_config.json beside it, which quantised repositories may
        have."""
        return self._beside(SIDECAR)

    def _beside(self, name: str) -> dict[str, object]:
        path = self.folder / name
        if self.builtin:
            return {}
        return read_json_object(path, _MAX_CONFIG) if path.is_file() else {}


def _path(given: str) -> Path:
    """Return what was given as a path, if it can be one on this system."""
    try:
        path = Path(given).expanduser()
        path.is_dir()
    except OSError as error:
        raise SourceNotFoundError(
            f"{given[:80]}… is no path of this system: {error.strerror}"
        ) from None
    except RuntimeError as error:  # ~NAME of nobody
        raise SourceNotFoundError(f"{given[:80]}: {error}") from None
    return path


def resolve_source(given: str, hub: Hub | None = None) -> Source:
    """Find the config that ``given`` stands for.

    What lies here comes before a built-in config, and that before the hub.

    Args:
        given: a path to a config.json or to a folder with one, the name of a built-in
            config, or ``ORG/NAME``.
        hub: how the hub is asked, and for which revision; hub ids only.

    Raises:
        GlmcError: when there is nothing of that name.
    """
    path = _path(given)
    if path.is_dir():
        return _folder(given, path)
    if path.is_file():
        if path.suffix != ".json":
            raise SourceNotFoundError(
                f"{given} is not a config.json; name the config or its folder"
            )
        return Source(given, path, path.parent)
    if given in builtin_configs():
        return builtin_source(given)
    if is_hub_id(given):
        hub = hub or Hub()
        folder = fetch_description(given, hub)
        return Source(given, folder / "config.json", folder, given)
    raise SourceNotFoundError(_nothing(given))


def builtin_source(name: str) -> Source:
    """Return the config of that name that glmc comes with, whatever lies here."""
    path = builtin_configs()[name]
    return Source(name, path, path.parent, builtin=True)


def _nothing(given: str) -> str:
    near = nearest(given.lower(), builtin_configs(), likeness=0.7)
    meant = f" Did you mean the built-in config {near}?" if near else ""
    return (
        f"{given!r} is neither a file or folder here, nor a built-in config (see: glmc"
        " configs), nor a hub id of the form ORG/NAME, as in zai-org/chatglm3-6b."
        + meant
    )


def _folder(given: str, folder: Path) -> Source:
    config = folder / "config.json"
    namesake = given in builtin_configs()
    if not config.is_file():
        hides = " and hides the built-in config of that name" if namesake else ""
        raise SourceNotFoundError(f"the folder {given} has no config.json{hides}")
    note = f"{given} is taken as the folder here, not as the built-in config"
    return Source(given, config, folder, note=note if namesake else None)
