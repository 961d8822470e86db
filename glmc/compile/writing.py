"""Write a build: whole or not at all, and never over a user's edits."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from glmc.files.manifest import MANIFEST, parse_manifest, read_manifest
from glmc.files.replacing import (
    claimed,
    draft_folder,
    is_ours,
    put,
    spare_name,
    trade,
)
from glmc.ir.errors import EditedBuildError, NotABuildError, OptionValueError

_NEEDED = frozenset(
    {
        *("torch", "triton", "safetensors", "numpy", "huggingface_hub", "jinja2"),
        *("tokenizers", "tiktoken", "sentencepiece", "glmc", "transformers"),
    }
)
"""The packages that a build, or a test of it, imports beside the standard library."""
_ADVICE = "Choose another -o, or pass --force to move it aside first."


def digest(text: str | bytes) -> str:
    """Return the sha256 of a text, in hex."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()


def refuse_name(out: Path) -> None:
    """Refuse a folder that would hide a module that the build needs.

    Raises:
        OptionValueError: naming it.
    """
    name = _name(out)
    if name in _NEEDED or name in sys.stdlib_module_names:
        raise OptionValueError(
            f"-o {out}: programs that start beside a folder {name!r} import it in the"
            f" place of the module {name}, and so would the build itself. Choose"
            " another name."
        )


def name_note(out: Path) -> str | None:
    """Return a note on a folder that Python's ``import`` cannot name, or None."""
    name = _name(out)
    if name.isidentifier() and not iskeyword(name):
        return None
    return (
        f"{name!r} is no name that Python can import: glmc's commands take the folder"
        " as it is; to say `import` rename it, or compile to another -o"
    )


def _name(out: Path) -> str:
    return Path(os.path.abspath(out)).name


def write_build(out: Path, files: Mapping[str, str | bytes], *, force: bool) -> None:
    """Replace the build at ``out`` by ``files``, in one step.

    A folder that is no build, a build of another model, and one with edited files are
    refused; with ``force`` they are moved aside to ``NAME.bak``, ``NAME.bak-2``, …
    first. Files that a user added to a build are kept. A symlink stands for the folder
    it points to.

    Raises:
        GlmcError: when the build would destroy something, or cannot be written.
    """
    with claimed(out, expendable=lambda aside: _expendable(aside, out)) as place:
        against = _against(place, out, files)
        if against and not force:
            raise EditedBuildError(against)
        with draft_folder(place) as draft:
            for name, content in files.items():
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                data = content.encode() if isinstance(content, str) else content
                path.write_bytes(data)
            _bring(draft, place, out, files, keep=bool(against))


def _bring(
    draft: Path,
    place: Path,
    out: Path,
    files: Mapping[str, str | bytes],
    *,
    keep: bool,
) -> None:
    if not os.path.lexists(place) or (not keep and not any(place.iterdir())):
        put(draft, place)
        return
    if not keep:
        _take_along(place, draft)
    with trade(draft, place) as old:
        if keep:
            old.rename(spare_name(place))
            return
        # What was saved there while this build was being written is found now.
        against = _against(old, out, files)
        if against:
            raise EditedBuildError(against)
        _take_along(old, place)


def _take_along(old: Path, new: Path) -> None:
    """Link a user's files of one folder into the other too: as links, as they may be
    large."""
    for name in _added(old):
        path = new / name
        if os.path.lexists(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / name, path, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(old / name, path, follow_symlinks=False)


def _against(
    folder: Path, out: Path, files: Mapping[str, str | bytes] | None = None
) -> str | None:
    """Return the reason not to replace ``folder``, called ``out``, by ``files``, or
    None."""
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        return f"{out} exists and is not a folder. {_ADVICE}"
    if not any(folder.iterdir()):
        return None
    if not (folder / MANIFEST).exists():
        return f"{out} exists and was not written by glmc. {_ADVICE}"
    try:
        changed = _changed(folder)
    except NotABuildError:
        return f"{out} has a {MANIFEST} that cannot be read. {_ADVICE}"
    if changed:
        names = ", ".join(changed)
        return f"{out} holds files edited since they were compiled: {names}. {_ADVICE}"
    if files is None:
        return None
    other = _other_model(folder, files)
    if other:
        return f"{out} holds the build of another model: {other}. {_ADVICE}"
    covered = [name for name in _added(folder) if _collides(name, files)]
    if covered:
        names = ", ".join(covered)
        return f"{out} holds files of yours that the build has too: {names}. {_ADVICE}"
    return None


def _changed(folder: Path) -> list[str]:
    """List the files of a build that are not as they were written."""
    return sorted(
        name
        for name, known in read_manifest(folder)["files"].items()
        if not (folder / name).is_file()
        or digest((folder / name).read_bytes()) != known
    )


def _other_model(folder: Path, files: Mapping[str, str | bytes]) -> str | None:
    """Describe how the model of a build differs from the one that ``files`` are of, or
    None."""
    fresh = files.get(MANIFEST)
    if fresh is None:
        return None
    there = _traits(read_manifest(folder))
    here = _traits(parse_manifest(fresh, MANIFEST))
    for called, old in there.items():
        new = here[called]
        if None not in (old, new) and old != new:
            return f"its {called} is {old}, this one's {new}"
    return None


def _traits(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the traits that tell one model from another; the number of layers is for
    users to set."""
    config = manifest.get("config")
    kind = config.get("model_type") if isinstance(config, dict) else None
    return {
        "model_type": kind,
        "width": manifest.get("hidden"),
        "vocabulary": manifest.get("vocab"),
    }


def _collides(name: str, files: Mapping[str, str | bytes]) -> bool:
    """Tell whether a path is a file of the build, or one of them a folder of the
    other."""
    below = f"{name}/"
    return any(
        name == one or one.startswith(below) or name.startswith(f"{one}/")
        for one in files
    )


def _added(folder: Path) -> list[str]:
    """List the files and links that are not glmc's, byte code aside."""
    written = {*read_manifest(folder)["files"], MANIFEST}
    return [
        name
        for name in sorted(_leaves(folder))
        if name not in written
        and "__pycache__" not in name.split("/")[:-1]
        and not any(map(is_ours, name.split("/")[:-1]))
    ]


def _leaves(folder: Path) -> Iterator[str]:
    """Yield everything below that is no folder, or a link to one."""
    for at, folders, names in os.walk(folder):
        here = Path(at)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            yield (here / name).relative_to(folder).as_posix()


def _expendable(aside: Path, out: Path) -> bool:
    """Tell whether a folder that a killed compile left holds nothing that is not at
    ``out`` too: no edits, and no file of a user's that is not there."""
    if not (aside / MANIFEST).is_file() or _against(aside, out):
        return False
    return all(_same(aside / name, out / name) for name in _added(aside))


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return (
            one.is_symlink()
            and other.is_symlink()
            and os.readlink(one) == os.readlink(other)
        )
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or one.read_bytes() == other.read_bytes()
