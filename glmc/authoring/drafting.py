"""``glmc specs new``: a first spec for a checkpoint, with the doubtful places marked.

What config.json and the headers show, read with the vocabulary of the specs there are.
A draft is tried on the checkpoint at once, so what it leaves open is known.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from glmc.authoring.evidence import Evidence, read_evidence
from glmc.authoring.scratch import write_spec
from glmc.authoring.sheet import Sheet, write_match
from glmc.authoring.trial import Trial, attempt
from glmc.authoring.vocabulary import Vocabulary, learn
from glmc.frontends.language.sections import validate
from glmc.frontends.language.yaml_tree import Branch
from glmc.frontends.read.hub import Hub
from glmc.frontends.spec import Match
from glmc.frontends.spec.library import builtin_specs, load_spec
from glmc.frontends.wording import named, show

_LIKE = 0.6
_OFF: tuple[object, ...] = (None, False, 0, [], {})


@dataclass(frozen=True)
class Draft:
    """A spec's text, and what is known of it."""

    text: str
    extends: str | None
    """The spec that explains every tensor; None: written from nothing."""
    doubts: int
    """Places marked with ``# ?``."""
    trial: Trial
    """The draft, held against the checkpoint."""


def draft(
    checkpoint: str,
    known: Mapping[str, Path] | None = None,
    hub: Hub | None = None,
) -> Draft:
    """Draft a first spec for a checkpoint.

    Args:
        checkpoint: a folder with config.json and weight files, or a hub id.
        known: the specs to learn from and to extend; default: the built-in ones.
        hub: how the hub is asked, for a hub id.

    Raises:
        GlmcError: when config or headers cannot be read, or nothing looks like a
            language model.
    """
    known = builtin_specs() if known is None else known
    words = learn(known)
    evidence = read_evidence(checkpoint, hub or Hub(), words)
    near = _nearest(evidence, known)
    body = Sheet()
    if near:
        _extend(body, evidence, *near)
    else:
        write_spec(body, evidence, words)
    _place_keys(body, evidence, words, _try(body, evidence).unknown)
    trial = _try(body, evidence)
    head = Sheet()
    _head(head, evidence, near[0] if near else None, trial)
    text = f"{head.text}{body.text}"
    return Draft(text, near[0] if near else None, head.doubts + body.doubts, trial)


def _try(sheet: Sheet, evidence: Evidence) -> Trial:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draft.yaml"
        path.write_text(sheet.text, encoding="utf-8")
        return attempt(path, evidence, any_class=False)


def _nearest(evidence: Evidence, known: Mapping[str, Path]) -> tuple[str, Trial] | None:
    """Find the spec that explains every tensor and the most config keys."""
    fitting = []
    for name, path in known.items():
        if _likeness(path, evidence) < _LIKE:
            continue
        trial = attempt(path, evidence, any_class=True)
        if trial.tensors_fit:
            other = evidence.config.get("model_type") not in _model_types(path)
            plain = len(load_spec(path).files)
            rank = (other, len(trial.unknown), len(trial.assumed), plain)
            fitting.append((rank, name, trial))
    if not fitting:
        return None
    _, name, trial = min(fitting, key=lambda one: one[:2])
    return name, trial


def _likeness(path: Path, evidence: Evidence) -> float:
    """Return the share of a spec's module names that the checkpoint has."""
    weights = load_spec(path).tree.get("weights")
    entries = weights.values() if isinstance(weights, Branch) else ()
    names = [e.get("name") if isinstance(e, Branch) else e for e in entries]
    plain = [name for name in names if isinstance(name, str)]
    here = [n for n in plain if n in evidence.inner or n in evidence.outer]
    return len(here) / len(plain) if plain else 0.0


def _model_types(path: Path) -> tuple[str, ...]:
    found = load_spec(path).tree.get("match")
    return validate(Match, found).model_type if isinstance(found, Branch) else ()


def _head(sheet: Sheet, evidence: Evidence, near: str | None, trial: Trial) -> None:
    sheet.note(
        f"A draft by `glmc specs new` from a config.json and the headers of"
        f" {len(evidence.tensors)} tensors. A question mark says what to decide. What"
        " no header shows (how rope pairs channels, norms that multiply by 1 + w,"
        " constants) is a guess until logits have been compared."
    )
    if near:
        sheet.note(f"The spec {near!r} explains every tensor.")
    for line in trial.complaints():
        sheet.doubt(line)


def _extend(sheet: Sheet, evidence: Evidence, near: str, trial: Trial) -> None:
    here = evidence.config.get("model_type")
    foreign = here not in _model_types(builtin_specs()[near])
    doubt = (
        f"{here!r} has the tensors of {near!r}, and another name: does it compute the"
        " same? Norms, scales and caps may differ where no tensor does"
    )
    sheet.short("extends", near, doubt if foreign else "")
    write_match(sheet, evidence.config)
    if trial.assumed:
        sheet.gap()
        sheet.heading("defaults")
        for key, value in trial.assumed.items():
            doubt = f"the config is silent, {near} takes this; is it so here?"
            sheet.short(key, value, doubt, "  ")


def _place_keys(
    sheet: Sheet, evidence: Evidence, words: Vocabulary, unknown: Iterable[str]
) -> None:
    """Give a fate to each key that the spec does not mention."""
    config = evidence.config
    ignored: dict[str, str] = {}
    off: list[str] = []
    left: list[str] = []
    for key in unknown:
        reason = _reason(key, words)
        if reason:
            ignored[key] = reason
        elif config[key] in _OFF:
            off.append(key)
        else:
            left.append(key)
    if ignored:
        sheet.gap()
        sheet.heading("ignore", "as other specs have it; is it so here?")
        for key, reason in ignored.items():
            sheet.short(key, reason, indent="  ")
    if off:
        sheet.gap()
        sheet.note("Off in this config; what they do when on was not looked at.")
        sheet.heading("expect")
        for key in off:
            values = [None] if config[key] is None else [None, config[key]]
            sheet.short(key, values, indent="  ")
    _leave(sheet, left, config, words)


def _reason(key: str, words: Vocabulary) -> str | None:
    """Return the reason why other specs ignore a key, unless one of them reads it."""
    if words.is_read(key):
        return None
    return next((r for g, r in words.ignored.items() if fnmatchcase(key, g)), None)


def _leave(
    sheet: Sheet, left: list[str], config: Mapping[str, object], words: Vocabulary
) -> None:
    if not left:
        return
    sheet.gap()
    sheet.note(
        "Config keys that have no place yet. A key may change the computation, so glmc"
        " refuses the config until each is used in an expression, or stands under"
        " `ignore` with a reason, or under `expect` with the values that are supported."
    )
    for key in left:
        places = [place for place, keys in words.keys.items() if key in keys]
        hint = f"  (elsewhere it stands at {', '.join(places)})" if places else ""
        sheet.doubt(f"{named(key)}: {show(config[key])}{hint}")


def summary(made: Draft, where: str) -> Iterator[str]:
    """Yield the lines that describe a draft."""
    how = f"extends {made.extends}" if made.extends else "stands alone"
    marks = "mark" if made.doubts == 1 else "marks"
    yield f"{where}: {how}, {made.doubts} {marks} `# ?` to decide"
    for line in made.trial.complaints():
        yield f"  {line}"
    if made.trial.unknown:
        yield f"  config keys without a place: {', '.join(made.trial.unknown)}"
    if made.trial.tensors_fit:
        yield "  every tensor of the checkpoint is accounted for"
