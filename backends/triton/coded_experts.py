"""Experts whose weights are codes: their kernels, and their launches."""

import json
from collections.abc import Iterator

from glmc.backends.packing import unfit as unpacked
from glmc.backends.triton import mixtures, pointwise, quantized, tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import (
    Argument,
    Launch,
    constant,
    pointer,
    stride,
    tile,
)
from glmc.backends.triton.lines import Lines, call
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.uses import OpUse


def unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels do not take a use, or None."""
    if use.attrs.get("weigh", "output") != "output":
        return f"{use.name}: no kernel weighs tokens before experts that are codes"
    bits = use.whole("bits")
    for stack in ("gate_up", "down"):
        width = use.size(stack) * 8 // bits
        if reason := unpacked(bits, width, width // use.size(f"{stack}_scale")):
            return f"{use.name}: {reason}"
    return mixtures.experts_unfit(use)


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of experts, row by row and for blocks of rows, and their
    launcher."""
    yield from (part("rows"), part("rows_dense"))
    yield part("moe_clamped") if form["clamped"] else pointwise.activating(form)
    yield part("moe_code_tiles", **_tables())
    yield part("moe_sorted", sorted=tiles.SORTED)
    yield from quantized.words(form, bytes_of_scales=True)
    named = model.name(form).removeprefix("quantized_experts")
    kind = model.part("", form, *_KIND, ops=["quantized_experts"])
    yield part("moe_code_sums", **_sums(form, kind))
    act = "_clamped(gate, up, ALPHA, LIMIT)"
    act = act if form["clamped"] else f"{pointwise.act(form)}(gate) * up"
    up_bias, down_bias = bool(form["gate_up_bias"]), bool(form["down_bias"])
    launches = {
        "row_up": _up(form, f"moe_code_row_gate_up{named}_kernel", ("chosen",)),
        "row_down": _down(form, f"moe_code_row_down{named}_kernel", ("chosen",)),
        "up": _up(form, f"moe_code_gate_up{named}_kernel", mixtures.SORTED),
        "down": _down(form, f"moe_code_down{named}_kernel", mixtures.SORTED),
    }
    yield part(
        "moe_code_rows",
        up=launches["row_up"],
        down=launches["row_down"],
        **_summing(form, kind, blocks=False),
        made=(f"made = {act}",),
        up_bias=mixtures.ROW_UP_BIAS if up_bias else (),
        down_bias=mixtures.ROW_DOWN_BIAS if down_bias else (),
    )
    yield part(
        "moe_code_blocks",
        up=launches["up"],
        down=launches["down"],
        **_summing(form, kind, blocks=True),
        made=(f"made = {act}",),
        up_bias=mixtures.UP_BIAS if up_bias else (),
        down_bias=mixtures.DOWN_BIAS if down_bias else (),
    )
    yield part("moe_sort", launch=mixtures.sort())
    yield part(
        "moe_code_experts", head=model.head(form.op, model.launcher(form)), **launches
    )


_KIND = ("zeros", "floats", "divided")
"""The choices that tell apart the functions that make sums."""


def _beside(form: Form) -> str:
    """Name what goes with codes and scales."""
    if form["zeros"]:
        return "zeros"
    return "factor" if form["floats"] == "nvfp4" else ""


def _sums(form: Form, kind: str) -> dict[str, object]:
    """Return what the functions that make sums of codes are put together from."""
    floats, zeros = bool(form["floats"]), bool(form["zeros"])
    beside = _beside(form)
    gain = quantized.gain(form, "scales + share", "held")
    load = "tl.load(zeros + share, mask=held, other=0).to(tl.float32)"
    point = ["point = 3 << (BITS - 1)", *([f"point += {load}"] if zeros else [])]
    by = "/" if form["divided"] else "*"
    factor = "of_row = tl.load(factor + output, mask=inside, other=1.0)"
    nvfp4 = form["floats"] == "nvfp4"
    return {
        "row": f"_coded_row{kind}",
        "block": f"_coded_block{kind}",
        "parameters": (f"{beside},",) if beside else (),
        "planes": quantized.planes(form),
        "read": "_small" if floats else "_raised",
        "unseen": () if floats else ("seen = tl.zeros([1, WORDS], tl.float32)",),
        "seen": () if floats else ("seen += value.to(tl.float32)",),
        "gain": gain if floats else (*quantized.plain_gain("scales + share"), *point),
        "scaled": "made * gain" if floats else "(made - point * seen) * gain",
        "exact": "_small(tile, plane, BITS) * gain"
        if floats
        else "(_raised(tile, plane, BITS) - point) * gain",
        "factor": (factor, f"total = total {by} of_row") if nvfp4 else (),
        "factors": (factor, f"total = total {by} of_row[None, :]") if nvfp4 else (),
    }


