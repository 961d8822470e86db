"""Place the norms of a layer, by the names of its vectors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glmc.authoring.evidence import Module
from glmc.authoring.sizes import Sizes
from glmc.authoring.vocabulary import Block, Vocabulary
from glmc.frontends.spec import QkNorm, StepSpec

Step = Mapping[str, object]
_OPS = ("attention", "mlp")


@dataclass
class Norms:
    """The norms of a layer and what is doubtful about them."""

    steps: list[Step] = field(default_factory=list)
    steps_doubt: str = ""
    qk: dict[str, str] = field(default_factory=dict)
    qk_doubt: str = ""
    unplaced: list[Module] = field(default_factory=list)
    biased: bool = False


def place(modules: Iterable[Module], sizes: Sizes, words: Vocabulary) -> Norms:
    """Return the steps of a layer and its q and k norms, from modules that hold a
    vector."""
    vectors = [module for module in modules if module.is_vector]
    result = Norms()
    stream = []
    for module in vectors:
        assert module.weight is not None
        slot = _query_or_key(module)
        if slot and slot not in result.qk and "attn" in module.name.lower():
            _take_qk(result, slot, module, sizes)
        elif module.weight == (sizes.E.value,):
            stream.append(module)
        else:
            result.unplaced.append(module)
    if len(result.qk) == 1:
        result.qk_doubt = "only one of q and k has a norm"
    result.biased = any(module.bias for module in stream)
    _steps(result, stream, words)
    return result


def _query_or_key(module: Module) -> str | None:
    last = module.last.lower()
    for slot in ("q", "k"):
        if last.startswith((f"{slot}_", f"{slot}norm", f"{slot}ln")) or (
            f"{'query' if slot == 'q' else 'key'}_" in last
        ):
            return slot
    return None


def _take_qk(result: Norms, slot: str, module: Module, sizes: Sizes) -> None:
    assert module.weight is not None
    result.qk[slot] = module.name
    heads = sizes.H if slot == "q" else sizes.K
    doubts = ["before rope, or after it?"]
    if module.weight == (heads.value * sizes.D.value,):
        doubts = ["all heads of a token are normed as one vector, are they?", *doubts]
        result.qk["scope"] = "full"
    elif module.weight != (sizes.D.value,):
        doubts = [f"its size is {module.weight[0]}, not a head's", *doubts]
    known = {
        key: value for key, value in result.qk.items() if key in QkNorm.model_fields
    }
    if len(known) != len(result.qk):
        doubts.append("the language has no norm over all heads yet")
    result.qk, result.qk_doubt = known, " ".join(doubts)


def _steps(result: Norms, stream: list[Module], words: Vocabulary) -> None:
    names = frozenset(module.name for module in stream)
    known = [block for block in words.blocks.get(names, []) if _usual(block)]
    if known:
        result.steps = list(known[0].steps)
        others = [block.spec for block in known[1:]]
        if others:
            result.steps_doubt = (
                f"as in {known[0].spec}; the same names stand elsewhere in"
                f" {', '.join(others)} (glmc specs show)"
            )
        return
    _by_name(result, stream)


def _usual(block: Block) -> bool:
    """Tell whether a block is attention once, then a feed-forward layer once."""
    return tuple(step.get("op") for step in block.steps) == _OPS


def _by_name(result: Norms, stream: list[Module]) -> None:
    """Place norms of unknown names: one before each op, in the order of their names."""
    attention = [m for m in stream if _is_for_attention(m)]
    rest = [m for m in stream if m not in attention]
    if len(attention) > 1 or len(rest) > 1:
        attention, rest = stream[:1], stream[1:]
    if not stream:
        result.steps = [{"op": op} for op in _OPS]
        result.steps_doubt = "no norm was found beside the ops"
        return
    if len(stream) == 1:
        result.steps = [{"op": "attention", "pre": stream[0].name}, _beside(stream[0])]
        result.steps_doubt = (
            "one norm for both, so that attention and MLP are added side by side?"
        )
        return
    pairs = zip(_OPS, [*attention, *rest][:2], strict=True)
    result.steps = [{"op": op, "pre": module.name} for op, module in pairs]
    result.unplaced += [*attention, *rest][2:]
    places = ", ".join(name for name in StepSpec.model_fields if name != "op")
    result.steps_doubt = f"which norm stands where? A step has {places}"


def _beside(norm: Module) -> Step:
    more = {"parallel": True} if "parallel" in StepSpec.model_fields else {}
    return {"op": "mlp", "pre": norm.name, **more}


def _is_for_attention(module: Module) -> bool:
    name = module.name.lower()
    marks = ("input", "attn", "attention", "1")
    return any(mark in name for mark in marks) and "post" not in name
