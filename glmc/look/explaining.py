"""``glmc explain``: what a pass, an op, a config key or the code of an error is."""

import argparse
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from glmc.backends.ledger import RUN_BY
from glmc.backends.target import DEFAULT, every_pass, target
from glmc.frontends.build.fates import covers
from glmc.frontends.language.sections import expressions_in
from glmc.frontends.language.yaml_tree import Branch
from glmc.frontends.spec.library import builtin_specs, load_spec
from glmc.ir.errors import GlmcError, UnknownNameError, catalogue
from glmc.ir.op import Op, registry
from glmc.ir.passes.rewrite import Fusion
from glmc.shell.terminal import show


def explain_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc explain``."""
    facts = explain(arguments.name) if arguments.name else contents()
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        show(text(facts))
    return 0


def contents() -> dict[str, Any]:
    """List everything that has a name: passes, ops and errors, one line each."""
    return {
        "kind": "contents",
        "passes": {name: one.doc for name, (one, _) in every_pass().items()},
        "ops": {
            name: (cls.__doc__ or "").strip().partition("\n")[0]
            for name, cls in sorted(registry().items())
        },
        "errors": {code: error.title() for code, error in catalogue().items()},
    }


def explain(name: str) -> dict[str, Any]:
    """Describe a pass, op, config key or error by its name.

    Raises:
        UnknownNameError: when nothing is; tells the nearest names.
    """
    passes = every_pass()
    if name in passes:
        return _pass(*passes[name])
    if name in registry():
        return _op(registry()[name])
    if name.upper() in catalogue():
        return error_facts(catalogue()[name.upper()])
    trees = {arch: load_spec(path).tree for arch, path in builtin_specs().items()}
    specs = list(_key(name, trees))
    if specs:
        return {"kind": "config key", "name": name, "specs": specs}
    keys = {k for t in trees.values() for e in expressions_in(t) for k in e.config_keys}
    near = get_close_matches(name, [*passes, *registry(), *catalogue(), *keys], n=3)
    raise UnknownNameError(
        f"{name!r} is no pass, no op, no code and no config key of a built-in spec"
        f"{'; did you mean ' + ' or '.join(near) + '?' if near else '.'} "
        "`glmc explain` without a name lists passes, ops and errors."
    )


def _pass(one: Any, targets: list[str]) -> dict[str, Any]:
    facts = {"kind": "pass", "name": one.name, "doc": one.doc, "targets": targets}
    if not isinstance(one, Fusion):
        module = inspect.getmodule(type(one))
        about = inspect.cleandoc(getattr(module, "__doc__", "") or "")
        return facts | {"about": about, "rules": []}
    rules = [
        {"match": _dedented(rule.match), "replace": _dedented(rule.replace)}
        for rule in one.rules
    ]
    return facts | {"about": "", "rules": rules}


def _dedented(rule: str) -> str:
    """Dedent a rule's lines; its parts may come from several strings."""
    return "\n".join(line.strip() for line in rule.strip().splitlines())


def _op(cls: type[Op]) -> dict[str, Any]:
    done = {"read": "state, read", "write": "state, written"}
    kinds = {field: done[access] for field, access in cls.state_fields().items()}
    operands = {
        field: kinds.get(field, "value" if sigil == "%" else "parameter")
        + ("" if required else ", may be absent")
        for field, (sigil, required) in cls.operand_fields().items()
    }
    attributes = {}
    for name in cls.attribute_fields():
        field = cls.model_fields[name]
        kind = inspect.formatannotation(field.annotation).replace("typing.", "")
        default = "" if field.is_required() else f" = {field.default!r}"
        attributes[name] = f"{kind}{default}"
    made_by = [
        name
        for name, (one, _) in every_pass().items()
        if isinstance(one, Fusion)
        for rule in one.rules
        if any(line.cls is cls for line in rule.replacement[1])
    ]
    on = target(DEFAULT)
    place = on.usual(cls.mnemonic)
    return {
        "kind": "op",
        "name": cls.mnemonic,
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "operands": operands,
        "attributes": attributes,
        "launches": on.launches([cls.mnemonic]),
        "on": on.machine,
        "made_by": list(dict.fromkeys(made_by)),
        "where": place.where,
        "reason": place.reason,
    }


def error_facts(cls: type[GlmcError]) -> dict[str, Any]:
    """Describe a kind of error."""
    return {
        "kind": "error",
        "name": cls.code,
        "title": cls.title(),
        "about": cls.about(),
        "next_step": cls.next_step,
        "class": cls.__name__,
        "exit_code": cls.exit_code,
    }


def _key(name: str, trees: Mapping[str, Branch]) -> Iterator[dict[str, Any]]:
    """Yield the use that each built-in spec makes of a config key."""
    for arch, tree in trees.items():
        for what in _uses(name, tree):
            yield {"spec": arch, **what}


def _uses(name: str, tree: Branch) -> Iterator[dict[str, str]]:
    reads = [e for e in expressions_in(tree) if name in e.config_keys]
    for expression in reads:
        yield {"what": "read", "where": expression.where, "says": str(expression)}
    for section, what in (
        ("ignore", "ignored"),
        ("expect", "only some values are supported"),
        ("aliases", "another name"),
        ("defaults", "the value where it is absent"),
    ):
        entries = tree.get(section)
        if not isinstance(entries, Branch):
            continue
        for pattern, value in entries.items():
            if covers(pattern, name):
                where, says = str(entries.keys_at[pattern]), _plain(value)
                yield {"what": what, "where": where, "says": says}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " or ".join(_plain(item) for item in value)
    if isinstance(value, bool) or value is None:
        return "absent" if value is None else str(value).lower()
    return str(value)


def text(facts: dict[str, Any]) -> str:
    """Format the result of :func:`explain` for a person."""
    return "\n".join(_TEXTS[facts["kind"]](facts))


def _contents_text(facts: dict[str, Any]) -> Iterator[str]:
    for what in ("passes", "ops", "errors"):
        yield what
        width = max(map(len, facts[what]))
        yield from (f"  {name:<{width}}  {doc}" for name, doc in facts[what].items())


def _pass_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['name']} (pass): {facts['doc']}"
    yield f"runs for the targets {', '.join(facts['targets'])}"
    if facts["about"]:
        yield from ("", facts["about"])
    for rule in facts["rules"]:
        yield from ("", "where a graph has", textwrap.indent(rule["match"], "  "))
        yield from ("it gets", textwrap.indent(rule["replace"], "  "))


def _op_text(facts: dict[str, Any]) -> Iterator[str]:
    launches = facts["launches"]
    cost = f"{launches} launch{'es' * (launches != 1)}" if launches else "a view"
    yield f"{facts['name']} (op, {cost}): {facts['doc']}"
    for what in ("operands", "attributes"):
        for name, kind in facts[what].items():
            yield f"  {name}: {kind}"
    if facts["made_by"]:
        yield f"made by the pass {', '.join(facts['made_by'])}"
    yield f"on {facts['on']}: {RUN_BY[facts['where']]}"
    if facts["reason"]:
        yield f"  {facts['reason']}"


def _error_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['name']} (error, exit code {facts['exit_code']}): {facts['title']}"
    yield from ("", facts["about"], "", f"What to do: {facts['next_step']}")


def _key_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['name']} (config key)"
    for use in facts["specs"]:
        yield f"  {use['spec']}: {use['what']} ({use['where']}): {use['says']}"


_TEXTS = {
    "contents": _contents_text,
    "pass": _pass_text,
    "op": _op_text,
    "error": _error_text,
    "config key": _key_text,
}
