"""A build as a wheel: what pip installs."""

import base64
import hashlib
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from glmc.backends.package import title
from glmc.files.manifest import MANIFEST
from glmc.files.replacing import write_file
from glmc.ir.errors import NotExportableError
from glmc.look.builds import Build
from glmc.version import __version__

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: equal builds give identical wheels."""


def write_wheel(build: Build, folder: Path) -> Path:
    """Write ``NAME-VERSION-py3-none-any.whl`` to a folder, whole or not at all.

    The package is called as the build's folder is. Weights are no part of it.

    Raises:
        GlmcError: when the folder has no name that Python can import, or the system
            refuses.
    """
    name = build.path.resolve().name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise NotExportableError(
            f"{build.path}: {name!r} is no name that a package can have; rename the"
            " folder of the build"
        )
    listed = [*build.manifest["files"], MANIFEST]
    files = {f"{name}/{one}": (build.path / one).read_bytes() for one in sorted(listed)}
    info = f"{name}-{__version__}.dist-info"
    files |= {
        f"{info}/METADATA": _metadata(build, name).encode(),
        f"{info}/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: glmc\nRoot-Is-Purelib: true\n"
            b"Tag: py3-none-any\n"
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{__version__}-py3-none-any.whl"
    write_file(file, _zipped(files | _record(files, f"{info}/RECORD")))
    return file


def _metadata(build: Build, name: str) -> str:
    needs = ["torch>=2.9", "safetensors>=0.5", "huggingface_hub>=1.0"]
    if "kernels.py" in build.manifest["files"]:
        needs.append('triton>=3.5; sys_platform == "linux"')
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {__version__}",
        f"Summary: {title(build.model)}",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {one}" for one in needs),
        "Provides-Extra: hf",
        'Requires-Dist: transformers>=5.0; extra == "hf"',
        "Provides-Extra: tokenizers",
        *(
            f'Requires-Dist: {one}; extra == "tokenizers"'
            for one in ("jinja2", "tokenizers", "sentencepiece", "tiktoken")
        ),
    ]
    return "\n".join(lines) + "\n"


def _record(files: Mapping[str, bytes], own: str) -> dict[str, bytes]:
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
        rows.append(f"{name},sha256={digest.decode().rstrip('=')},{len(data)}")
    return {own: ("\n".join([*rows, f"{own},,"]) + "\n").encode()}


def _zipped(files: Mapping[str, bytes]) -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return made.getvalue()
