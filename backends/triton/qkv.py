"""Attention from packed q | k | v: its heads, for a prompt and for a token."""

from collections.abc import Iterator

from glmc.backends.triton import attention_pieces as pieces
from glmc.backends.triton import tiles
from glmc.backends.triton.attention_heads import CACHED
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import (
    Argument,
    Launch,
    constant,
    count,
    pointer,
    stride,
    tile,
)
from glmc.backends.triton.lines import Line, call
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.rope import pairs

TURNED = ("rope", "norm", "style", "sections", "weight_in", "offset")


def inputs(form: Form) -> list[str]:
    """Name the operands that rotate and normalise the heads of packed q | k | v."""
    rope = ["cos", "sin"] if form["rope"] else []
    return [*rope, *(["q_norm", "k_norm", "eps"] if form["norm"] else [])]


def _turning(form: Form, tokens: str) -> list[Argument]:
    shape = f"[B, {tokens}, ROTARY / 2]"
    meaning = "of the angles by which channels turn in pairs"
    rope = [
        pointer(name, shape, meaning, source=f"{name}.contiguous()")
        for name in ("cos", "sin")
    ]
    norm = [
        pointer(name, "[D]", "weights of the RMS norms of each head")
        for name in ("q_norm", "k_norm")
    ]
    return [*(rope if form["rope"] else []), *(norm if form["norm"] else [])]


def _turned(form: Form, block: str) -> list[Argument]:
    rope = [constant("ROTARY", "2 * cos.shape[-1]")] if form["rope"] else []
    norm = [constant("EPS", "eps")] if form["norm"] else []
    rounded = "D rounded up to a power of two"
    return [constant("D"), *rope, *norm, constant("BLOCK", block, rounded)]


def _heads(form: Form, model: Model, target: str, given: list[str], norm: str) -> Line:
    """Emit a call of the function that makes heads of packed q | k | v."""
    name = model.part("_qkv_heads", form, *TURNED, ops=["qkv_attention"])
    rope = ["cos", "sin"] if form["rope"] else []
    weight = [norm] if form["norm"] else []
    sizes = [argument.name for argument in _turned(form, "")]
    return call(target, name, [*given, *rope, *weight, *sizes])


