"""``glmc read``: from published code to a spec that equals it, or to a reason."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from glmc.authoring.drafting import draft
from glmc.authoring.vocabulary import Vocabulary, learn
from glmc.frontends.build.source import resolve_source
from glmc.frontends.code.limits import GIB, Limits
from glmc.frontends.code.sources import find_text
from glmc.frontends.code.text import Text
from glmc.frontends.read.hub import Hub
from glmc.frontends.spec.library import builtin_specs
from glmc.ir.errors import GlmcError, UnprovedError
from glmc.prove.comparing import Scenario
from glmc.prove.references import read_golden
from glmc.prove.texts import options, rules
from glmc.prove.texts.job import BEYOND, Job, run
from glmc.prove.texts.shrinking import literals, shrink
from glmc.prove.texts.small import Small, Tree, make_small, spec_text

Tell = Callable[[str], None]

_REAL = Limits(live=24 * GIB)
"""A real layer is looked at with zeros, which take no memory until written."""


@dataclass(frozen=True)
class Reading:
    """A spec that equals a text, and what was compared."""

    text: Text
    tree: Tree
    extends: str | None
    certificate: Mapping[str, Any]

    @property
    def spec(self) -> str:
        """The spec's file: the certificate as remarks, then the tree."""
        told = [f"# Read from {self.text.file}.py; `glmc read` compared it."]
        for name, value in self.certificate.items():
            told.append(f"#   {name}: {json.dumps(value)}")
        return "\n".join(told) + "\n" + spec_text(self.tree)


def read(source: str, given: str | None, hub: Hub, tell: Tell) -> Reading:
    """Find a spec for a model by its published code.

    Args:
        source: a folder with config.json, or a hub id.
        given: where the code is; None: there too.
        hub: how the hub is asked.
        tell: is given a line before every stage.

    Raises:
        GlmcError: the code cannot be read, or no spec is equal to it; with file and
            line, or with the stage in which the search ended.
    """
    found = resolve_source(source, hub)
    config = found.read_config()
    text = find_text(given or source, config, hub)
    lines = sum(one.count("\n") for one in text.texts.values())
    tell(
        f"{text.file}.py: {text.model_class}, {lines} lines in {len(text.texts)} files"
    )
    words = learn(builtin_specs())
    with tempfile.TemporaryDirectory() as folder:
        return _Reader(text, dict(config), words, Path(folder), tell).read()


