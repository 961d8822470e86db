"""The specs glmc comes with, and the search for the one of a config."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from importlib import util
from pathlib import Path

from glmc.frontends.language.sections import validate
from glmc.frontends.language.yaml_tree import Branch, merge, read_tree
from glmc.frontends.read.auto_map import read_auto_map
from glmc.frontends.read.json_text import read_bytes
from glmc.frontends.spec import Match
from glmc.frontends.spec.beyond import BEYOND_ATTENTION
from glmc.ir.errors import (
    SpecInheritanceError,
    SpecSyntaxError,
    UnidentifiedModelError,
    UnknownModelTypeError,
)

_MAX_SPEC = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
# What a spec is called, which configs it is for, what it was held against.
_OWN = ("arch", "match", "verified", "caveat")


@dataclass(frozen=True)
class SpecFile:
    """A file a spec is made of, by content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SpecTree:
    """A spec with everything it inherits, before it meets a config."""

    name: str
    tree: Branch
    files: tuple[SpecFile, ...]
    """The spec's own file first, then what it extends."""


@cache
def builtin_folder() -> Path:
    """Return the folder of the YAML files: the package ``glmc.specs``."""
    found = util.find_spec("glmc.specs")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def builtin_specs() -> dict[str, Path]:
    """Return the architectures glmc knows, by name. ``_``-files are only inherited
    from."""
    files = sorted(builtin_folder().glob("*.yaml"))
    return {path.stem: path for path in files if not path.stem.startswith("_")}


@cache
def builtin_configs() -> dict[str, Path]:
    """Return the configs glmc comes with, by name: sizes of published models."""
    files = {p.stem: p for p in (builtin_folder() / "configs").glob("*.json")}
    return dict(sorted(files.items()))


def load_spec(path: Path) -> SpecTree:
    """Load a spec and its ancestors, merged.

    Raises:
        GlmcError: on a malformed file, an unknown parent, or a circle of parents.
    """
    tree, files = _load(path, ())
    return SpecTree(path.stem, tree, tuple(files))


def _load(path: Path, children: tuple[Path, ...]) -> tuple[Branch, list[SpecFile]]:
    tree, file = _read(path)
    if "extends" not in tree:
        return tree, [file]
    parent, family = _parent(tree, path), (*children, path.resolve())
    if parent.resolve() in family:
        at = tree.keys_at["extends"]
        raise SpecInheritanceError(
            f"{at}: extends: {parent.stem!r} extends this spec itself"
        )
    base, files = _load(parent, family)
    return merge(base.without(*_OWN), tree.without("extends")), [file, *files]


def _read(path: Path) -> tuple[Branch, SpecFile]:
    home = builtin_folder()
    builtin = path.parent == home or path.parent.resolve() == home.resolve()
    label = f"specs/{path.name}" if builtin else str(path)
    data = read_bytes(path, _MAX_SPEC)
    return _parsed(data, label, builtin), SpecFile(label, sha256(data).hexdigest())