def prologue(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that copies q | k | v of a prompt to where attention reads
    them."""
    yield part("kv_store")
    if form["norm"]:
        yield part(f"weighted_{form.text('weight_in')}")
    yield _qkv_heads(form, model)
    name = model.part("_qkv_prologue", form, *TURNED, ops=["qkv_attention"])
    turned = ["cos += row * (ROTARY // 2)", "sin += row * (ROTARY // 2)"]
    source = ["source", "True"]
    packed = "[B, T, (HEADS + 2 KV_HEADS) D]"
    yield part(
        "qkv_prologue",
        turned=turned if form["rope"] else (),
        q=(_heads(form, model, "value", source, "q_norm"),),
        k=(_heads(form, model, "value", source, "k_norm"),),
        head=(pieces.defined(name, ["qkv", "q", "kv", *inputs(form)]),),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "(B * T, H + 2 * K)",
            (
                pointer("qkv", packed, "tokens that lie qkv_token elements apart"),
                pointer("q", "[B, T, HEADS, D]"),
                *pieces.kept("D", "D"),
                pieces.POSITION,
                *_turning(form, "T"),
                stride("qkv_batch", "qkv.stride(0)"),
                stride("qkv_token", "qkv.stride(1)"),
                count("T"),
                count("capacity"),
                *pieces.HEADS[:2],
                *_turned(form, "triton.next_power_of_2(D)"),
            ),
            (f"num_warps={tiles.PROLOGUE_WARPS}",),
        ),
    )


def decode(form: Form, model: Model) -> Part:
    """Return the kernel of decode: one token of each row, from packed q | k | v to its
    context."""
    name = pieces.named("_qkv_decode", form, model)
    turned = ["cos += batch * (ROTARY // 2)", "sin += batch * (ROTARY // 2)"]
    rows, row = ["rows", "there[:, None]"], ["row", "True"]
    packed = "[B, 1, (HEADS + 2 KV_HEADS) D]"
    return part(
        "qkv_decode",
        ranged=pieces.ranged(form),
        turned=turned if form["rope"] else (),
        q=(_heads(form, model, "queries", rows, "q_norm"),),
        k=(_heads(form, model, "k", row, "k_norm"),),
        started=pieces.begin(form, "head", "there", "there & (split == 0)", "BLOCK"),
        score=(pieces.score(form, model, "score", "products[:, None]", "0"),),
        attend=model.part("_attend", form, *pieces.ATTENDED, ops=CACHED),
        attended=[f"{argument}," for argument in pieces.attended(form)],
        head=(
            pieces.defined(
                name,
                [
                    "qkv",
                    "kv",
                    "heads",
                    *inputs(form),
                    *pieces.vectors(form),
                    *pieces.numbers(form),
                ],
            ),
        ),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "grid",
            (
                pointer("qkv", packed, "rows that lie qkv_batch elements apart"),
                *pieces.kept("D", "D"),
                pieces.POSITION,
                pieces.START,
                *_turning(form, "1"),
                *pieces.vector_arguments(form),
                *pieces.joined("D", "qkv", "heads"),
                stride("qkv_batch", "qkv.stride(0)"),
                count("capacity"),
                *pieces.constants(form),
                constant("HEADS", "heads"),
                pieces.HEADS[1],
                *pieces.PARTS,
                *_turned(form, pieces.ROUNDED.format("D")),
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )


def _qkv_heads(form: Form, model: Model) -> Part:
    """Return the function that loads the heads of one token, normalised and rotated."""
    rope, norm = bool(form["rope"]), bool(form["norm"])
    parameters = [
        *(["cos", "sin"] if rope else []),
        *(["weight"] if norm else []),
        *(f"{argument.name}: tl.constexpr" for argument in _turned(form, "")),
    ]
    told = [
        "#   cos, sin [ROTARY / 2]        of the token's angles",
        "#   weight [D]                   of the RMS norm",
        "#   EPS                          added to the mean square",
    ]
    made = "normalised, then turned" if rope and norm else "normalised"
    return part(
        "qkv_heads",
        name=model.part("_qkv_heads", form, *TURNED, ops=["qkv_attention"]),
        made=f": {made if norm else 'turned'}" if rope or norm else "",
        told=[*(told[:1] if rope else []), *(told[1:] if norm else [])],
        parameters=[f"{parameter}," for parameter in parameters],
        steps=[*_normed_heads(form), *_turned_heads(form)],
        result="exact.to(value.dtype)" if rope or norm else "value",
    )


def _normed_heads(form: Form) -> list[str]:
    exact = ["exact = value.to(tl.float32)"]
    if not form["norm"]:
        return exact if form["rope"] else []
    weighted = f"_weighted_{form['weight_in']}"
    return [
        *exact,
        "scale = tl.rsqrt(tl.sum(exact * exact, axis=1) / D + EPS)[:, None]",
        "gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)",
        *_offset(form),
        f"exact = {weighted}(exact * scale, gain, value.dtype).to(tl.float32)",
    ]


def _offset(form: Form) -> list[str]:
    return ["gain += 1.0"] if form["offset"] else []


def _turned_heads(form: Form) -> list[str]:
    if not form["rope"]:
        return []
    weighted = f"_weighted_{form['weight_in']}"
    load = "partner = tl.load(source + other, mask=there & turns, other=0.0)"
    normed = [
        "gain = tl.load(weight + other, mask=turns, other=0.0).to(tl.float32)",
        *_offset(form),
        f"partner = {weighted}(partner * scale, gain, value.dtype).to(tl.float32)",
    ]
    return [
        "turns = channel < ROTARY",
        *pairs(form),
        f"{load}.to(tl.float32)",
        *(normed if form["norm"] else []),
        "c = tl.load(cos + pair, mask=turns, other=1.0)",
        "s = tl.load(sin + pair, mask=turns, other=0.0)",
        "exact = exact * c + tl.where(first, -partner, partner) * s",
    ]