def _summing(form: Form, kind: str, *, blocks: bool) -> dict[str, Lines]:
    """Return the calls that make gate, up and what is made of both, of one row, or of a
    block of them."""
    function = f"_coded_{'block' if blocks else 'row'}{kind}"
    states = ["states", "valid"] if blocks else ["states"]
    sizes = [*(["ROWS"] if blocks else []), "COLS", "WORDS"]

    def made(target: str, stack: str, width: str, own: str = "") -> Lines:
        beside = [f"{stack}_{_beside(form)}"] if _beside(form) else []
        codes = [stack, f"{stack}_scale", *beside, "output", "inside"]
        how = [width, f"{own}RUN", f"{own}GROUP", "BITS", *sizes]
        return (call(target, function, [*states, *codes, *how]),)

    return {
        "gates": made("gate", "gate_up", "E"),
        "ups": made("up", "gate_up", "E"),
        "summed": made("total" if blocks else "part", "down", "F", "DOWN_"),
    }


def _tables() -> dict[str, object]:
    """Return the tiles by the bytes of an element."""
    pairs: list[str] = []
    for size, (few, many) in tiles.CODE_EXPERTS.items():
        each = [f"    {json.dumps(found)}," for found in (few, many)]
        pairs += [f"{size}: (", *each, "),"]
    table = tiles.CODE_EXPERT_ROW.items()
    return {"pairs": pairs, "rows": [f"{n}: {json.dumps(t)}," for n, t in table]}


def _stack(form: Form, stack: str, rows: str, width: str) -> Iterator[Argument]:
    """Declare a stack of codes, and what goes with them."""
    shape = f"[X, {rows}, {width} / PLANES]"
    source = f"{stack}.view(torch.int32)"
    yield pointer(stack, shape, "codes in words of int32", source=source)
    scales = f"[X, {rows}, {width} / GROUP]"
    view = ".view(torch.uint8)" if form["floats"] == "nvfp4" else ""
    yield pointer(f"{stack}_scale", scales, source=f"{stack}_scale{view}")
    if form["zeros"]:
        told = "for each scale what is taken off the codes"
        yield pointer(f"{stack}_zeros", scales, told)
    if form["floats"] == "nvfp4":
        does = "divides" if form["divided"] else "multiplies"
        yield pointer(f"{stack}_factor", f"[X, {rows}]", f"what {does} a row's sum")


def _sizes(stack: str, width: str, own: str) -> tuple[Argument, ...]:
    run = f"math.gcd({stack}.shape[2] // 4, 16)"
    return (
        constant("BITS", "bits", "of a code"),
        constant(f"{own}RUN", run),
        constant(f"{own}GROUP", f"{width} // {stack}_scale.shape[2]"),
    )


def _tile(chosen: tuple[str, ...]) -> tuple[Argument, ...]:
    rows = ["ROWS"] if chosen == mixtures.SORTED else []
    return tile(*rows, "COLS", "WORDS")


def _up(form: Form, name: str, chosen: tuple[str, ...]) -> Launch:
    """Make the launch of the products of gate and up, with their activation."""
    alone = chosen != mixtures.SORTED
    clamp = (constant("ALPHA", "alpha"), constant("LIMIT", "limit"))
    biased = pointer("gate_up_bias", "[X, 2F]")
    tokens = "tokens that lie x_row elements apart"
    return Launch(
        name,
        mixtures.ROW_UP if alone else mixtures.UP,
        (
            pointer("x", "[tokens, E]", tokens, source="tokens"),
            *_stack(form, "gate_up", "2F", "E"),
            *([biased] if form["gate_up_bias"] else []),
            *mixtures.choice(form, chosen, False),
            pointer("hidden", "[M, F]", "activations"),
            stride("x_row", "tokens.stride(0)"),
            constant("TOP_K", "K", "experts of a token, each with a row"),
            constant("E"),
            constant("F"),
            *_sizes("gate_up", "E", ""),
            *(clamp if form["clamped"] else ()),
            *_tile(chosen),
        ),
        ("**tile",),
    )


def _down(form: Form, name: str, chosen: tuple[str, ...]) -> Launch:
    """Make the launch of the down product."""
    alone = chosen != mixtures.SORTED
    biased = pointer("down_bias", "[X, E]")
    out = pointer("parts", "[M, E]", "what each row adds to its token")
    return Launch(
        name,
        mixtures.ROW_DOWN if alone else mixtures.DOWN,
        (
            pointer("hidden", "[M, F]", "activations"),
            *_stack(form, "down", "E", "F"),
            *([biased] if form["down_bias"] else []),
            *mixtures.choice(form, chosen, True),
            pointer("out", "[tokens, E]") if alone else out,
            *([constant("TOP_K", "K")] if alone else []),
            constant("E"),
            constant("F"),
            *_sizes("down", "F", "DOWN_"),
            *_tile(chosen),
        ),
        ("**tile",),
    )
