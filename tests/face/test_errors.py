"""Every error has a code that stays, a paragraph, a next step, and a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from glmc.book.error_pages import error_pages, message_forms, raises
from glmc.command.cli import main, told
from glmc.compile.checkpoints import KINDS
from glmc.ir.errors import (
    DumpRuleError,
    GlmcError,
    IRSyntaxError,
    UnknownKeyError,
    catalogue,
)
from support import GOLDEN, ROOT

ERRORS = catalogue()


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return error_pages()


def test_codes_keep_their_meaning() -> None:
    """A code that is gone keeps its line, ``GLMC099 retired: …``; none comes back."""
    given = dict(
        line.split(" ", 1) for line in (GOLDEN / "errors.txt").read_text().splitlines()
    )
    living = {code: text for code, text in given.items() if "retired:" not in text}
    assert {code: cls.title() for code, cls in ERRORS.items()} == living
    assert len(given) == len((GOLDEN / "errors.txt").read_text().splitlines())


def test_no_place_raises_the_bare_class() -> None:
    bare = [
        f"{raised.file.relative_to(ROOT)}:{raised.call.lineno}"
        for raised in raises()
        if raised.name == "GlmcError"
    ]
    assert bare == [], "choose a class of glmc.ir.errors, or add a kind there"


def test_every_kind_is_raised_somewhere() -> None:
    raised = {one.name for one in raises()} | {one.__name__ for one in KINDS.values()}
    assert raised >= {cls.__name__ for cls in ERRORS.values()}
    assert len(raised) > 50


@pytest.mark.parametrize(
    "missing",
    [
        {"code": "GLMC012"},  # taken
        {"code": "G12"},
        {"next_step": ""},
        {"__doc__": "A title without a paragraph."},
    ],
    ids=["taken", "malformed", "no next step", "no paragraph"],
)
def test_control_a_kind_without_all_it_needs_is_no_class(
    missing: dict[str, str],
) -> None:
    whole = {"code": "GLMC999", "next_step": "Do.", "__doc__": "A title.\n\nMore."}
    with pytest.raises(TypeError, match="needs a"):
        type("OddError", (GlmcError,), whole | missing)
    assert "GLMC999" not in catalogue()


def test_the_command_line_gives_the_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "no-such-name"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("glmc: error[GLMC082]: 'no-such-name' is no pass")
    assert message.endswith("  see: glmc explain GLMC082\n")
    assert told(GlmcError("a sentence")) == "glmc: error: a sentence"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "run: the following arguments are required: build, --weights."),
        (["inspect", "b", "--batch", "x"], "inspect: argument --batch: invalid int"),
        (["compile", "x", "--no-such"], "unrecognized arguments: --no-such."),
        (["specs", "show"], "specs show: the following arguments are required: name."),
        (["nothing"], "argument COMMAND: invalid choice: 'nothing'"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_command_lines_that_are_not_understood(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usage and a sentence; with ``--json`` an object on standard output too."""
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: glmc")
    assert f"glmc: error[GLMC089]: {said}" in shown.err
    for spelling in ("--json", "--js"):
        assert main([*words, spelling]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "GLMC089"
        assert error["exit_code"] == 2


def test_errors_of_the_system_are_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert main(["compile", "chatglm3-6b", "-o", str(taken / "b"), "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["message"] in shown.err


@pytest.mark.parametrize("code", ERRORS)
def test_each_is_explained_and_has_a_page(
    code: str, pages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", code.lower()]) == 0
    said = capsys.readouterr().out
    page = pages[f"errors/{code}.md"]
    kind = ERRORS[code]
    for part in (code, kind.title(), kind.about(), kind.next_step):
        assert part in said
        assert part in page


def test_each_is_one_paragraph_that_says_enough() -> None:
    for code, kind in ERRORS.items():
        assert "\n\n" not in kind.about(), code
        assert len(kind.about().split()) >= 12, code
        assert len(kind.title()) <= 76, code


def test_pages_show_the_messages_that_the_source_has(pages: dict[str, str]) -> None:
    form = "--set ⟨text⟩: expected KEY=VALUE, as in num_layers=5"
    assert form in message_forms()["OptionValueError"]
    assert form in pages["errors/GLMC080.md"]
    assert all(name.endswith("Error") for name in message_forms())


def test_commands_that_errors_advise_are_there() -> None:
    from glmc.command.cli import command_parser

    known = set(re.findall(r"^    (\w+)", command_parser().format_help(), re.MULTILINE))
    texts = " ".join(f"{kind.next_step} {kind.about()}" for kind in ERRORS.values())
    advised = set(re.findall(r"`glmc (\w+)", texts)) - {"COMMAND"}
    assert advised <= known
    assert len(advised) > 5


def test_a_place_told_from_further_out_keeps_the_kind() -> None:
    error = IRSyntaxError("a\nbc", 3, "expected )").within("x.glmc")
    assert (str(error), error.line, error.column) == (
        "x.glmc: line 2, column 2: expected )",
        2,
        2,
    )
    assert isinstance(DumpRuleError("", 0, "rule"), IRSyntaxError)
    key = UnknownKeyError("unknown", ["a"]).within("config.json")
    assert (str(key), key.keys) == ("config.json: unknown", ("a",))
    assert str(GlmcError("odd").read_by("specs/x.yaml:3")) == "odd [specs/x.yaml:3]"
