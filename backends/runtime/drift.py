"""Compare the config of a build with that of a checkpoint: do they describe one model?

`compiled.json` in a build holds what its config said of everything the model was made
from, and how to read another config: which keys count, what an absent one stands for.
Needs no torch; `glmc check` asks here too.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .faults import WeightsError
from .folders import Files, FolderFiles
from .spelling import QUANTISED, Config, in_one_spelling, same, settled, with_sidecar
from .strict_json import MEGABYTE, read_object
from .wishes import defaults, unheard

COMPILED = "compiled.json"
#: Files beside the weights that are compared.
DESCRIPTIONS = ("config.json", "generation_config.json", "hf_quant_config.json")
_LIMIT = 8 * MEGABYTE
_LISTED = 8
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Difference(NamedTuple):
    """A key of the config, and its values; None where it is not there."""

    key: str
    compiled: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"{self.key} is {_shown(self.found)}, compiled was {_shown(self.compiled)}"
        )


class Drift(NamedTuple):
    """The differences of a checkpoint's config to the one that was compiled."""

    where: str
    changed: Sequence[Difference] = ()
    """Keys that the model is made from."""
    tokens: Sequence[Difference] = ()
    """Ids at which generation begins, ends and pads."""
    unheard: Mapping[str, Any] = {}
    """Keys of generation_config.json that `generate` does not obey by itself."""

    def refusal(self) -> str:
        """Returns the sentence for what was changed."""
        told = "; ".join(map(str, self.changed[:_LISTED]))
        more = len(self.changed) - _LISTED
        rest = f"; and {more} more" if more > 0 else ""
        return (
            f"{self.where} is not the config that this build was compiled from: {told}"
            f"{rest}. The build computes what was compiled. Compile the model again "
            "from this config, or go on all the same with allow_config_drift=True "
            "(--allow-config-drift)."
        )

    def notes(self) -> Iterator[str]:
        """Yields sentences for what changes no logits: other tokens, and wishes
        unheard."""
        if self.tokens:
            told = "; ".join(map(str, self.tokens))
            yield (
                f"{self.where} has other special tokens than the build: {told}. "
                "generate() goes by what was compiled unless it is told ids."
            )
        if self.unheard:
            told = ", ".join(f"{k}={_shown(v)}" for k, v in self.unheard.items())
            yield (
                f"generation_config.json beside {self.where} asks for {told}, which "
                "generate() does not do."
            )


def compiled_beside(file: str | None) -> dict[str, Any] | None:
    """Reads `compiled.json` of the build that a module lies in; None where it has
    none."""
    path = Path(file or "").with_name(COMPILED)
    return read_object(path, _LIMIT) if file and path.is_file() else None


def refuse_drift(
    file: str | None, folders: Sequence[Path], allowed: bool, rounded: bool = False
) -> None:
    """Refuses folders whose config is another than that of the build in which `file`
    lies, or with `allowed` warns; warns of what `generate` would do otherwise.

    Of several configs the last one counts, as of several tensors. Where codes are made
    of floats, `rounded`, what the configs say of codes does not.

    Raises WeightsError, of the kind "config".
    """
    compiled = compiled_beside(file)
    if compiled is None:
        return
    found = drift(compiled, the_last([FolderFiles(one) for one in folders]))
    if rounded:
        kept = [one for one in found.changed if one.key.split(".")[0] not in QUANTISED]
        found = found._replace(changed=kept)
    for note in found.notes():
        warnings.warn(note, stacklevel=4)
    if found.changed and allowed:
        warnings.warn(found.refusal(), stacklevel=4)
    elif found.changed:
        raise WeightsError(found.refusal(), "config")


def the_last(places: Sequence[Files]) -> Files:
    """Returns the last of several places that has a config, or else the first."""
    having = [files for files in places if files.has("config.json")]
    return having[-1] if having else places[0]


def drift(compiled: Config, files: Files) -> Drift:
    """Compares the config beside a checkpoint; no differences where there is none.

    Raises WeightsError where one of the two files is not to be read.
    """
    path = files.local("config.json")
    where = files.at("config.json")
    if path is None:
        return Drift(where)
    plain = read_object(path, _LIMIT, finite=False)
    generation = _generation(files)
    config = with_sidecar(plain, _beside(files, "hf_quant_config.json"))
    try:
        changed = differences(compiled, settled(config, compiled))
        tokens = [
            Difference(key, ours, theirs)
            for key, ours in compiled["tokens"].items()
            if ours != (theirs := token_ids(config, generation).get(key))
        ]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{COMPILED} of the build cannot be held against {where} "
            f"({type(error).__name__}: {error}); compile the model again.",
            "config",
        ) from None
    return Drift(where, changed, tokens, unheard(generation))


def _generation(files: Files) -> Config:
    """Reads generation_config.json, and checks that `generate` can obey its values."""
    name = "generation_config.json"
    found = _beside(files, name)
    try:
        defaults(found, files.at(name))
    except ValueError as error:
        raise WeightsError(str(error), "config") from None
    return found


def token_ids(config: Config, generation: Config) -> dict[str, Any]:
    """Returns the special tokens, of generation_config.json where it has them."""
    found = {}
    for key in _TOKENS:
        value = generation.get(key)
        value = config.get(key) if value is None else value
        many = value if isinstance(value, list) else [value]
        ids = [one for one in many if one is not None and one != -1]
        found[key] = ids or None
    return found


def differences(compiled: Config, found: Config) -> list[Difference]:
    """Returns the keys on which two settled configs do not agree, in their order."""
    expected = compiled["expected"]
    said, found = in_one_spelling(compiled, found)
    keys = [*said, *(key for key in found if key not in said)]
    return [
        Difference(key, said.get(key), found.get(key))
        for key in keys
        if not same(said.get(key), found.get(key))
        and not _both(expected.get(key, ()), said.get(key), found.get(key))
        and not _cut(compiled, said.get(key), found.get(key))
    ]


def _cut(compiled: Config, a: Any, b: Any) -> bool:
    """Tells whether one list begins the other, where --set left out layers."""
    if not compiled["set"] or not (isinstance(a, list) and isinstance(b, list)):
        return False
    count = min(len(a), len(b))
    return count > 0 and a[:count] == b[:count]


def _both(values: Sequence[Any], a: Any, b: Any) -> bool:
    """Tells whether two values are among those that say the same."""
    return all(any(same(one, value) for value in values) for one in (a, b))


def _beside(files: Files, name: str) -> Config:
    path = files.local(name)
    return {} if path is None else read_object(path, _LIMIT, finite=False)


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
