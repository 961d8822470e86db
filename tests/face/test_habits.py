"""Notebooks, highlighting and completion: glmc where people already work."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.token import Error, Keyword, Name

from glmc.command.cli import main
from glmc.look.builds import Build
from support import GOLDEN
from support.cli import glmc


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    out = tmp_path_factory.mktemp("habits") / "build"
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(out)]) == 0
    return Build(out)


def test_a_notebook_shows_pictures(build: Build) -> None:
    graph = build.program.blocks[0]
    drawn = ElementTree.fromstring(graph._repr_svg_())
    assert drawn.tag.endswith("svg")
    assert build.program._repr_html_().count("<svg ") == 3
    assert "3 x layer" in build._repr_html_()


def test_every_dump_is_coloured_whole(build: Build) -> None:
    lexer = get_lexer_by_name("glmc")
    assert type(get_lexer_for_filename("1-lowered.glmc")) is type(lexer)
    for stage in build.stages:
        text = build.dump(stage)
        tokens = list(lexer.get_tokens(text))
        assert "".join(word for _, word in tokens) == text
        assert not [word for kind, word in tokens if kind is Error]
    words = {word: kind for kind, word in tokens}
    assert words["rms_norm_linear"] is Name.Function
    assert words["%x"] is Name.Variable
    assert words["block"] is Keyword.Declaration


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, tmp_path: Path) -> None:
    run = glmc("--print-completion", shell, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "inspect" in run.stdout
    assert "--max-new-tokens" in run.stdout
