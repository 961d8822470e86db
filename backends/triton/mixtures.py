"""Mixtures of experts: the kernels of experts and routers, and their launches."""

import json
from collections.abc import Iterator

from glmc.backends.triton import pointwise, tiles
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
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.uses import OpUse

OPS = ("moe_router", "moe_experts")


def experts_unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels of experts do not take a use, or None."""
    if use.attrs.get("limit") is not None and use.attrs.get("alpha") is None:
        return f"{use.name}: no kernel clamps {use.text('fn')} without an alpha"
    if use.attrs.get("gated") is False:
        return f"{use.name}: no kernel runs experts without a gate"
    return None


def router_unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels of a router do not take a use, or None."""
    experts = use.size("weight", 0)
    if experts > tiles.MOST_EXPERTS:
        return (
            f"{use.name}: a program chooses among {tiles.MOST_EXPERTS} experts at"
            f" most, not {experts}"
        )
    return None


# Experts. Rows one by one, or sorted by expert and cut into blocks of one expert each.
SORTED = ("order", "experts", "firsts", "ends")


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of experts, row by row and for blocks of rows, and their
    launcher."""
    early = form["weigh"] == "input"
    yield from (part("rows"), part("rows_dense"))
    yield part("moe_clamped") if form["clamped"] else pointwise.activating(form)
    yield from (part("moe_tiles", **_tables()), part("moe_sorted", sorted=tiles.SORTED))
    name = model.name(form).removeprefix("moe_experts")
    act = "_clamped(gate, up, ALPHA, LIMIT)"
    act = act if form["clamped"] else f"{pointwise.act(form)}(gate) * up"
    shown: dict[str, object] = {
        "made": (f"made = {act}",),
        "weighed": ("state = (state * share).to(x.dtype.element_ty)",) if early else (),
    }
    up_bias, down_bias = bool(form["gate_up_bias"]), bool(form["down_bias"])
    launches = {
        "row_up": _up(form, f"moe_row_gate_up{name}_kernel", ("chosen",), ROW_UP),
        "row_down": _down(form, f"moe_row_down{name}_kernel", ("chosen",), ROW_DOWN),
        "up": _up(form, f"moe_gate_up{name}_kernel", SORTED, UP),
        "down": _down(form, f"moe_down{name}_kernel", SORTED, DOWN),
    }
    yield part(
        "moe_rows",
        up=launches["row_up"],
        down=launches["row_down"],
        share=("share = tl.load(shares + row)",) if early else (),
        up_bias=ROW_UP_BIAS if up_bias else (),
        down_bias=ROW_DOWN_BIAS if down_bias else (),
        part="part" if early else "part * tl.load(shares + row)",
        **shown,
    )
    yield part(
        "moe_blocks",
        up=launches["up"],
        down=launches["down"],
        share=_SHARE if early else (),
        up_bias=UP_BIAS if up_bias else (),
        down_bias=DOWN_BIAS if down_bias else (),
        weigh=() if early else _WEIGH,
        **shown,
    )
    yield part("moe_sort", launch=sort())
    yield part(
        "moe_experts", head=model.head(form.op, model.launcher(form)), **launches
    )


ROW_UP, ROW_DOWN = (
    '(M, triton.cdiv(F, tile["COLS"]))',
    '(M // K, triton.cdiv(E, tile["COLS"]))',
)
UP, DOWN = (
    '(triton.cdiv(F, tile["COLS"]), count)',
    '(triton.cdiv(E, tile["COLS"]), count)',
)
_SHARE = ("share = tl.load(shares + row, mask=valid, other=0.0)[:, None]",)
_WEIGH = ("total *= tl.load(shares + row, mask=valid, other=0.0)[:, None]",)
ROW_UP_BIAS: Lines = (
    "biases = gate_up_bias + expert * 2 * F + column",
    "gate += tl.load(biases, mask=inside, other=0.0)",
    "up += tl.load(biases + F, mask=inside, other=0.0)",
)
ROW_DOWN_BIAS: Lines = (
    "part += tl.load(down_bias + expert * E + column, column < E, other=0.0)",
)
UP_BIAS: Lines = (
    "biases = gate_up_bias + expert * 2 * F + column",
    "gate += tl.load(biases, mask=column < F, other=0.0)[None, :]",
    "up += tl.load(biases + F, mask=column < F, other=0.0)[None, :]",
)
DOWN_BIAS: Lines = (
    "biases = down_bias + expert * E + column",
    "total += tl.load(biases, mask=column < E, other=0.0)[None, :]",
)


def _tables() -> dict[str, object]:
    """Return the tiles by the bytes of an element."""
    pairs: list[str] = []
    for size, (few, many) in tiles.EXPERTS.items():
        each = [f"    {json.dumps(found)}," for found in (few, many)]
        pairs += [f"{size}: (", *each, "),"]
    up, down = (
        [f"{size}: {json.dumps(found)}," for size, found in table.items()]
        for table in (tiles.EXPERT_ROW_UP, tiles.EXPERT_ROW_DOWN)
    )
    return {"pairs": pairs, "up": up, "down": down}


def choice(form: Form, chosen: tuple[str, ...], weighs: bool) -> Iterator[Argument]:
    """Declare the arguments for the experts chosen for each row, and their weights."""
    told = {
        "chosen": ("[M]", "the expert of each row"),
        "order": ("[M]", "rows by expert; row r is of token r // TOP_K"),
        "experts": ("", "of each block, its expert"),
        "firsts": ("", "of each block, its first place in order"),
        "ends": ("[X]", "where an expert's rows end in order"),
    }
    found = [pointer(name, *told[name]) for name in chosen]
    if chosen == SORTED:
        found = [pointer(n, *told[n], source="") for n in chosen]
        found[0] = pointer("order", *told["order"], source="*blocks")
    yield from found
    if weighs:
        yield pointer("shares", "[M]", "how much a row counts")


def _up(form: Form, name: str, chosen: tuple[str, ...], grid: str) -> Launch:
    """Make the launch of the products of gate and up, with their activation."""
    clamp = (constant("ALPHA", "alpha"), constant("LIMIT", "limit"))
    biased = pointer("gate_up_bias", "[X, 2F]")
    return Launch(
        name,
        grid,
        (
            pointer(
                "x",
                "[tokens, E]",
                "tokens that lie x_row elements apart",
                source="tokens",
            ),
            pointer("gate_up", "[X, 2F, E]", "weights of the X experts, gate | up"),
            *([biased] if form["gate_up_bias"] else []),
            *choice(form, chosen, form["weigh"] == "input"),
            pointer("hidden", "[M, F]", "activations"),
            stride("x_row", "tokens.stride(0)"),
            constant("TOP_K", "K", "experts of a token, each with a row"),
            constant("E"),
            constant("F"),
            *(clamp if form["clamped"] else ()),
            *tile(*(["ROWS"] if chosen == SORTED else []), "COLS", "DEPTH"),
        ),
        ("**tile",),
    )


def _down(form: Form, name: str, chosen: tuple[str, ...], grid: str) -> Launch:
    """Make the launch of the down product."""
    biased = pointer("down_bias", "[X, E]")
    out = pointer("out", "[tokens, E]")
    if chosen == SORTED:
        out = pointer("parts", "[M, E]", "what each row adds to its token")
    return Launch(
        name,
        grid,
        (
            pointer("hidden", "[M, F]", "activations"),
            pointer("down", "[X, E, F]"),
            *([biased] if form["down_bias"] else []),
            *choice(form, chosen, form["weigh"] != "input"),
            out,
            *([] if chosen == SORTED else [constant("TOP_K", "K")]),
            constant("E"),
            constant("F"),
            *tile(*(["ROWS"] if chosen == SORTED else []), "COLS", "DEPTH"),
        ),
        ("**tile",),
    )


def sort() -> Launch:
    """Make the launch of the kernel that sorts rows by their expert."""
    return Launch(
        "moe_sort_kernel",
        "(1,)",
        (
            *(pointer(name) for name in ("chosen", *SORTED)),
            count("M"),
            constant("ROWS", "rows"),
            constant("BLOCK", "MOE_SORTED"),
            constant("STEP", str(tiles.SORT_STEP)),
        ),
        (f"num_warps={tiles.SORT_WARPS}",),
    )


# Routers.
_SCORES = {
    "softmax": (
        "powers = tl.exp(logit - tl.max(tl.max(logit, axis=1), axis=0))",
        "scores = powers / tl.sum(tl.sum(powers, axis=1), axis=0)",
    ),
    "sigmoid": ("scores = tl.sigmoid(logit)",),
    "sqrt_softplus": (
        "rest = tl.log(1.0 + tl.exp(-tl.abs(logit)))",
        "scores = tl.sqrt(tl.maximum(logit, 0.0) + rest)",
    ),
    "logit": ("scores = logit",),
}
_AFTER = {
    "softmax": (
        "shares = tl.where(inside, shares, LOWEST)",
        "shares = tl.exp(shares - tl.max(shares, axis=0))",
        "shares /= tl.sum(shares, axis=0)",
    ),
    "sigmoid": ("shares = tl.sigmoid(shares)",),
    "None": (),
}
_TOTAL = "total = tl.sum(tl.where(inside, shares, 0.0), axis=0)"
_CORRECTED = "scores + tl.load(correction + expert, mask=inside, other=0.0)"
_ALL = ("expert = tl.arange(0, S_BLOCK)[None, :]", "inside = expert < X")
_BY_GROUP = (
    "SIZE: tl.constexpr = X // GROUPS",
    "group, member = tl.arange(0, G_BLOCK), tl.arange(0, S_BLOCK)[None, :]",
    "expert = group[:, None] * SIZE + member",
    "inside = (group[:, None] < GROUPS) & (member < SIZE)",
)
_SECOND = (
    "first = tl.min(tl.where(choice == best[:, None], member, S_BLOCK), axis=1)",
    "best += tl.max(tl.where(member == first[:, None], LOWEST, choice), axis=1)",
)
_OTHERS = {
    True: "choice = tl.where(inside & ~eligible[:, None], 0.0, choice)",
    False: "choice = tl.where(eligible[:, None], choice, LOWEST)",
}


def _judged(form: Form) -> Lines:
    """Emit the choice of the groups whose experts stay eligible."""
    if not form["judged"]:
        return ()
    return (
        "best = tl.max(choice, axis=1)",
        *(_SECOND if form["judged"] == "top2" else ()),
        "eligible = group < 0",
        "for _ in tl.static_range(TOP_GROUPS):",
        "    highest = tl.max(best, axis=0)",
        "    at = tl.min(tl.where(best == highest, group, GROUPS - 1), axis=0)",
        "    eligible |= group == at",
        "    best = tl.where(group == at, LOWEST, best)",
        _OTHERS[bool(form["zeroes"])],
    )


def router_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that scores and chooses experts for few tokens, and its
    launcher."""
    name = model.name(form).removeprefix("moe_router")
    biased = model.part("moe_scores", form, "bias", ops=["moe_router"])
    scores = _scores(form, f"{biased}_kernel")
    total: Lines = ()
    if form["renormalise"]:
        added = "total + ADDED" if form["added"] else "total + 1e-20"
        by = "tl.maximum(total, LEAST)" if form["least"] else added
        total = (_TOTAL, f"shares /= {by}")
    yield from (part("rows"), part("rows_dense"))
    yield part(
        "moe_scores",
        launch=scores,
        bias=("logit += tl.load(bias + expert, mask=expert < X, other=0.0)",)
        if form["bias"]
        else (),
    )
    yield part(
        "moe_router",
        choice=_chosen(form, f"moe_choice{name}_kernel"),
        scores=scores,
        experts=_BY_GROUP if form["judged"] else _ALL,
        scored=_SCORES[form.text("score")],
        corrected=_CORRECTED if form["correction"] else "scores",
        judged=_judged(form),
        after=_AFTER[form.text("after")],
        total=total,
        head=model.head(form.op, model.launcher(form)),
        most=tiles.SCORED_TOKENS,
        bias=", bias" if form["bias"] else "",
    )


