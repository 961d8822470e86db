"""``glmc verify --against-text``: published code as the reference, read in a child."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.frontends.code.limits import Limits
from glmc.frontends.code.sources import find_text
from glmc.frontends.code.text import Text
from glmc.frontends.read.hub import Hub
from glmc.ir.errors import GlmcError, TextBudgetError, TextUnreadableError
from glmc.prove.texts import verifying
from glmc.prove.texts.job import Job, run
from support import texts
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]


@pytest.fixture
def llama(tiny: MakeTiny) -> Tiny:
    return tiny(BY_NAME["llama-gqa"])


def verify(
    capsys: pytest.CaptureFixture[str], *command: object
) -> tuple[int, dict[str, Any], str]:
    """(exit code, facts, what is said on the standard error)."""
    # The repositories have another model_type than the Llama they were made from.
    more = ("--allow-config-drift", "--json")
    code = main([str(part) for part in ("verify", *command, *more)])
    out, told = capsys.readouterr()
    return code, json.loads(out) if out else {}, told


def test_a_build_equals_the_text_of_its_repository(
    llama: Tiny, compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layer by layer; prompt, decoding and padding, in the child's own process."""
    own = texts.repository(llama.checkpoint, tmp_path / "own", texts.plain())
    build = compiled(llama.checkpoint)
    code, facts, told = verify(capsys, build, "--weights", own, "--against-text", own)
    assert code == 0, told
    assert facts["against"] == "the text modeling_plain.py"
    phases = {"single prompt", "single decode", "padded prompt", "padded decode"}
    assert set(facts["differences"]) == phases
    for rows in facts["differences"].values():
        assert set(rows) == {"layer 0", "layer 1", "layer 2", "logits"}
        assert all(0 < value < 1e-5 for value in rows.values())


def test_control_a_text_that_computes_something_else(
    llama: Tiny, compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = texts.plain(("variance + self.eps", "variance + 2 * self.eps"))
    own = texts.repository(llama.checkpoint, tmp_path / "own", changed)
    file = own / "modeling_plain.py"
    build = compiled(llama.checkpoint)
    code, facts, _ = verify(capsys, build, "--weights", own, "--against-text", file)
    assert (code, facts["equal"]) == (1, False)


def soon(job: Job, out: Path) -> dict[str, Any]:
    """Run a job with fewer steps than the 20 million that a text has."""
    assert job.limits.steps == Limits().steps
    return run(replace(job, limits=replace(job.limits, steps=100_000)), out)


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    first(2, [
        ("residual = x\n", "open('/etc/passwd')\n", "GLMC091", "modeling_plain.py:"),
        ("residual = x\n", "while True: pass\n", "GLMC092", "steps"),
        ("residual = x\n", "raise ValueError('no')\n", "GLMC093", "ValueError: no"),
        ("class PlainNorm(", "class PlainNorm((", "GLMC090", "not Python"),
        ("self.lm_head = nn.Linear(config.hidden_size",
         "self.head = nn.Linear(config.hidden_size", "GLMC094", "head.weight"),
    ]),
)  # fmt: skip
def test_what_stops_a_text_is_told_as_a_sentence(
    old: str,
    new: str,
    code: str,
    says: str,
    llama: Tiny,
    compiled: Compile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = texts.plain((old, new))
    own = texts.repository(llama.checkpoint, tmp_path / "own", changed)
    build = compiled(llama.checkpoint)
    monkeypatch.setattr(verifying, "run", soon)
    ended, _, told = verify(capsys, build, "--weights", own, "--against-text", own)
    assert ended == 2
    assert f"error[{code}]" in told
    assert says in told
    assert "Traceback" not in told


def test_two_references_are_one_too_many(
    llama: Tiny, compiled: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--weights", llama.checkpoint, "--against", "x", "--against-text", "y"]
    code, _, told = verify(capsys, compiled(llama.checkpoint), *command)
    assert code == 2
    assert "choose one" in told


ENDLESS = Limits(10**15, 10**18, 10**15, 10**9, items=10**9)
"""The first wall taken down: here only the child's own limits stand."""


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("while True:\n    pass\n", {"seconds": 1}),
        ("import torch\nx = [torch.ones(10**8) for _ in range(99)]", {"memory": 2**30}),
    ],
)
def test_the_second_wall_stands_by_itself(
    text: str, limit: dict[str, Any], llama: Tiny, tmp_path: Path
) -> None:
    own = Text({"modeling_own": text}, "modeling_own", "Own", given="modeling_own.py")
    given = Job(own, [{}], str(llama.checkpoint), [], 9, limits=ENDLESS, **limit)
    with pytest.raises(TextBudgetError):
        run(given, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "no auto_map that names a model"),
        (
            {"auto_map": {"AutoModelForCausalLM": "org/code--modeling_x.X"}},
            "another repository; name that one instead: org/code",
        ),
        (
            {"auto_map": {"AutoModel": "modeling_none.X"}},
            "has no file modeling_none.py",
        ),
    ],
)
def test_where_no_text_is_found(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    texts.write(tmp_path, texts.plain())
    with pytest.raises(TextUnreadableError) as caught:
        find_text(str(tmp_path), config, Hub(offline=True))
    assert says in str(caught.value)


def test_files_that_a_text_imports_come_with_it(tmp_path: Path) -> None:
    own = texts.plain()
    own["configuration_plain"] += "\nfrom helper import x\nfrom math import pi\n"
    texts.write(tmp_path, {**own, "helper": "x = 1", "other": "x = 1"})
    found = find_text(str(tmp_path), {"auto_map": texts.AUTO_MAP}, Hub(offline=True))
    assert set(found.texts) == {"modeling_plain", "configuration_plain", "helper"}
    assert (found.model_class, found.config_class) == (
        "PlainForCausalLM",
        "PlainConfig",
    )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = 1\n" * 400_000])
def test_files_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "modeling_plain.py").write_bytes(content)
    with pytest.raises(GlmcError) as caught:
        find_text(str(tmp_path), {"auto_map": texts.AUTO_MAP}, Hub(offline=True))
    assert caught.value.code == "GLMC090"
