"""Offer the kernels that were compiled with the build to Triton, on the first load."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

#: Where `glmc compile --aot` puts them, and what it says of them.
FOLDER = Path(__file__).with_name("aot")


def offer(device: torch.device, folder: Path = FOLDER) -> int:
    """Puts the kernels for `device` where Triton looks before it compiles one.

    Each lies under the key that Triton itself gives it, made of the kernel's source,
    its specialisation, Triton's own code and its assembler: a kernel that was edited
    since, or another Triton, asks for another key and compiles. Returns how many
    kernels Triton now has; 0 for a build without any and for other GPUs.
    """
    index = folder / "resources.json"
    if device.type != "cuda" or torch.version.hip or not index.is_file():
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    try:
        listed = json.loads(index.read_text("utf-8"))
        made = [k for k in listed["kernels"] if k["target"] == f"cuda:{major}{minor}"]
        return sum(_put(kernel, folder) for kernel in made) if _same(listed) else 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        _compiles_again(f"could not be handed to Triton ({error!r})")
        return 0


def _same(listed: Mapping[str, Any]) -> bool:
    """Tells whether the Triton here is the one that compiled them."""
    import triton

    if listed["triton"] == triton.__version__:
        return True
    _compiles_again(f"are of Triton {listed['triton']}, here is {triton.__version__}")
    return False


def _compiles_again(reason: str) -> None:
    warnings.warn(
        f"the kernels in {FOLDER} {reason}; Triton compiles them again on first use",
        stacklevel=2,
    )


def _put(kernel: Mapping[str, Any], folder: Path) -> bool:
    """Puts one kernel into Triton's cache, unless it is there; False for a damaged
    one."""
    from triton.runtime.cache import get_cache_manager

    cache = get_cache_manager(kernel["key"])
    metadata = f"{kernel['kernel']}.json"
    if cache.get_group(metadata):
        return True
    binary = folder / kernel["binary"]
    content = binary.read_bytes()
    if hashlib.sha256(content).hexdigest() != kernel["sha256"]:
        _compiles_again(f"are damaged: {binary.name} is not what was written")
        return False
    files = {
        f"{kernel['kernel']}{binary.suffix}": content,
        metadata: binary.with_suffix(".json").read_bytes(),
    }
    cache.put_group(
        metadata, {name: cache.put(data, name) for name, data in files.items()}
    )
    return True