def _scores(form: Form, name: str) -> Launch:
    sizes = {key: str(size) for key, size in tiles.SCORES.items() if key.isupper()}
    return Launch(
        name,
        f"(M, triton.cdiv(X, {sizes['COLS']}))",
        (
            pointer(
                "x",
                "[tokens, E]",
                "tokens that lie x_row elements apart",
                source="tokens",
            ),
            pointer("weight", "[X, E]", "a row for each expert"),
            *([pointer("bias", "[X]")] if form["bias"] else []),
            pointer("logits", "[tokens, X]"),
            stride("x_row", "tokens.stride(0)"),
            constant("X"),
            constant("E"),
            *(constant(key, size) for key, size in sizes.items()),
        ),
    )


def _chosen(form: Form, name: str) -> Launch:
    groups = (constant("GROUPS", "groups"), constant("TOP_GROUPS", "top_groups"))
    rounded = "rounded up to a power of two"
    block = constant("S_BLOCK", "triton.next_power_of_2(X)", f"X {rounded}")
    blocks: tuple[Argument, ...] = (block,)
    if form["judged"]:
        next_power = "triton.next_power_of_2"
        blocks = (
            constant("G_BLOCK", f"{next_power}(groups)", f"groups, {rounded}"),
            constant(
                "S_BLOCK", f"{next_power}(X // groups)", f"experts of one, {rounded}"
            ),
        )
    correction = pointer("correction", "[X]", "counts for the choice only")
    return Launch(
        name,
        "(M,)",
        (
            pointer("logits", "[tokens, X]"),
            *([correction] if form["correction"] else []),
            pointer("chosen", "[tokens, TOP_K]", "experts by falling score"),
            pointer("weights", "[tokens, TOP_K]", "how much they count"),
            constant("X"),
            constant("TOP_K", "top_k"),
            *(groups if form["judged"] else ()),
            *([constant("LEAST", "least_sum")] if form["least"] else []),
            *([constant("ADDED", "sum_eps")] if form["added"] else []),
            constant("SCALE", "scale"),
            *blocks,
            constant("K_BLOCK", "triton.next_power_of_2(top_k)"),
        ),
        (f"num_warps={tiles.CHOICE_WARPS}",),
    )
