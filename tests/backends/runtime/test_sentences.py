"""Sentences of refusals: the first few of many, and how many more there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from glmc.backends.runtime import binding, folders
from glmc.backends.runtime.drift import Difference, Drift
from glmc.backends.runtime.faults import WeightsError
from glmc.backends.runtime.loading import tell
from glmc.backends.runtime.tokenizer.files import Folder, TokenizerError
from glmc.backends.runtime.tokenizer.identity import check_ids, ice_offset
from glmc.backends.runtime.tokenizer.jinja import render
from glmc.backends.runtime.tokenizer.ranks import GLM4_SPECIALS, _check_specials
from glmc.backends.runtime.tokenizer.templates import read_templates


def names(count: int) -> list[str]:
    return [f"t{at}" for at in range(count)]


@pytest.mark.parametrize(("count", "more"), [(7, ""), (8, ""), (9, 1), (10, 2)])
def test_keys_that_differ(count: int, more: object) -> None:
    changed = [Difference(name, 1, 2) for name in names(count)]
    said = Drift("config.json", changed).refusal()
    assert said.count("compiled was 1") == min(count, 8)
    rest = f"; and {more} more" if more else ""
    assert f"t{min(count, 8) - 1} is 2, compiled was 1{rest}. The build" in said


@pytest.mark.parametrize(("count", "more"), [(3, ""), (4, ""), (5, 1), (6, 2)])
def test_values_that_are_no_numbers(count: int, more: object) -> None:
    with pytest.raises(WeightsError) as refused:
        tell(names(count), "here", strict=True)
    rest = f"; and {more} more" if more else ""
    shown = "; ".join(names(count)[:4])
    assert str(refused.value).startswith(f"here: {shown}{rest}. To load")
    assert refused.value.kind == "values"


@pytest.mark.parametrize(("count", "more"), [(4, ""), (5, ""), (6, 1), (7, 2)])
def test_tensors_that_do_not_fit(count: int, more: object) -> None:
    said = binding._listed("missing", names(count))
    rest = f", and {more} more kinds" if more else ""
    assert said == f"{count} missing: {', '.join(names(count)[:5])}{rest}"
    assert binding._listed("missing", []) == ""
    layers = [f"a.{at}.w" for at in range(count)]
    assert (
        binding._listed("unused", layers) == f"{count} unused: a.*.w ({count} layers)"
    )


@pytest.mark.parametrize(("count", "more"), [(7, ""), (8, ""), (9, 1), (10, 2)])
def test_tensors_of_a_shard(count: int, more: object) -> None:
    files = dict.fromkeys(names(count), "one")
    rest = f" and {more} more" if more else ""
    shown = ", ".join(names(count)[:8]) + rest
    with pytest.raises(WeightsError) as refused:
        folders._compare("index", "one", [], files)
    assert f"says that one holds {shown}, and the file does not" in str(refused.value)
    with pytest.raises(WeightsError) as refused:
        folders._compare("index", "two", names(count), files)
    assert f"two holds {shown}, and so does one, where index" in str(refused.value)
    with pytest.raises(WeightsError) as refused:
        folders._compare("index", "one", [*names(count), "x"], files)
    assert "one holds x, which index does not list" in str(refused.value)


def test_a_tensor_elsewhere_is_the_first_by_name() -> None:
    files = {"a": "first", "b": "second"}
    with pytest.raises(WeightsError, match="holds a, b, and so does first, where i"):
        folders._compare("i", "third", ["b", "a"], files)
    with pytest.raises(WeightsError, match="so does second, where i says is; one"):
        folders._compare("i", "first", ["b", "a"], files)
    folders._compare("i", "first", ["a"], files)


@pytest.mark.parametrize(("count", "read"), [(32, True), (33, False)])
def test_templates_of_a_folder(tmp_path: Path, count: int, read: bool) -> None:
    inner = tmp_path / "additional_chat_templates"
    inner.mkdir()
    for name in names(count):
        (inner / f"{name}.jinja").write_text(name)
    folder = Folder(tmp_path, "mine")
    if read:
        assert {n: t.text for n, t in read_templates(folder).items()} == {
            name: name for name in names(count)
        }
        return
    with pytest.raises(TokenizerError, match="has 33 templates; more than 32 are not"):
        read_templates(folder)


def test_templates_of_a_config(tmp_path: Path) -> None:
    listed = [{"name": name, "template": name} for name in names(33)]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": listed}))
    found = read_templates(Folder(tmp_path, "mine"))
    assert [*found] == names(32)
    assert found["t31"].where == "tokenizer_config.json, 't31'"
    config.write_text(json.dumps({"chat_template": [*listed[:2], {"name": "x"}]}))
    with pytest.raises(TokenizerError, match="neither a text nor a list"):
        read_templates(Folder(tmp_path, "mine"))


def test_what_a_template_s_error_shows() -> None:
    variables: dict[str, Any] = {"raise_exception": None}
    with pytest.raises(TokenizerError, match=r"\(mine, line 2\) cannot be rendered"):
        render("a\n{{ 1 // 0 }}", variables, "mine")
    with pytest.raises(TokenizerError, match=r"\(mine, line 3\) cannot be rendered"):
        render("a\n\n{{ 1 +* 0 }}", variables, "mine")
    deep = "{{ " + "not " * 300 + "x }}"
    with pytest.raises(TokenizerError, match=r"\(mine\) cannot be rendered"):
        render(deep, variables, "mine")


def test_numbers_of_image_tokens(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    for given, said in (("x" * 41, f"{'x' * 40!r}, not"), (-1, "'-1', not")):
        config.write_text(json.dumps({"num_image_tokens": given}))
        with pytest.raises(TokenizerError, match=f"num_image_tokens is {said}"):
            ice_offset(Folder(tmp_path, "mine"), specials=True)
    for given in (0, 1 << 20):
        config.write_text(json.dumps({"num_image_tokens": given}))
        assert ice_offset(Folder(tmp_path, "mine"), specials=True) == given
    config.write_text(json.dumps({"num_image_tokens": 1 + (1 << 20)}))
    with pytest.raises(TokenizerError, match="'1048577', not a number of tokens"):
        ice_offset(Folder(tmp_path, "mine"), specials=True)


def test_ids_of_another_generation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"gmask_token_id": 150001}')
    folder = Folder(tmp_path, "mine")
    said = r"\(a 130528 tokenizer, a 150528 model\)"
    with pytest.raises(TokenizerError, match=said):
        check_ids(folder, "ice", {"gmask_token_id": 130001})
    with pytest.raises(TokenizerError, match=r"different generations, so take"):
        check_ids(folder, "ice", {"gmask_token_id": 7})
    check_ids(folder, "ice", {"gmask_token_id": 150001, "bos_token_id": 3})


def test_a_special_token_that_is_missing() -> None:
    specials = {name: 9 + at for at, name in enumerate(GLM4_SPECIALS)}
    _check_specials(specials, 9, "file")
    for gone in (GLM4_SPECIALS[:1], GLM4_SPECIALS[1:3]):
        left = {name: at for name, at in specials.items() if name not in gone}
        with pytest.raises(
            TokenizerError, match=re.escape(f"but not {gone[0]!r}; the")
        ):
            _check_specials(left, 9, "file")
    with pytest.raises(TokenizerError, match="has 10 words, and the special tokens"):
        _check_specials(specials, 10, "file")