@lru_cache(256)
def _parsed(data: bytes, label: str, builtin: bool) -> Branch:
    """Parse a file into a tree, which nothing may change: most specs are read for each
    of those that inherit from them."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SpecSyntaxError(
            f"{label} is not UTF-8 text (byte {error.start})"
        ) from None
    tree = read_tree(text, label)
    if "arch" not in tree:
        tree.put("arch", Path(label).stem, tree.at)
    if "verified" not in tree:
        # A built-in spec is in the parity tests unless it says otherwise.
        tree.put("verified", "transformers" if builtin else False, tree.at)
    return tree


def _parent(tree: Branch, path: Path) -> Path:
    name, at = tree["extends"], tree.keys_at["extends"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecInheritanceError(
            f"{at}: extends: expected the name of a spec, found {name!r}"
        )
    for folder in (path.parent, builtin_folder()):
        candidate = folder / f"{name}.yaml"
        if candidate.is_file():
            return candidate
    raise SpecInheritanceError(f"{at}: extends: there is no spec {name!r}{_near(name)}")


def identify(config: Mapping[str, object], where: str) -> SpecTree:
    """Find the spec for a config: by ``model_type``, without one by ``architectures``,
    and without these by the classes that its ``auto_map`` names.

    Raises:
        GlmcError: when no spec is for it; names the nearest and all there are.
    """
    model_type, classes = config.get("model_type"), architectures(config, where)
    classes = classes or mapped(config, where)
    if model_type is not None and not isinstance(model_type, str):
        raise UnidentifiedModelError(
            f"{where}: model_type must be a string, found {model_type!r}"
        )
    names = (model_type,) if model_type else classes
    for path in sorted(_naming(names), key=_generality):
        match = _match(path)
        named = model_type in match.model_type if model_type else _meet(match, classes)
        if named and _fits(path, match, config):
            return load_spec(path)
    if not model_type and not classes:
        raise UnidentifiedModelError(
            f"{where} names neither model_type nor architectures, and no class in an"
            " auto_map, so it does not say what kind of model it is; is it a model's"
            " config.json?"
        )
    wanted = model_type or ", ".join(classes)
    if parts := _parts_known(names):
        raise UnknownModelTypeError(
            f"{where}: of models of type {wanted!r} glmc knows those whose text part is"
            f" of type {' or '.join(parts)}, and this one's is another. `glmc specs"
            " new` drafts a spec, and --spec FILE takes one"
        )
    if what := BEYOND_ATTENTION.get(str(wanted)):
        raise UnknownModelTypeError(
            f"{where}: models of type {wanted!r} have {what}, which glmc does not do:"
            " it compiles stacks of attention and feed-forwards, and no spec can say"
            " more. `glmc specs` lists the types that it compiles"
        )
    raise UnknownModelTypeError(
        f"{where}: glmc has no spec for {wanted!r}{_near(str(wanted))}."
        f" `glmc specs` lists the {len(known_names())} that it has, `glmc specs new`"
        f" drafts another, and --spec FILE takes one{_readable(config)}"
    )


def _readable(config: Mapping[str, object]) -> str:
    """Say what to do where a repository comes with the code of its model."""
    if not config.get("auto_map"):
        return ""
    return (
        ". Its auto_map names modeling code, which `glmc read` reads as text, and never"
        " runs, to find one; `glmc compile --read` does both"
    )


def _naming(names: Collection[str]) -> list[Path]:
    """Return the specs that may be for one of these names, which then stands in their
    text.

    Looking is quick; to parse a hundred YAML documents takes as long as to compile.
    """
    texts = {path: path.read_bytes() for path in builtin_specs().values()}
    wanted = [name.encode() for name in names]
    return [path for path, text in texts.items() if any(n in text for n in wanted)]


def architectures(config: Mapping[str, object], where: str) -> tuple[str, ...]:
    """Return the class names a config lists."""
    value = config.get("architectures") or []
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UnidentifiedModelError(
            f"{where}: architectures must be a list of class names"
        )
    return tuple(value)


def mapped(config: Mapping[str, object], where: str) -> tuple[str, ...]:
    """Return the model classes that a config's ``auto_map`` names."""
    classes = read_auto_map(config.get("auto_map"), where)
    models = (one.name for one in classes if one.role.startswith("AutoModel"))
    return tuple(dict.fromkeys(models))


def known_names() -> list[str]:
    """List every model_type a spec is for."""
    matches = map(_match, builtin_specs().values())
    return sorted({name for match in matches for name in match.model_type})


def _generality(path: Path) -> int:
    """Sort specs that ask for more than a name before those that do not."""
    match = _match(path)
    return int(not (match.any_key or match.text_model_type))


def _fits(path: Path, match: Match, config: Mapping[str, object]) -> bool:
    """Tell whether a config that is named as a spec's is told from its namesakes."""
    if match.any_key and config.keys().isdisjoint(match.any_key):
        return False
    if not match.text_model_type:
        return True
    part = config.get(str(_read(path)[0].get("text_in")))
    return isinstance(part, Mapping) and part.get("model_type") in match.text_model_type


def _parts_known(names: Collection[str]) -> list[str]:
    """List the types of text parts that are known of composites of these types."""
    matches = map(_match, _naming(names))
    known = (m.text_model_type for m in matches if {*m.model_type} & {*names})
    return sorted({one for each in known for one in each})


def _meet(match: Match, classes: tuple[str, ...]) -> bool:
    return bool(set(match.architectures) & set(classes))


@cache
def _match(path: Path) -> Match:
    tree, _ = _read(path)
    match = tree.get("match")
    return validate(Match, match, "match") if isinstance(match, Branch) else Match()


def _near(name: str) -> str:
    from difflib import get_close_matches  # only where a name is wrong

    near = get_close_matches(name.lower(), known_names(), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""
