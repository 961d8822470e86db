"""Variants: models that share a config format and differ in what a key means."""

from dataclasses import dataclass

from glmc.frontends.language.evaluation import Scope
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import expressions_in, validate
from glmc.frontends.language.yaml_tree import Branch, merge
from glmc.frontends.spec import Variant
from glmc.frontends.spec.library import SpecTree
from glmc.ir.errors import OptionValueError, SpecKeyError, UndecidedVariantError


@dataclass(frozen=True)
class Chosen:
    """A spec's tree with a variant merged in."""

    tree: Branch
    name: str | None
    expressions: tuple[Expression, ...]
    """Those of the tree, and those that choose the variant."""


def choose_variant(
    found: SpecTree, scope: Scope, wanted: str | None, where: str
) -> Chosen:
    """Settle a spec's variant.

    Without ``wanted``, the first variant whose ``when`` holds is taken.

    Raises:
        GlmcError: when there is no such variant, or none can be told from the config.
    """
    tree = merge(found.tree, Branch(found.tree.at))
    branch = tree.pop("variants", None)
    variants = _variants(branch) if isinstance(branch, Branch) else {}
    if not variants:
        if wanted is not None:
            raise OptionValueError(
                f"--variant {wanted}: the spec {found.name!r} has no variants"
            )
        return Chosen(tree, None, tuple(expressions_in(tree)))
    name = wanted if wanted is not None else _first(found.name, variants, scope)
    if name not in variants:
        raise UndecidedVariantError(_undecided(found.name, variants, wanted, where))
    overlay = branch[name].get("spec")  # type: ignore[index]
    if isinstance(overlay, Branch):
        tree = merge(tree, overlay)
    conditions = [v.when for v in variants.values() if v.when is not None]
    return Chosen(tree, name, (*expressions_in(tree), *conditions))


def _variants(branch: Branch) -> dict[str, Variant]:
    made = {}
    for name, entry in branch.items():
        if not isinstance(entry, Branch):
            raise SpecKeyError(
                f"{branch.keys_at[name]}: variants.{name} must be a mapping"
            )
        made[name] = validate(Variant, entry, f"variants.{name}")
    return made


def _first(arch: str, variants: dict[str, Variant], scope: Scope) -> str | None:
    resolve = Resolver(arch, scope)
    for name, variant in variants.items():
        if variant.when is not None and resolve.flag(f"variants.{name}", variant.when):
            return name
    return None


def _undecided(
    arch: str, variants: dict[str, Variant], wanted: str | None, where: str
) -> str:
    listed = "; ".join(f"{name}: {v.about}" for name, v in variants.items())
    if wanted is not None:
        return f"--variant {wanted}: the spec {arch!r} has the variants {listed}"
    return (
        f"{where} does not tell which variant of {arch!r} it is; choose with"
        f" --variant NAME ({listed})"
    )
