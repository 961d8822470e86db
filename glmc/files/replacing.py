"""Replace a file or folder: in one step, one writer at a time, leaving nothing.

What is being written lies beside its place, in a folder ``.NAME.glmc``, and comes there
by one rename. A process that is killed at any moment leaves the old or the new, and
perhaps that folder; the next one that writes to the same place clears it away.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from glmc.ir.errors import OutputError, OutputExistsError

if TYPE_CHECKING:
    import filelock

_DRAFT, _ASIDE, _LOCK = "draft", "aside", "lock"
_PATIENCE = 60.0
"""Seconds to wait for another process that writes to the same place."""
_LONGEST = 100
"""Bytes of a name that stand in the names beside it; file systems take 255 in all."""

Whole = Callable[[Path], bool]
"""True where a folder that was put aside holds nothing of a user's."""


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn an OSError raised within into a sentence about the place.

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


@contextmanager
def claimed(
    out: Path, expendable: Whole | None = None, *, parents: bool = True
) -> Iterator[Path]:
    """Hold a place for this process alone, cleared of what killed ones left there.

    Args:
        out: the place. A symlink stands for what it points to.
        expendable: of a folder that a killed process had put aside; None: none of them
            is. Others are kept as ``NAME.bak``.
        parents: make the folders above that are missing.

    Yields:
        The place itself, to which :func:`put` and :func:`trade` may bring a draft.

    Raises:
        OutputError: when the system refuses, or another process holds the place for a
            minute.
    """
    with writing_to(out):
        place = Path(os.path.realpath(out))
        if parents:
            place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place, out):
            _recover(place, expendable)
            yield place


def refuse_taken(out: Path) -> None:
    """Refuse a place where something is.

    Raises:
        OutputExistsError: when there is.
    """
    if os.path.lexists(out):
        raise OutputExistsError(f"{out} exists; name a folder that does not, with -o")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Make a folder to fill, which becomes ``out`` when all is done and else vanishes.

    Raises:
        OutputExistsError: when something is there already.
        OutputError: when the system refuses.
    """
    with claimed(out) as place:
        refuse_taken(place)
        with draft_folder(place) as draft:
            yield draft
            put(draft, place)


@contextmanager
def draft_folder(place: Path) -> Iterator[Path]:
    """Make an empty folder beside a claimed place; removed unless it was brought
    there."""
    draft = _beside(place, _DRAFT)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_file(out: Path, data: str | bytes) -> None:
    """Write a whole file or nothing; what is no regular file is written through.

    Raises:
        OutputError: when the system refuses.
    """
    content = data.encode() if isinstance(data, str) else data
    with writing_to(out):
        if os.path.exists(out) and not os.path.isfile(out):  # a pipe, /dev/null
            out.write_bytes(content)
            return
    with claimed(out, parents=False) as place:
        draft = _beside(place, _DRAFT)
        try:
            draft.write_bytes(content)
            if place.exists():
                shutil.copymode(place, draft)
            put(draft, place)
        finally:
            draft.unlink(missing_ok=True)


def put(draft: Path, place: Path) -> None:
    """Bring a draft to a claimed place where there is nothing, or an empty folder, or
    for a file another file."""
    os.replace(draft, place)


@contextmanager
def trade(draft: Path, place: Path) -> Iterator[Path]:
    """Bring a folder to a place and have what was there aside, in one step.

    Within, the old one may be looked at once more, or moved; an error there brings it
    back. What is left of it afterwards is removed.
    """
    aside = _beside(place, _ASIDE)
    draft.rename(aside)
    try:
        old = _exchange(aside, place)
    except BaseException:
        aside.rename(draft)
        raise
    try:
        yield old
    except BaseException:
        _exchange(old, place).rename(draft)
        raise
    if old.exists():
        # By this name it is nobody's, should the removal break off.
        old.rename(trash := _beside(place, _DRAFT))
        shutil.rmtree(trash, ignore_errors=True)


def umask() -> int:
    """Return the permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def spare_name(place: Path) -> Path:
    """Return the first of ``NAME.bak``, ``NAME.bak-2``, … that is not taken."""
    candidate, count = place.with_name(place.name + ".bak"), 1
    while os.path.lexists(candidate):
        count += 1
        candidate = place.with_name(f"{place.name}.bak-{count}")
    return candidate


