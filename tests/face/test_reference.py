"""The generated pages say everything, and the site builds without a broken link."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from glmc.book.gallery import PICTURES, dump, gallery
from glmc.book.reference import pages
from glmc.compile.driver import compile_model
from glmc.frontends.spec import Spec
from glmc.ir.errors import catalogue
from glmc.ir.op import registry
from glmc.look.builds import Build
from support import ROOT
from support.stages import PIPELINE


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


def test_a_key_says_what_its_node_says() -> None:
    page = pages()["spec-keys.md"]
    assert "| `least_sum` | a number or an expression |  | The least value of" in page
    # Of the section's own: the node has no such field, or another at this name.
    assert (
        "| `head_bias` | true, false or an expression | `False` | True where the"
        in page
    )
    # The node's weight is in a slot, and what is said of it is not said of the flag.
    assert "| `bias` | true, false or an expression | `False` |  |" in page


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
    read = {
        page: (tmp_path / page / "index.html").read_text()
        for page in ("reference/ops", "reference/gallery", "extending")
    }
    assert "rms_norm" in read["reference/ops"]
    for picture in PICTURES:
        assert f'id="{picture.config.replace(".", "")}"' in read["reference/gallery"]
    assert "source: " not in read["extending"]
    assert "SoftCap" in read["extending"]
    for code in catalogue():
        assert (tmp_path / "reference" / "errors" / code / "index.html").is_file()


def test_the_gallery_shows_what_inspect_prints(tmp_path: Path) -> None:
    page = gallery()
    for picture in PICTURES:
        assert f"## {picture.config}\n" in page
    build = compile_model("llama-3.1-8b", tmp_path / "build")
    text = dump(Build(build).program, "layer")
    assert f"```glmc\n{text}\n```" in page
    assert text.splitlines()[-1] == "  return %out"
    assert page.count("<svg ") == len(PICTURES)


def test_control_code_that_is_not_there_is_not_shown() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec
    assert spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    with pytest.raises(LookupError, match="has no NoSuchOp"):
        hooks.source(ROOT / "ir/ops/elementwise.py", "NoSuchOp")


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
    for name in pages():
        assert f"reference/{name}" in listed
