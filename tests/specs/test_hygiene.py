"""Rules for all specs together."""

from __future__ import annotations

import pytest

from glmc.frontends.build.fates import account
from glmc.frontends.build.rope import scope_of
from glmc.frontends.language.sections import validate
from glmc.frontends.language.yaml_tree import Branch
from glmc.frontends.spec import Spec
from glmc.frontends.spec.library import builtin_specs, identify, load_spec
from glmc.frontends.spec.variants import choose_variant
from support.configs import FAMILIES


@pytest.mark.parametrize("name", builtin_specs())
def test_every_spec_has_a_test_config(name: str) -> None:
    assert name in FAMILIES
    assert identify(FAMILIES[name], "config.json").name == name


def test_no_two_specs_are_for_one_config() -> None:
    seen: dict[str, str] = {}
    for name, path in builtin_specs().items():
        match = load_spec(path).tree["match"]
        assert isinstance(match, Branch)
        # What tells it apart is looked at first.
        if match.keys() & {"any_key", "text_model_type"}:
            continue
        for value in (*match["model_type"], *match["architectures"]):  # type: ignore[misc]
            assert value not in seen, (value, name, seen.get(value))
            seen[value] = name


@pytest.mark.parametrize("name", builtin_specs())
def test_defaults_and_aliases_are_of_keys_that_are_read(name: str) -> None:
    """A default of a key nobody reads would be a misspelling."""
    found = load_spec(builtin_specs()[name])
    chosen = choose_variant(found, scope_of(FAMILIES[name]), None, "config.json")
    spec = validate(Spec, chosen.tree)
    keys = dict.fromkeys([*spec.defaults, *spec.aliases.values()])
    ignoring_nothing = spec.model_copy(update={"ignore": {}})
    read = chosen.expressions
    assert account(keys, ignoring_nothing, read, (), set_by_user=keys, where="defaults")


@pytest.mark.parametrize("name", builtin_specs())
def test_reasons_are_given(name: str) -> None:
    spec = load_spec(builtin_specs()[name]).tree
    for section in ("ignore", "waive"):
        reasons = spec.get(section, {})
        assert isinstance(reasons, dict)
        assert all(isinstance(reason, str) and reason for reason in reasons.values())
