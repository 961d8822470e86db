"""Settle what no header shows: the options of a draft, stage by stage.

Stages silence sublayers, so that what is doubtful is settled piece by piece: costs add
instead of multiplying, and a failure names the stage.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from glmc.authoring.vocabulary import Vocabulary
from glmc.frontends.spec.library import load_spec
from glmc.ir.activations import ActivationName
from glmc.prove.texts.small import Small, Tree

Edit = Mapping[str, Any]
"""Paths with dots to values; an empty one leaves the draft as it is."""

STAGES = ("ends", "feed-forward", "values", "attention", "whole")
TOLERANCE = 1e-4
_MOST = 240
_LAYOUTS = (
    "[q:(H D)|k:(K D)|v:(K D)] E",
    "(K [q:(G D)|k:D|v:D]) E",
    "(H [q:D|k:D|v:D]) E",
    "E [q:(H D)|k:(K D)|v:(K D)]",
    "[q:(H D)|v:(K D)|k:(K D)] E",
)
_GATED = ("[gate:F|up:F] E", "[up:F|gate:F] E")


@dataclass(frozen=True)
class Doubt:
    """Something that is tried in several ways in a stage."""

    stage: str
    name: str
    edits: Sequence[Edit]


@dataclass(frozen=True)
class Found:
    """A spec's tree that equals the text in all stages, and what was settled."""

    tree: Tree
    settled: Sequence[str]
    tried: int


def merged(tree: Tree, small: Small) -> Mapping[str, Any]:
    """Merge a draft with all it inherits."""
    path = small.folder / "draft.yaml"
    from glmc.prove.texts.small import spec_text

    path.write_text(spec_text(tree), encoding="utf-8")
    return load_spec(path).tree


def silenced(whole: Mapping[str, Any], layers: int) -> dict[str, list[str]]:
    """Map each stage to the modules that are silent in it, by the names of the
    draft."""
    prefix = str(whole.get("tensor_prefix") or "") + str(whole["layer_prefix"])

    def modules(*slots: str) -> list[str]:
        names = [_name(whole["weights"].get(slot)) for slot in slots]
        return [
            prefix.replace("{i}", str(at)) + name
            for at in range(layers)
            for name in names
            if name
        ]

    attention, feed = modules("o"), modules("down")
    return {
        "ends": [*attention, *feed],
        "feed-forward": attention,
        "values": feed,
        "attention": feed,
        "whole": [],
    }


def _name(entry: Any) -> str:
    found = entry.get("name") if isinstance(entry, Mapping) else entry
    return str(found or "")


def doubts(
    whole: Mapping[str, Any],
    config: Mapping[str, Any],
    read: set[str],
    words: Vocabulary,
) -> Iterator[Doubt]:
    """Yield every choice of a draft that may be otherwise."""
    ops = whole["ops"]
    attention = next((n for n, op in ops.items() if op["kind"] == "attention"), None)
    feed = next((n for n, op in ops.items() if op["kind"] == "mlp"), None)
    numbers = [
        key
        for key in sorted(read)
        if isinstance(config.get(key), float)
        and "eps" not in key
        and config[key] != 1.0
    ]
    yield from _ends(whole, config, numbers)
    if feed:
        acts = [{f"ops.{feed}.act": act} for act in get_args(ActivationName)]
        yield Doubt("feed-forward", "activation", [{}, *acts])
        yield from _swapped(whole["weights"])
    if "q+k+v" in whole["weights"]:
        key = "weights.q+k+v.layout"
        yield Doubt("values", "layout", [{}, *({key: one} for one in _LAYOUTS)])
    if attention:
        yield from _attention(
            f"ops.{attention}", ops[attention], config, numbers, words
        )
    yield from _blocks(whole["block"])


def _ends(
    whole: Mapping[str, Any], config: Mapping[str, Any], numbers: Sequence[str]
) -> Iterator[Doubt]:
    kinds: list[Edit] = [{"norm.kind": "rms"}, {"norm.kind": "layer"}]
    biased = bool(whole["norm"].get("bias"))
    yield Doubt("ends", "kind of norm", [{}] if biased else [{}, *kinds])
    yield Doubt("ends", "norm offset", [{}, {"norm.unit_offset": True},
                                        {"norm.unit_offset": False}])  # fmt: skip
    keys = [f"=c.{k}" for k, v in config.items() if "eps" in k and isinstance(v, float)]
    epsilons = [{"norm.eps": eps} for eps in (*keys, 1e-5, 1e-6, 1e-8)]
    yield Doubt("ends", "epsilon", [{}, *epsilons])
    scales = ["=E ** 0.5", *(f"=c.{key}" for key in numbers)]
    yield Doubt(
        "ends", "scale of embeddings", [{}, *({"embed.scale": s} for s in scales)]
    )
    heads: list[Edit] = [{}]
    for key in numbers:
        heads += [{"head.softcap": f"=c.{key}"}, {"head.scale": f"=c.{key}"},
                  {"head.scale": f"=1 / c.{key}"}]  # fmt: skip
    yield Doubt("ends", "scale of logits", heads)


