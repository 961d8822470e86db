"""Writing a build: whole or not at all, and never over a user's edits."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from glmc.ir.errors import EditedBuildError, NotABuildError, OutputError

MANIFEST = "manifest.json"


def digest(text: str | bytes) -> str:
    """sha256, in hex."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()


def write_build(out: Path, files: Mapping[str, str | bytes], *, force: bool) -> None:
    """Replace the build at ``out`` by ``files``, in one rename.

    A folder that is no build, or a build with edited files, is refused; with ``force``
    it is moved aside to ``NAME.bak``, ``NAME.bak-2``, … first. Files that a user added
    to a build are kept.

    Raises:
        GlmcError: when the build would destroy something.
    """
    edited = _edited(out)
    if edited and not force:
        raise EditedBuildError(edited)
    with writing_to(out):
        _write(out, files, keep=bool(edited))


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Tell what the system has against writing there as a sentence.

    Raises:
        OutputError: for any OSError within.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{out} cannot be written ({reason}); choose another -o."
        ) from None


def _write(out: Path, files: Mapping[str, str | bytes], *, keep: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data)
        fresh.chmod(0o777 & ~umask())
        _swap(out, fresh, keep=keep)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _swap(out: Path, fresh: Path, *, keep: bool) -> None:
    if not out.exists():
        fresh.rename(out)
        return
    if not keep and (out / MANIFEST).exists():
        for name in _added(out):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(out / name, fresh / name)
    old = _free(out) if keep else Path(tempfile.mkdtemp(dir=out.parent)) / out.name
    out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        old.rename(out)
        raise
    if not keep:
        shutil.rmtree(old.parent)


def _free(out: Path) -> Path:
    """The first backup name that is not taken."""
    candidate, count = out.with_name(out.name + ".bak"), 1
    while candidate.exists():
        count += 1
        candidate = out.with_name(f"{out.name}.bak-{count}")
    return candidate


def read_manifest(build: Path) -> dict[str, object]:
    """The manifest of a build.

    Raises:
        GlmcError: when the folder is not a build.
    """
    path = build / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        assert isinstance(manifest["files"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise NotABuildError(
            f"{build} is not a build: it has no readable {MANIFEST}. "
            f"Make one with: glmc compile CONFIG -o {build}"
        ) from None
    return dict(manifest)


def _edited(out: Path) -> str | None:
    """Why ``out`` must not be replaced, or None."""
    if not out.exists():
        return None
    advice = "Choose another -o, or pass --force to move it aside first."
    if not out.is_dir():
        return f"{out} exists and is not a folder. {advice}"
    if not any(out.iterdir()):
        return None
    if not (out / MANIFEST).exists():
        return f"{out} exists and was not written by glmc. {advice}"
    written = read_manifest(out)["files"]
    assert isinstance(written, dict)
    changed = [
        name
        for name, known in written.items()
        if not (out / name).is_file() or digest((out / name).read_bytes()) != known
    ]
    if changed:
        names = ", ".join(sorted(changed))
        return f"{out} holds files edited since they were compiled: {names}. {advice}"
    return None


def _added(out: Path) -> list[Path]:
    """Files that are not glmc's, byte code aside."""
    written = read_manifest(out)["files"]
    assert isinstance(written, dict)
    found = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    return [
        path
        for path in found
        if path.as_posix() not in {*written, MANIFEST}
        and "__pycache__" not in path.parts
    ]
