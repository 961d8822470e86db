"""The generated pages say everything, and the site builds without a broken link."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glmc.frontends.spec import Spec
from glmc.ir.op import registry
from glmc.ir.passes.pipeline import PIPELINE
from glmc.reference import pages
from support import ROOT


def headings(text: str) -> set[str]:
    return {line[3:] for line in text.splitlines() if line.startswith("## ")}


def test_every_op_pass_and_key_has_its_place() -> None:
    made = pages()
    assert headings(made["ops.md"]) == set(registry())
    assert headings(made["fusions.md"]) == {one.name for one in PIPELINE}
    for name in Spec.model_fields:
        assert f"| `{name}` |" in made["spec-keys.md"]


def test_the_signature_is_that_of_the_class() -> None:
    assert "    rms_norm(%x, @weight, eps=…, weight_in=input?, " in pages()["ops.md"]
    assert (
        "| `heads` | an integer or an expression | required |"
        in (pages()["spec-keys.md"])
    )


def build_site(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "-f", str(config), "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    run = build_site(ROOT / "mkdocs.yml", tmp_path)
    assert run.returncode == 0, run.stderr
    assert "rms_norm" in (tmp_path / "reference" / "ops" / "index.html").read_text()


def test_control_a_broken_link_is_noticed(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    run = build_site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert run.returncode != 0
    assert "gone.md" in run.stderr


def test_every_page_is_in_the_contents() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert str(page.relative_to(ROOT / "docs")) in listed, page
    for page in pages():
        assert f"reference/{page}" in listed