class _Reader:
    def __init__(
        self,
        text: Text,
        config: dict[str, Any],
        words: Vocabulary,
        folder: Path,
        tell: Tell,
    ) -> None:
        self.text, self.config, self.words = text, config, words
        self.folder, self.tell = folder, tell

    def read(self) -> Reading:
        smalls, real = self._small_models()
        self.tell("rules: decisions, lengths and data are those of the real config")
        certificate = rules.check(self.text, [one.survey for one in smalls], real)
        tree, extends = self._draft(smalls[0])
        silent = [
            options.silenced(options.merged(tree, one), self._layers(one))
            for one in smalls
        ]
        longest = self._answers(smalls, silent)
        tree, settled, apart = self._search(tree, smalls, silent, real)
        if apart:
            longest = f"up to {_TRAINED}, and {apart:.1e} apart beyond it"
            tree = dict(tree) | {"caveat": _CAVEAT}
        worst = max(one.differences(tree, "whole", []) for one in smalls)
        tree = self._with_keys(tree, smalls, real)
        facts = {
            "compared": "prompt, cached decoding, left padding, a long prompt; on two"
            " small models of other sizes, in float32",
            "worst_difference": float(f"{worst:.1e}"),
            "longest": longest,
            "sizes": [vars(one.sizes) for one in smalls],
            "settled": settled,
            **certificate,
        }
        return Reading(self.text, tree, extends, facts)

    def _small_models(self) -> tuple[list[Small], Mapping[str, Any]]:
        """Make two small models, and survey a few layers of the real size."""
        taken = literals(self.text.texts.values())
        first = shrink(self.config, self.words, taken, 0)
        taken |= set(vars(first[1]).values())
        made = [first, shrink(self.config, self.words, taken, 1)]
        small = [config for config, _ in made]
        real = dict(self.config)
        for key in (*self.words.keys["layers"], *self.words.keys["dims.V"]):
            if key in real:
                real[key] = small[0][key]
        real |= {
            key: value[: len(small[0][key])]
            for key, value in real.items()
            if isinstance(value, list) and isinstance(small[0].get(key), list)
        }
        self.tell("survey: tensors, keys and decisions, small and with the real sizes")
        job = Job(self.text, [_plain(c) for c in (*small, real)], kind="survey")
        lengths = [*(sizes.longest + BEYOND for _, sizes in made), 0]
        job = replace(job, limits=_REAL, memory=30 * GIB, lengths=lengths)
        surveys = run(job, self.folder / "survey")["found"]
        smalls = [
            make_small(self.folder / f"small{which}", config, sizes, survey, which)
            for which, ((config, sizes), survey) in enumerate(
                zip(made, surveys[:2], strict=True)
            )
        ]
        return smalls, surveys[2]

    def _layers(self, small: Small) -> int:
        return int(next(small.config[k] for k in self.words.keys["layers"]
                        if k in small.config))  # fmt: skip

    def _draft(self, small: Small) -> tuple[Tree, str | None]:
        known = small.known()
        if known:
            self.tell(f"draft: the spec {known}, which this type has in glmc")
            match = {"model_type": [self.config.get("model_type")]}
            return {"extends": known, "match": match}, known
        self.tell("draft: from tensor names, shapes and config keys")
        made = draft(str(small.folder))
        tree = yaml.safe_load(made.text)
        for section in ("ignore", "expect"):
            tree.pop(section, None)
        told = made.trial.complaints()
        if not made.trial.tensors_fit:
            raise UnprovedError(
                "the draft does not account for every tensor of the text: "
                + "; ".join(told[:4])
            )
        return tree, made.extends

    def _answers(
        self, smalls: Sequence[Small], silent: Sequence[Mapping[str, list[str]]]
    ) -> str:
        """Have the text answer every stage; return the lengths up to which it was
        proved."""
        self.tell("oracle: the text's logits, stage by stage")
        beyond = True
        for small, quiet in zip(smalls, silent, strict=True):
            try:
                found = self._staged(small, quiet, BEYOND if beyond else -BEYOND)
            except GlmcError:
                if not beyond:
                    raise
                beyond = False
                found = self._staged(small, quiet, -BEYOND)
            for stage in options.STAGES:
                small.answers[stage] = [
                    (given, logits)
                    for given, logits in found
                    if given.name.startswith(f"{stage} ")
                    and not (stage == "values" and given.ids.shape[1] > 1)
                ]
        return f"beyond {_TRAINED}" if beyond else f"within {_TRAINED}; it ends there"

    def _only_trained(self, smalls: Sequence[Small]) -> bool:
        """Have the text answer anew up to the longest trained length and no further;
        tell whether what it answered before went beyond."""
        lengths = {
            given.ids.shape[1] + given.more.shape[1] - small.sizes.longest
            for small in smalls
            for given, _ in small.answers["whole"]
        }
        if max(lengths) <= 0:
            return False
        self.tell("oracle: the text's logits, up to the longest trained length")
        for small in smalls:
            small.answers["whole"] = self._staged(small, {"whole": []}, 0)
        return True

    def _staged(
        self, small: Small, quiet: Mapping[str, list[str]], more: int
    ) -> list[tuple[Scenario, Any]]:
        job = Job(
            self.text,
            [_plain(small.config)],
            str(small.folder),
            vocab=small.sizes.vocab,
            kind="stages",
            stages=dict(quiet),
            longest=small.sizes.longest + more,
        )
        out = small.folder / "answers.safetensors"
        run(job, out)
        assert load_file(out)
        return [(given, got["logits"]) for given, got in read_golden(out)]

    def _search(
        self,
        tree: Tree,
        smalls: Sequence[Small],
        silent: Sequence[Mapping[str, list[str]]],
        real: Mapping[str, Any],
    ) -> tuple[Tree, list[str], float]:
        """Settle what no header shows, stage by stage; return the tree, the names of
        what was settled, and how far apart it is beyond the longest trained length, 0
        where it is not."""
        whole = options.merged(tree, smalls[0])
        doubts = list(
            options.doubts(whole, smalls[0].config, set(real["keys"]), self.words)
        )
        settled: list[str] = []
        apart = 0.0
        for stage in options.STAGES:
            made, best, tried, names = options.settle(
                tree, stage, doubts, smalls, silent
            )
            if made is None and stage == "whole" and self._only_trained(smalls):
                apart = best
                made, best, tried, names = options.settle(
                    tree, stage, doubts, smalls, silent
                )
            if made is None:
                mine = [one.name for one in doubts if one.stage == stage]
                raise UnprovedError(
                    f"{self.text.file}.py: the search ended at the stage {stage!r}: "
                    f"none of {tried} readings of {', '.join(mine) or 'the draft'} "
                    f"gives the text's logits; the nearest is {best:.1e} apart."
                )
            tree, settled = made, [*settled, *names]
            self.tell(f"{stage}: equal to {best:.1e} after {tried} "
                      f"reading{'s' if tried > 1 else ''}")  # fmt: skip
        return tree, settled, apart

    def _with_keys(
        self, tree: Tree, smalls: Sequence[Small], real: Mapping[str, Any]
    ) -> Tree:
        """Return the tree with a fate for every key, and what it was verified by."""
        unknown = smalls[0].unknown(tree)
        surveys = [one.survey for one in smalls]
        ignored, expected = rules.keys(unknown, self.config, surveys, real)
        made = dict(tree) | {"verified": "text"}
        if ignored:
            made["ignore"] = ignored
        if expected:
            made["expect"] = expected
        return made


_TRAINED = "the longest trained length"
_CAVEAT = f"beyond {_TRAINED} the published code computes something else, and this not"


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config for the text, in float32."""
    return {**config, "torch_dtype": "float32", "dtype": "float32"}
