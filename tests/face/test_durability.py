"""Nothing is lost and nothing left, whatever happens while a build is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc.files import replacing
from support import durability

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the scenes need processes of POSIX"
)


QUICK = [one for one in durability.SCENES if one is not durability.full_file_systems]


@pytest.mark.parametrize("scene", QUICK, ids=lambda scene: scene.__name__)
def test_a_build_lives_through(scene: Callable[..., Any]) -> None:
    assert durability.play(scene, 12)


@pytest.mark.slow
@pytest.mark.parametrize("scene", durability.SCENES, ids=lambda scene: scene.__name__)
def test_a_build_lives_through_three_hundred(scene: Callable[..., Any]) -> None:
    assert durability.play(scene, 300)


@pytest.mark.parametrize("scene", [durability.kills, durability.full_disks])
def test_control_a_writer_in_place_is_caught(
    scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that replaces the old build file by file fails the scenes."""

    def in_place(out: Path, files: durability.Files, *, force: bool) -> None:
        with replacing.writing_to(out):
            for name, text in files.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_text(text)

    monkeypatch.setattr(durability, "write_build", in_place)
    with pytest.raises(AssertionError):
        durability.play(scene, 60)


def test_a_lock_whose_folder_has_just_gone_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held the place removes its folder while another is about to make it."""
    workshop = tmp_path / ".build.glmc"
    workshop.mkdir()
    mkdir = os.mkdir
    gone: list[Path] = []

    def late(path: Any, *more: Any, **named: Any) -> None:
        if Path(path) == workshop and not gone:
            workshop.rmdir()
            gone.append(workshop)
            raise FileExistsError(path)
        mkdir(path, *more, **named)

    monkeypatch.setattr(os, "mkdir", late)
    with replacing.new_folder(tmp_path / "build") as draft:
        (draft / "file").touch()
    assert gone
    assert (tmp_path / "build/file").is_file()
    assert not workshop.exists()
