"""Make a wheel of a build, when pip asks for one: `pip install ./BUILD`.

pyproject.toml names this file as its backend, so that nothing has to be downloaded and
nothing is written to the build. pip imports it alone, from the build's folder.
"""

import base64
import hashlib
import json
import tomllib
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

#: The time of every file: equal builds give identical wheels.
EPOCH = (1980, 1, 1, 0, 0, 0)
WHEEL = (
    "Wheel-Version: 1.0\nGenerator: glmc\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)


def build_wheel(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Writes the wheel of the build in the working directory; returns its name."""
    here = Path.cwd().resolve()
    project = tomllib.loads((here / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    files = {f"{name}/{one}": (here / one).read_bytes() for one in contents(here)}
    info = f"{name}-{version}.dist-info"
    groups = project.get("entry-points", {})
    points = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))
    ]
    files[f"{info}/METADATA"] = metadata(project).encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/entry_points.txt"] = ("\n".join(points) + "\n").encode()
    file = f"{name}-{version}-py3-none-any.whl"
    (Path(wheel_directory) / file).write_bytes(zipped(files, info))
    return file


def contents(build: Path) -> list[str]:
    """Lists what a build consists of: what its manifest names, and files of Python that
    were added beside those. Raises ValueError where one lies elsewhere."""
    manifest = build / "manifest.json"
    listed = json.loads(manifest.read_text("utf-8"))["files"]
    found = {*listed, manifest.name, *(path.name for path in build.glob("*.py"))}
    outside = [one for one in found if not _is_within(build, one)]
    if outside:
        raise ValueError(f"{manifest} names {outside[0]!r}, which is no file in it.")
    return sorted(found)


def _is_within(build: Path, name: str) -> bool:
    return (build / name).resolve().is_relative_to(build) and (build / name).is_file()


def metadata(project: Mapping[str, Any]) -> str:
    """Returns what a wheel says of itself."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"Requires-Python: {project['requires-python']}",
    ]
    return "\n".join(lines) + "\n"


def zipped(files: Mapping[str, bytes], info: str) -> bytes:
    """Returns a wheel of files by their paths; `info` is the folder that lists them."""
    made = BytesIO()
    record = f"{info}/RECORD"
    rows = [f"{name},{_digest(data)},{len(data)}" for name, data in files.items()]
    listed = ("\n".join([*rows, f"{record},,"]) + "\n").encode()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, record: listed}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return made.getvalue()


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.decode().rstrip('=')}"
