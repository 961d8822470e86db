"""Read manifest.json back, as untrusted input."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from glmc.frontends.read.json_text import MEGABYTE, parse_json_object, read_bytes
from glmc.ir.errors import GlmcError, NotABuildError

MANIFEST = "manifest.json"
_LARGEST = 64 * MEGABYTE
_DEPTH = 80
"""A config as deep as any that is read, within a manifest."""


def _within(path: str) -> str:
    """Return a path that stays in its folder; refuse any other."""
    parts = path.split("/")
    plain = PurePosixPath(path).as_posix() == path and "\\" not in path
    if not plain or "\0" in path or {"", ".", ".."} & set(parts) or ":" in parts[0]:
        raise ValueError(f"{path!r} is no path within the build")
    return path


Within = Annotated[str, AfterValidator(_within)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)


class _Stage(_Part):
    name: str
    file: Within
    doc: str


class _Fate(_Part):
    status: Literal["consumed", "ignored", "off"]
    reason: str
    where: str


class _SpecLine(_Part):
    where: str
    says: str
    keys: list[str]


class _Files(_Part):
    """The part of a manifest that every command needs: the files that glmc wrote."""

    files: dict[Within, Digest]
    model: str | None = None
    hidden: int | None = None
    vocab: int | None = None


class _Whole(_Files):
    """A whole manifest, for the commands that show a build."""

    glmc: str
    model: str
    spec: str | None
    variant: str | None = None
    config: dict[str, Any]
    config_keys: dict[str, _Fate]
    spec_lines: dict[str, _SpecLine] = {}
    stages: Annotated[list[_Stage], Field(min_length=2)]


def read_manifest(build: Path, *, whole: bool = False) -> dict[str, Any]:
    """Read the manifest of a build.

    Args:
        build: its folder.
        whole: ask for all that is shown of a build, and not for its ``files`` alone.

    Raises:
        NotABuildError: when the folder is not a build.
    """
    path = build / MANIFEST
    try:
        return parse_manifest(read_bytes(path, _LARGEST), str(path), whole=whole)
    except GlmcError as error:
        raise NotABuildError(
            f"{build} is not a build: it has no readable {MANIFEST} ({error}). "
            f"Make one with: glmc compile CONFIG -o {build}"
        ) from None


def parse_manifest(
    data: str | bytes, where: str, *, whole: bool = False
) -> dict[str, Any]:
    """Parse the manifest in ``data``; messages begin with ``where``.

    Raises:
        GlmcError: when it is none.
    """
    raw = data.encode() if isinstance(data, str) else data
    found = parse_json_object(raw, where, finite=False, depth=_DEPTH)
    checked(_Whole if whole else _Files, found, where)
    return found


def checked(kind: type[BaseModel], value: object, where: str) -> None:
    """Refuse a value that has not the form of ``kind``.

    Raises:
        NotABuildError: naming the first thing that is of another form.
    """
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise NotABuildError(f"{where}: {at}: {first['msg']}") from None