def _swapped(weights: Mapping[str, Any]) -> Iterator[Doubt]:
    if "gate+up" in weights:
        edits = [{"weights.gate+up.layout": one} for one in _GATED]
        yield Doubt("feed-forward", "order of gate and up", [{}, *edits])
    elif "gate" in weights and "up" in weights:
        other = {"weights.gate": weights["up"], "weights.up": weights["gate"]}
        yield Doubt("feed-forward", "order of gate and up", [{}, other])


def _attention(
    at: str,
    op: Mapping[str, Any],
    config: Mapping[str, Any],
    numbers: Sequence[str],
    words: Vocabulary,
) -> Iterator[Doubt]:
    if op.get("rope"):
        styles: list[Edit] = [{f"{at}.rope.style": s} for s in ("half", "interleaved")]
        yield Doubt("attention", "pairs of rope", [{}, *styles, {f"{at}.rope": None}])
    alibi: list[Edit] = [{}, {f"{at}.rope": None, f"{at}.alibi": {}}]
    yield Doubt("attention", "biases by distance", alibi)
    scales = [1.0, "=D ** -0.5", *(f"=c.{key}" for key in numbers)]
    edits = [{f"{at}.scale": one} for one in scales]
    caps = [{f"{at}.softcap": f"=c.{key}"} for key in numbers]
    yield Doubt("attention", "scale of scores", [{}, *edits, *caps])
    windows = [k for k in words.keys["attention.window"] if type(config.get(k)) is int]
    choices: list[Edit] = [{f"{at}.window": f"=c.{key}"} for key in windows]
    yield Doubt("attention", "window", [{}, *choices, {f"{at}.window": None}])
    if op.get("qk_norm"):
        after = [{f"{at}.qk_norm.after_rope": one} for one in (True, False)]
        yield Doubt("attention", "side of q and k norms", [{}, *after])


def _blocks(steps: Sequence[Mapping[str, Any]]) -> Iterator[Doubt]:
    plain = [dict(step) for step in steps]
    if len(plain) == 2:
        parallel = [plain[0], {**plain[1], "parallel": True}]
        shared = [plain[0], {**plain[1], "parallel": True, "pre": plain[0].get("pre")}]
        yield Doubt("whole", "parallel block", [{}, {"block": parallel},
                                                {"block": shared}])  # fmt: skip


def edited(tree: Tree, edit: Edit) -> Tree:
    """Return a tree with values put at paths."""
    made = copy.deepcopy(tree)
    for path, value in edit.items():
        *inner, last = path.split(".")
        at = made
        for key in inner:
            found = at.get(key)
            if key == inner[-1] and isinstance(found, str):
                found = {"name": found}
            at[key] = found if isinstance(found, dict) else {}
            at = at[key]
        at[last] = value
    return made


def settle(
    tree: Tree,
    stage: str,
    open_: Sequence[Doubt],
    smalls: Sequence[Small],
    silent: Sequence[Mapping[str, list[str]]],
) -> tuple[Tree | None, float, int, list[str]]:
    """Try the options of a stage until all small models give the text's logits.

    Gives the tree or None, the smallest difference that was met, how many were tried,
    and the names of what was decided otherwise than in the draft.
    """
    best, tried = float("inf"), 0
    mine = [doubt for doubt in open_ if doubt.stage == stage]
    # Those that differ from the draft in one place come before those in several.
    choices = sorted(
        product(*(range(len(doubt.edits)) for doubt in mine)),
        key=lambda one: (sum(at > 0 for at in one), one),
    )
    for choice in choices[:_MOST]:
        made = tree
        for doubt, at in zip(mine, choice, strict=True):
            made = edited(made, doubt.edits[at])
        worst = 0.0
        for small, quiet in zip(smalls, silent, strict=True):
            worst = max(worst, small.differences(made, stage, quiet[stage]))
            if not worst <= TOLERANCE:
                break
        best, tried = min(best, worst), tried + 1
        if worst <= TOLERANCE:
            names = [doubt.name for doubt, at in zip(mine, choice, strict=True) if at]
            return made, best, tried, names
    return None, best, tried, []