def _exchange(one: Path, other: Path) -> Path:
    """Move ``one`` to ``other``; return the path where what was at ``other`` lies
    now."""
    if _renameat2(one, other):
        return one
    # Two renames: whoever is killed between them leaves `other` aside, from where the
    # next writer brings it back.
    away = _beside(other, _ASIDE)
    other.rename(away)
    try:
        one.rename(other)
    except BaseException:
        away.rename(other)
        raise
    return away


@cache
def _c_library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "renameat2") else None


def _renameat2(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or file system cannot."""
    library, here, exchange = _c_library(), -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if library is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if not library.renameat2(here, names[0], here, names[1], exchange):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _stem(place: Path) -> str:
    """Return the prefix of names beside a place: its own name, cut where it is long."""
    name = place.name
    if len(os.fsencode(name)) > _LONGEST:
        name = f"{name[: _LONGEST // 4]}-{sha256(os.fsencode(name)).hexdigest()[:12]}"
    return f".{name}.glmc-"


def is_ours(name: str) -> bool:
    """Tell whether a folder of this name is one of ours, in which something is being
    written."""
    return re.fullmatch(r"\..+\.glmc", name) is not None


def _workshop(place: Path) -> Path:
    """Return the folder beside a place for drafts; its name is the place's, cut where
    it is long."""
    name = place.name
    if len(os.fsencode(name)) > _LONGEST:
        name = f"{name[: _LONGEST // 4]}-{sha256(os.fsencode(name)).hexdigest()[:12]}"
    return place.with_name(f".{name}.glmc")


def _beside(place: Path, what: str) -> Path:
    return _workshop(place) / f"{what}-{secrets.token_hex(6)}"


@contextmanager
def _locked(place: Path, told: Path) -> Iterator[None]:
    workshop = _workshop(place)
    lock = _acquired(workshop, told)
    try:
        # For whoever waits; a full disk is told by what is written next.
        with suppress(OSError):
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            (workshop / _LOCK).write_text(holder, "utf-8")
        yield
    finally:
        # Removed while it is held: who waits for it sees that, and makes another.
        with suppress(OSError):
            (workshop / _LOCK).unlink()
            workshop.rmdir()
        lock.release()


def _acquired(workshop: Path, told: Path) -> "filelock.BaseFileLock":
    import filelock  # here, as only what writes needs it

    file, until = workshop / _LOCK, time.monotonic() + _PATIENCE
    while True:
        # Not exist_ok, which looks again and raises where it has just been removed.
        with suppress(FileExistsError):
            workshop.mkdir()
        lock = filelock.FileLock(file, timeout=max(0.0, until - time.monotonic()))
        try:
            lock.acquire()
        except FileNotFoundError:  # whoever held it has just removed the folder
            continue
        except filelock.Timeout:
            holder = ""
            with suppress(OSError, ValueError):
                holder = file.read_text("utf-8").strip()[:200]
            raise OutputError(
                f"{told} is being written by {holder or 'another process'}; wait until"
                f" it is done, or end it. (The lock is {file}.)"
            ) from None
        return lock


def _recover(place: Path, expendable: Whole | None) -> None:
    """Undo or finish what killed processes began; the place is ours."""
    for left in sorted(_workshop(place).iterdir()):
        kind = left.name.partition("-")[0]
        if kind == _DRAFT:
            _remove(left)
        elif kind == _ASIDE and not os.path.lexists(place):
            left.rename(place)
        elif kind == _ASIDE and expendable is not None and expendable(left):
            _remove(left)
        elif kind == _ASIDE:
            left.rename(spare_name(place))


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)
