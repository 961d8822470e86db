"""Templates are compiled once; what cannot be read or written does no harm."""

import sys
from pathlib import Path

import jinja2
import pytest

from glmc.backends.templates import TemplateCache


@pytest.fixture(autouse=True)
def _writes_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def rendered(folder: Path, text: str) -> str:
    """Return what a fresh environment makes of a template, with its cache in a
    folder."""
    loader = jinja2.DictLoader({"page": text})
    env = jinja2.Environment(loader=loader, bytecode_cache=TemplateCache(folder))
    return env.get_template("page").render(name="a")


def test_a_second_environment_reads_what_the_first_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rendered(tmp_path, "one {{ name }}")
    monkeypatch.setattr(jinja2.Environment, "_parse", None)
    assert rendered(tmp_path, "one {{ name }}") == first == "one a"
    with pytest.raises(TypeError):  # the control: another text is compiled
        rendered(tmp_path, "two {{ name }}")


@pytest.mark.parametrize("left", [b"", b"j2", b"\0" * 40])
def test_a_broken_file_is_compiled_anew(tmp_path: Path, left: bytes) -> None:
    rendered(tmp_path, "one {{ name }}")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for broken in (left, whole[:20], whole[:-5]):
        file.write_bytes(broken)
        assert rendered(tmp_path, "one {{ name }}") == "one a"


def test_a_folder_that_cannot_be_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert rendered(tmp_path / "file" / "cache", "one {{ name }}") == "one a"
