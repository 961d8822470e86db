"""Kills, full disks and concurrent writers for a build and a user's file beside it.

``python tests/support/durability.py 300`` runs each of them 300 times.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from glmc.compile.writing import digest, write_build
from glmc.files import replacing
from glmc.files.manifest import MANIFEST
from glmc.ir.errors import GlmcError

Files = dict[str, str]
MINE = ("mine.txt", "a user's")
NOBODY = 65534
PAGE = 4096


def build_files(kind: str, count: int = 24) -> Files:
    """Files of a made-up build, which says in every one of them what it is."""
    files = {f"part{n % 3}/file{n}.py": f"{kind} {n}\n" * 400 for n in range(count)}
    hashes = {name: digest(text) for name, text in files.items()}
    return files | {MANIFEST: json.dumps({"files": hashes})}


BUILDS = {kind: build_files(kind) for kind in "ABCD"}


def state(out: Path) -> str:
    """The build that lies there whole, with the user's file; or else what is wrong."""
    if not out.is_dir():
        return "nothing"
    found = {
        path.relative_to(out).as_posix(): path.read_text()
        for path in out.rglob("*")
        if path.is_file()
    }
    if found.pop(MINE[0], None) != MINE[1]:
        return "the user's file is lost"
    kinds = [kind for kind, files in BUILDS.items() if files == found]
    return kinds[0] if kinds else f"{len(found)} files of no one build"


def begin(out: Path) -> None:
    """A build A with a user's file."""
    write_build(out, BUILDS["A"], force=False)
    (out / MINE[0]).write_text(MINE[1])


def forked(act: Callable[[], None]) -> int:
    """A process that does something; it ends with 0, with 2 for a GlmcError."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        act()
        code = 0
    except GlmcError as error:
        code = 2 if "cannot be written" in str(error) else 3
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Its exit code, below zero for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checked(out: Path, allowed: str, what: str) -> str:
    """The state, which must be one of the builds ``allowed``, with no litter around."""
    found = state(out)
    assert found in allowed, f"{what}: {found}"
    litter = [path.name for path in out.parent.iterdir() if path != out]
    assert not litter, f"{what}: {litter} left"
    return found


def kills(folder: Path, rounds: int, rnd: random.Random) -> Counter[str]:
    """kill -9 at a random moment; what is there is old or new, and what is written next
    clears up."""
    out, seen = folder / "build", Counter[str]()
    begin(out)
    took, now = 0.0, "A"
    for now in "BAB":
        start = time.perf_counter()
        ended(forked(partial(write_build, out, BUILDS[now], force=False)))
        took = time.perf_counter() - start
    for at in range(rounds):
        old, new = now, "AB"[now == "A"]
        child = forked(partial(write_build, out, BUILDS[new], force=False))
        time.sleep(rnd.random() * took * 1.1)
        os.kill(child, signal.SIGKILL)
        ended(child)
        found = state(out)
        assert found in (old, new), f"kill {at}: {found}"
        seen[f"{'old' if found == old else 'new'} after a kill"] += 1
        seen["left something to clear"] += len(list(folder.iterdir())) > 1
        write_build(out, BUILDS[old], force=False)
        now = checked(out, old, f"kill {at}, written again")
    return seen


def kills_without_exchange(
    folder: Path, rounds: int, rnd: random.Random
) -> Counter[str]:
    """The same where the system cannot exchange two names: for a moment nothing may be
    there, and what is written next finds the old build."""
    out, seen = folder / "build", Counter[str]()
    begin(out)

    def two_renames(new: str, until: int) -> None:
        left, rename = [until], Path.rename

        def counted(self: Path, target: Path) -> Path:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return rename(self, target)

        replacing._renameat2 = lambda *_: False
        Path.rename = counted  # type: ignore[method-assign, assignment]
        write_build(out, BUILDS[new], force=False)

    for at in range(rounds):
        until = rnd.randrange(5)
        ended(forked(partial(two_renames, "B", until)))
        seen[f"{state(out)} after a kill"] += 1
        write_build(out, BUILDS["A"], force=False)
        checked(out, "A", f"kill {at}, written again")
    return seen


def full_disks(folder: Path, rounds: int, rnd: random.Random) -> Counter[str]:
    """A write breaks off at a random byte: a refusal, and the old build as it was."""
    out, seen = folder / "build", Counter[str]()
    begin(out)
    largest = max(map(len, BUILDS["B"].values()))

    def limited(most: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        write_build(out, BUILDS["B"], force=False)

    for at in range(rounds):
        most = rnd.randrange(largest)
        code = ended(forked(partial(limited, most)))
        assert code == 2, f"full {at}: exit code {code}"
        seen[f"{checked(out, 'A', f'full {at}')} after a refusal"] += 1
    return seen


def full_file_systems(folder: Path, rounds: int, rnd: random.Random) -> Counter[str]:
    """The same on a file system that has not the room (for whoever may mount one)."""
    seen = Counter[str]()
    one = sum(-(-len(text) // PAGE) * PAGE for text in BUILDS["A"].values())
    for at in range(rounds):
        size = one * 5 // 4 + rnd.randrange(one)
        options = f"size={size}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return Counter({"not allowed to mount": 1})
        try:
            out = folder / "build"
            begin(out)
            code = ended(forked(partial(write_build, out, BUILDS["B"], force=False)))
            wanted = {0: "B", 2: "A"}.get(code, "")
            found = checked(out, wanted, f"full {at}, exit code {code}")
            seen[f"{found} after exit code {code}"] += 1
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    return seen


def four_writers(folder: Path, rounds: int, rnd: random.Random) -> Counter[str]:
    """Four processes write to one place at once: one of the builds, whole."""
    out, seen = folder / "build", Counter[str]()
    begin(out)
    for at in range(rounds):
        kinds = rnd.sample(sorted(BUILDS), 4)
        children = [
            forked(partial(write_build, out, BUILDS[kind], force=False))
            for kind in kinds
        ]
        codes = [ended(child) for child in children]
        assert codes == [0, 0, 0, 0], f"writers {at}: {codes}"
        seen[f"{checked(out, 'ABCD', f'writers {at}')} came last"] += 1
    return seen


def read_only(folder: Path, rounds: int, rnd: random.Random) -> Counter[str]:
    """A folder that may not be written: a refusal, and everything as it was."""
    out, seen = folder / "build", Counter[str]()
    begin(out)
    places = [out, out / "part0", folder]

    def refused() -> None:
        if os.geteuid() == 0:  # who may write everywhere
            os.setuid(NOBODY)
        write_build(out, BUILDS["B"], force=False)

    for at in range(rounds):
        closed = [place for place in places if rnd.random() < 0.5] or [folder]
        closed = [*closed, folder]
        for place in closed:
            place.chmod(0o555)
        code = ended(forked(refused))
        for place in closed:
            place.chmod(0o755)
        assert code == 2, f"read-only {at}: exit code {code}"
        seen[f"{checked(out, 'A', f'read-only {at}')} after a refusal"] += 1
    return seen


SCENES = (
    kills,
    kills_without_exchange,
    full_disks,
    full_file_systems,
    four_writers,
    read_only,
)


def play(scene: Callable[..., Counter[str]], rounds: int) -> Counter[str]:
    """A scene in a folder of its own; raises AssertionError where something is lost."""
    folder = Path(tempfile.mkdtemp(prefix="durability-"))
    folder.chmod(0o755)
    try:
        return scene(folder, rounds, random.Random(scene.__name__))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    for one in SCENES:
        print(f"{one.__name__}: {dict(play(one, int(sys.argv[1])))}", flush=True)
