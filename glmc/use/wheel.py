"""A build as a wheel: what pip installs."""

import re
from pathlib import Path

from glmc.backends.package import title
from glmc.backends.runtime.wheels import WHEEL, zipped
from glmc.files.manifest import MANIFEST
from glmc.files.replacing import write_file
from glmc.ir.errors import NotExportableError
from glmc.look.builds import Build
from glmc.version import __version__


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
        f"{info}/WHEEL": WHEEL.encode(),
    }
    if "vllm_plugin.py" in build.manifest["files"]:
        point = f"[vllm.general_plugins]\n{name} = {name}.vllm_plugin:register\n"
        files[f"{info}/entry_points.txt"] = point.encode()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{__version__}-py3-none-any.whl"
    write_file(file, zipped(files, info))
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
