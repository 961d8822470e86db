"""Attention: which kernels its forms have, and how these are put together."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from glmc.backends import layout
from glmc.backends.triton import tiles
from glmc.backends.triton.forms import CHOICES, Form
from glmc.backends.triton.launch import (
    Argument,
    Launch,
    constant,
    count,
    pointer,
    stride,
    tile,
)
from glmc.backends.triton.lines import Line, Lines, call
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.uses import OpUse

CACHED = ("attention", "qkv_attention")
ALL = (*CACHED, "full_attention")
SCORED = tuple(CHOICES["attention"])
_ATTENDED = ("slopes", "softcap", "learned")
_POINTERS = ("prefix", "slopes", "sinks")
_NUMBERS = {
    "window": "WINDOW",
    "learned": "LEARNED",
    "chunk": "CHUNK",
    "softcap": "CAP",
}


@dataclass(frozen=True)
class HeadShape:
    """The heads of an attention op."""

    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int

    @classmethod
    def of(cls, use: OpUse) -> "HeadShape":
        """The shape of a layer's heads."""
        if use.name == "qkv_attention":
            width = use.whole("head_dim")
            return cls(use.whole("heads"), use.whole("kv_heads"), width, width)
        if use.name == "full_attention":
            sizes = (use.size("k", 2), use.size("k", 3), use.size("v", 3))
            return cls(use.size("q", 2), *sizes)
        sizes = (use.size("kv", 0), use.size("kv", 1), use.size("kv", 2))
        return cls(use.size("q", 2), *sizes)

    def width(self) -> int:
        """Of a tile that holds a key or a value."""
        return tiles.dot_block(max(self.k_dim, self.v_dim))


def unfit(use: OpUse) -> str | None:
    """Why no kernel takes a use of an attention op."""
    shape, form = HeadShape.of(use), Form.of(use)
    width = max(shape.k_dim, shape.v_dim)
    if width > tiles.WIDEST_HEAD:
        return (
            f"{use.name}: a program holds heads of {tiles.WIDEST_HEAD} channels at"
            f" most, not of {width}"
        )
    # Slots that are seen from any chunk.
    beside = [what for what in ("prefix", "learned") if form[what]]
    if form["chunk"] and beside:
        return (
            f"{use.name}: no kernel takes chunks together with {' and '.join(beside)}"
        )
    return None


@dataclass(frozen=True)
class Plan:
    """One set of tiles, fit for the widest heads of a model: by bytes of an element."""

    splits: int
    prefill: Mapping[int, tiles.Tile]
    decode: Mapping[int, tiles.Tile]

    @classmethod
    def of(cls, uses: Iterable[OpUse]) -> "Plan":
        """The plan for the attention of all layers."""
        shapes = [HeadShape.of(use) for use in uses]
        width = max((shape.width() for shape in shapes), default=16)
        kv_heads = min((shape.kv_heads for shape in shapes), default=1)
        group = max((shape.heads // shape.kv_heads for shape in shapes), default=1)
        return cls(
            splits=tiles.splits(kv_heads),
            prefill={n: tiles.prefill(n, width) for n in tiles.ELEMENT_SIZES},
            decode={n: tiles.decode(n, width, group) for n in tiles.ELEMENT_SIZES},
        )


def table(found: Mapping[int, tiles.Tile]) -> Lines:
    """The rows of a table of tiles."""
    return [f"{size}: {json.dumps(tile)}," for size, tile in found.items()]


def full_parts(form: Form, model: Model) -> Iterator[Part]:
    """The kernel of attention of all tokens, and its launcher."""
    yield from (part("rows_dense"), part("softmax"))
    strides = [
        stride(f"{name}_{what}", f"{name}.stride({dim})")
        for name in ("q", "k", "v")
        for dim, what in enumerate(("batch", "token", "head"))
    ]
    mask = "mask if mask is None else mask.contiguous()"
    yield part(
        "full_attention",
        tiles=table(Plan.of(model.of(*ALL)).prefill),
        head=model.head(form.op, model.launcher(form)),
        launch=Launch(
            "full_attention_kernel",
            '(triton.cdiv(T, tile["ROWS"]), B * H)',
            (
                pointer("q", "[B, T, HEADS, K_DIM]", _lies("q", "token", "head")),
                pointer("k", "[B, T, KV_HEADS, K_DIM]", "in strides of its own"),
                pointer("v", "[B, T, KV_HEADS, V_DIM]", "in strides of its own"),
                pointer("mask", "[B, T] or None", "which tokens are real", source=mask),
                pointer("out", "[B, T, HEADS, V_DIM]"),
                *strides,
                count("T"),
                constant("SCALE", "scale"),
                *_HEADS,
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )


def _lies(name: str, *dims: str) -> str:
    return f"lies in strides {', '.join(f'{name}_{dim}' for dim in ('batch', *dims))}"


_ROUNDED = "max(16, triton.next_power_of_2({}))"
_HEADS = (
    constant("HEADS", "H"),
    constant("KV_HEADS", "K"),
    constant("K_DIM", "D"),
    constant("V_DIM", "V"),
    constant("K_BLOCK", _ROUNDED.format("D"), "K_DIM rounded up to a power of two"),
    constant("V_BLOCK", _ROUNDED.format("V"), "V_DIM rounded up to a power of two"),
)
_CODES = (
    pointer(
        "key_scales",
        "[B, KV_HEADS, capacity]",
        "of int8 codes, or None",
        source="kv.key_scales",
    ),
    pointer(
        "value_scales",
        "[B, KV_HEADS, capacity]",
        "of int8 codes, or None",
        source="kv.value_scales",
    ),
)
_START = pointer(
    "start",
    "[B] or None",
    "first real slot of a row that is padded on the left",
    source="kv.start",
)
_POSITION = pointer(
    "position", "[1]", "slots that were filled before this call", source="kv.position"
)


def _kept(k: str, v: str) -> tuple[Argument, ...]:
    """Keys and values of the cache, in whatever they are kept."""
    return (
        pointer("keys", f"[B, KV_HEADS, capacity, {k}]", source="_codes(kv.keys)"),
        pointer("values", f"[B, KV_HEADS, capacity, {v}]", source="_codes(kv.values)"),
        *_CODES,
    )


def _pointers(form: Form) -> list[str]:
    return [name for name in _POINTERS if form[name]]


def _vectors(form: Form) -> list[str]:
    """The optional operands that are one number for each head. Decode takes no others:
    a prefix lies before any token that is decoded."""
    return [name for name in _pointers(form) if name != "prefix"]


def _numbers(form: Form) -> list[str]:
    return ["scale", *(name for name in _NUMBERS if form[name])]


def _constants(form: Form) -> list[Argument]:
    found = [constant("SCALE", "scale")]
    return found + [
        constant(symbol, name) for name, symbol in _NUMBERS.items() if form[name]
    ]


def _vector_arguments(form: Form) -> list[Argument]:
    said = {"slopes": "see _slope", "sinks": "see _begun"}
    return [pointer(name, "[HEADS]", said[name]) for name in _vectors(form)]


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Kernels for a prompt and for a token of one form, and their launcher."""
    yield from _shared(form, model)
    yield _prefill(form, model)
    yield part("decode_parts")
    yield _attend(form, model)
    if form.op == "attention":
        yield _decode(form, model)
    given = ["q", "kv"]
    if form.op == "qkv_attention":
        yield from _prologue(form, model)
        yield _qkv_decode(form, model)
        given = ["qkv", "kv", "heads", *_inputs(form)]
    base = "_decode" if form.op == "attention" else "_qkv_decode"
    decode = f"return {_named(base, form, model)}"
    prefilled = f"return {model.part('_prefill', form, *SCORED, ops=CACHED)}"
    numbers = _numbers(form)
    prefill = ["q", "kv", *_pointers(form), *numbers]
    yield part(
        form.op,
        head=model.head(form.op, model.launcher(form)),
        doc=_seen(form),
        decode=(call("", decode, [*given, *_vectors(form), *numbers]),),
        prologue=(
            call(
                "",
                model.part("_qkv_prologue", form, *_TURNED, ops=["qkv_attention"]),
                ["qkv", "q", "kv", *_inputs(form)],
            ),
        ),
        prefill=(call("", prefilled, prefill),),
    )


def _seen(form: Form) -> Lines:
    """What a query sees, for the launcher's docstring."""
    lines = [
        "A query sees the slots from its row's first real one up to its own"
        + (", at most `window`" if form["window"] else "; a padding"),
        "of them; a padding query gets zeros."
        if form["window"]
        else "query gets zeros.",
    ]
    if form["chunk"]:
        lines.append(
            "It sees none before its own `chunk`, counted from the first real slot."
        )
    if form["prefix"]:
        lines.append("It also sees the real slots below `prefix` [B],")
        lines.append("which lie before any token that is decoded.")
    if form["learned"]:
        lines.append("The first `learned` slots are seen by every query.")
    return lines


def _shared(form: Form, model: Model) -> Iterator[Part]:
    """Tiles, and what kernels of attention share."""
    plan = Plan.of(model.of(*ALL))
    described = [
        f"{size}: {layout.tuple_of([json.dumps(name) for name in targets], 4)},"
        if targets
        else f"{size}: (),"
        for size, targets in tiles.DESCRIBED.items()
    ]
    yield from (part("rows_dense"), part("softmax"))
    yield part("kv_cache", described=described)
    yield part(
        "attention_tiles",
        prefill=table(plan.prefill),
        decode=table(plan.decode),
        splits=plan.splits,
        fan=tiles.FAN,
    )
    yield _scores(form, model)
    if form["slopes"]:
        yield part("slope")
    yield part("begun_sinks" if form["sinks"] else "begun")


def _scores(form: Form, model: Model) -> Part:
    """What changes scores between q kᵀ and the softmax."""
    steps = ["return products * (SCALE * LOG2_E)"]
    if form["softcap"] or form["slopes"]:
        steps = ["scores = products * SCALE"]
        if form["softcap"]:
            steps += [
                "# cap · tanh(score / cap): Triton has a sigmoid but no tanh of its"
                " own.",
                "scores = CAP * (2.0 * tl.sigmoid(2.0 / CAP * scores) - 1.0)",
            ]
        if form["slopes"]:
            steps.append("scores -= slope * distance")
        steps.append("return scores * LOG2_E")
    sloped = ["distance", "slope"] if form["slopes"] else []
    known = [f"{name}: tl.constexpr" for name in _scored(form)]
    told = (
        "#   distance [rows, slots]       slots from a key to its query",
        "#   slope [rows, 1]              by which scores fall for each of them",
    )
    name = model.part("_scores", form, "slopes", "softcap", ops=CACHED)
    return part(
        "scores",
        told=told if form["slopes"] else (),
        head=(_def(name, ["products", *sloped, *known]),),
        steps=steps,
    )


def _def(name: str, parameters: list[str]) -> str:
    return layout.bracketed(f"def {name}(", parameters, "):", 0)


def _scored(form: Form) -> list[str]:
    """The constants of scores."""
    return ["SCALE", *(["CAP"] if form["softcap"] else [])]


def _score(form: Form, model: Model, target: str, products: str, apart: str) -> Line:
    """A call of what :func:`_scores` makes."""
    name = model.part("_scores", form, "slopes", "softcap", ops=CACHED)
    sloped = [apart, "slope"] if form["slopes"] else []
    return call(target, name, [products, *sloped, *_scored(form)])


def _begin(form: Form, head: str, there: str, first: str, block: str) -> Lines:
    """Slopes, and rows that know nothing yet."""
    lines: list[Line] = []
    if form["slopes"]:
        lines.append(f"slope = _slope(slopes, {head}, {there})")
    target = "peak, total, context"
    if form["sinks"]:
        lines.append(call(target, "_begun_sinks", [head, first, "sinks", block]))
    else:
        lines.append(call(target, "_begun", [head, block]))
    return lines


def _prefill(form: Form, model: Model) -> Part:
    """A prompt: ROWS tokens of one head to a program."""
    name = model.part("_prefill", form, *SCORED, ops=CACHED)
    ranged: list[str] = []
    visible: list[str] = []
    if form["learned"]:
        ranged += ["first = begin", "begin = 0"]
    if form["chunk"]:
        ranged += [
            "chunk = begin + (own - begin) // CHUNK * CHUNK",
            "begin += tl.maximum(past + origin - begin, 0) // CHUNK * CHUNK",
        ]
    if form["window"]:
        ranged.append("begin = tl.maximum(begin, past + origin - WINDOW + 1)")
        visible.append("visible &= distance < WINDOW")
    if form["chunk"]:
        visible.append("visible &= slot[None, :] >= chunk[:, None]")
    if form["prefix"]:
        ranged += ["bound = tl.load(prefix + batch)", "stop = tl.maximum(stop, bound)"]
        visible.append("visible |= (slot < bound)[None, :]")
    if form["learned"]:
        visible.append("visible &= ((slot < LEARNED) | (slot >= first))[None, :]")
    tile_of = ["group", "base", "stop", "capacity", "queries.dtype"]
    return part(
        "prefill",
        name=name,
        launch=_prefill_launch(form, name),
        ranged=ranged,
        started=_begin(form, "heads", "token < T", "token < T", "V_BLOCK"),
        k=(call("k", "_head_tile", ["keys", "key_scales", *tile_of, *_BLOCKS["K"]]),),
        v=(
            call(
                "v", "_head_tile", ["values", "value_scales", *tile_of, *_BLOCKS["V"]]
            ),
        ),
        scores=(_score(form, model, "scores", "products", "distance"),),
        visible=visible,
        head=(_def(name, ["q", "kv", *_pointers(form), *_numbers(form)]),),
    )


_BLOCKS = {name: [f"{name}_DIM", f"{name}_BLOCK", "SLOTS"] for name in ("K", "V")}


def _prefill_launch(form: Form, name: str) -> Launch:
    read = '_slots(kv.{}, filled, q.dtype, tile["SLOTS"], blocks[{}])'
    prefix = pointer(
        "prefix", "[B]", "slot after the part of a row that sees itself whole"
    )
    heads = (*_HEADS[:4], constant("K_BLOCK", "blocks[0]", _HEADS[4].meaning))
    return Launch(
        f"{name.lstrip('_')}_kernel",
        '(triton.cdiv(T, tile["ROWS"]), B * H)',
        (
            pointer("q", "[B, T, HEADS, K_DIM]", _lies("q", "token", "head")),
            pointer(
                "keys",
                "[B, KV_HEADS, capacity, K_DIM]",
                "or a descriptor: see _slots",
                source=read.format("keys", 0),
            ),
            pointer(
                "values",
                "[B, KV_HEADS, capacity, V_DIM]",
                "or a descriptor: see _slots",
                source=read.format("values", 1),
            ),
            *_CODES,
            _START,
            *([prefix] if form["prefix"] else []),
            *_vector_arguments(form),
            pointer("out", "[B, T, HEADS, V_DIM]"),
            *(stride(f"q_{d}", f"q.stride({n})") for n, d in enumerate(_DIMS)),
            count("T"),
            count("past", "kv.past", "slots that were filled before this call"),
            count("capacity"),
            *_constants(form),
            *heads,
            constant("V_BLOCK", "blocks[1]", _HEADS[5].meaning),
            *tile("ROWS", "SLOTS"),
        ),
        ("**tile",),
    )


_DIMS = ("batch", "token", "head")


def _ranged(form: Form) -> Lines:
    """The first slot that a token of decode sees."""
    lines = ["real = first", "first = 0"] if form["learned"] else []
    if form["chunk"]:
        lines.append("first += tl.maximum(past - first, 0) // CHUNK * CHUNK")
    if form["window"]:
        lines.append("first = tl.maximum(first, past - WINDOW + 1)")
    return lines


def _attended(form: Form) -> list[str]:
    """What a pass over a part of the cache is told, beside what every form tells it."""
    sloped = ["past", "slope"] if form["slopes"] else []
    learned = ["real", "LEARNED"] if form["learned"] else []
    return [*sloped, *learned, *_scored(form)]


def _attend(form: Form, model: Model) -> Part:
    """The pass of decode over a part of the cache."""
    names = ("past", "slope", "real")
    parameters = [
        name if name in names else f"{name}: tl.constexpr" for name in _attended(form)
    ]
    told = {
        "slopes": "#   past                         slot of the token that attends",
        "learned": "#   real                         slots below it are padding, but"
        " for LEARNED ones",
    }
    distance = ("distance = (past - slot)[None, :]",)
    visible = ("visible &= (slot < LEARNED) | (slot >= real)",)
    return part(
        "attend",
        name=model.part("_attend", form, *_ATTENDED, ops=CACHED),
        told=[text for name, text in told.items() if form[name]],
        parameters=[f"{parameter}," for parameter in parameters],
        distance=distance if form["slopes"] else (),
        scores=(_score(form, model, "scores", "products", "distance"),),
        visible=visible if form["learned"] else (),
    )


def _joined(width: str, of: str, heads: str) -> tuple[Argument, ...]:
    """The context, and where parts of it are kept until they are joined."""
    rows = 'tile["ROWS"]'
    return (
        pointer("out", f"[B, 1, HEADS, {width}]"),
        pointer(
            "parts", "", "see _join", source=f"*_workspace({of}, kv, {heads}, {rows})"
        ),
        pointer("weights", "", "see _join", source=""),
        pointer("arrived", "", "see _join", source=""),
    )


_PARTS = (
    constant("SPLITS", meaning="parts of the cache that are attended to side by side"),
    constant("FAN", meaning="how many of them are joined at a time"),
)


def _named(base: str, form: Form, model: Model) -> str:
    """The name of a kernel that looks at all choices of its op."""
    return model.part(base, form, *CHOICES[form.op], ops=[form.op])


def _decode(form: Form, model: Model) -> Part:
    """One token of each row, whose q is ready and whose key is in the cache."""
    name = _named("_decode", form, model)
    return part(
        "decode",
        ranged=_ranged(form),
        started=_begin(form, "head", "there", "there & (split == 0)", "V_BLOCK"),
        attend=model.part("_attend", form, *_ATTENDED, ops=CACHED),
        attended=[f"{argument}," for argument in _attended(form)],
        head=(_def(name, ["q", "kv", *_vectors(form), *_numbers(form)]),),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "grid",
            (
                pointer("q", "[B, 1, HEADS, K_DIM]", _lies("q", "head")),
                *_kept("K_DIM", "V_DIM"),
                _POSITION,
                _START,
                *_vector_arguments(form),
                *_joined("V_DIM", "q", "H"),
                stride("q_batch", "q.stride(0)"),
                stride("q_head", "q.stride(2)"),
                count("capacity"),
                *_constants(form),
                *_HEADS[:2],
                *_PARTS,
                *_HEADS[2:],
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )


_TURNED = ("rope", "norm", "style", "sections", "weight_in", "offset")


def _inputs(form: Form) -> list[str]:
    """What the heads of packed q | k | v are turned and normalised by."""
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
    """A call of what makes heads of packed q | k | v."""
    name = model.part("_qkv_heads", form, *_TURNED, ops=["qkv_attention"])
    rope = ["cos", "sin"] if form["rope"] else []
    weight = [norm] if form["norm"] else []
    sizes = [argument.name for argument in _turned(form, "")]
    return call(target, name, [*given, *rope, *weight, *sizes])


def _prologue(form: Form, model: Model) -> Iterator[Part]:
    """q | k | v of a prompt to where attention reads them."""
    yield part("kv_store")
    if form["norm"]:
        yield part(f"weighted_{form.text('weight_in')}")
    yield _qkv_heads(form, model)
    name = model.part("_qkv_prologue", form, *_TURNED, ops=["qkv_attention"])
    turned = ["cos += row * (ROTARY // 2)", "sin += row * (ROTARY // 2)"]
    source = ["source", "True"]
    packed = "[B, T, (HEADS + 2 KV_HEADS) D]"
    yield part(
        "qkv_prologue",
        turned=turned if form["rope"] else (),
        q=(_heads(form, model, "value", source, "q_norm"),),
        k=(_heads(form, model, "value", source, "k_norm"),),
        head=(_def(name, ["qkv", "q", "kv", *_inputs(form)]),),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "(B * T, H + 2 * K)",
            (
                pointer("qkv", packed, "tokens that lie qkv_token elements apart"),
                pointer("q", "[B, T, HEADS, D]"),
                *_kept("D", "D"),
                _POSITION,
                *_turning(form, "T"),
                stride("qkv_batch", "qkv.stride(0)"),
                stride("qkv_token", "qkv.stride(1)"),
                count("T"),
                count("capacity"),
                *_HEADS[:2],
                *_turned(form, "triton.next_power_of_2(D)"),
            ),
            (f"num_warps={tiles.PROLOGUE_WARPS}",),
        ),
    )


def _qkv_decode(form: Form, model: Model) -> Part:
    """One token of each row from packed q | k | v to its context."""
    name = _named("_qkv_decode", form, model)
    turned = ["cos += batch * (ROTARY // 2)", "sin += batch * (ROTARY // 2)"]
    rows, row = ["rows", "there[:, None]"], ["row", "True"]
    packed = "[B, 1, (HEADS + 2 KV_HEADS) D]"
    return part(
        "qkv_decode",
        ranged=_ranged(form),
        turned=turned if form["rope"] else (),
        q=(_heads(form, model, "queries", rows, "q_norm"),),
        k=(_heads(form, model, "k", row, "k_norm"),),
        started=_begin(form, "head", "there", "there & (split == 0)", "BLOCK"),
        score=(_score(form, model, "score", "products[:, None]", "0"),),
        attend=model.part("_attend", form, *_ATTENDED, ops=CACHED),
        attended=[f"{argument}," for argument in _attended(form)],
        head=(
            _def(
                name,
                [
                    "qkv",
                    "kv",
                    "heads",
                    *_inputs(form),
                    *_vectors(form),
                    *_numbers(form),
                ],
            ),
        ),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "grid",
            (
                pointer("qkv", packed, "rows that lie qkv_batch elements apart"),
                *_kept("D", "D"),
                _POSITION,
                _START,
                *_turning(form, "1"),
                *_vector_arguments(form),
                *_joined("D", "qkv", "heads"),
                stride("qkv_batch", "qkv.stride(0)"),
                count("capacity"),
                *_constants(form),
                constant("HEADS", "heads"),
                _HEADS[1],
                *_PARTS,
                *_turned(form, _ROUNDED.format("D")),
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )


_PAIRS: Mapping[str, Lines] = {
    "half": (
        "pair = channel % (ROTARY // 2)",
        "first = channel < ROTARY // 2",
        "other = (channel + ROTARY // 2) % ROTARY",
    ),
    "interleaved": (
        "pair = channel // 2",
        "first = channel % 2 == 0",
        "other = channel ^ 1",
    ),
}
_SECTIONED = (
    "# Each of the {} sections of the rotary channels turns on its own.",
    "SECTION: tl.constexpr = ROTARY // {}",
    "section = channel // SECTION",
    "within = channel % SECTION",
    "pair = section * (SECTION // 2) + within % (SECTION // 2)",
    "first = within < SECTION // 2",
    "other = section * SECTION + (within + SECTION // 2) % SECTION",
)


def _qkv_heads(form: Form, model: Model) -> Part:
    """Heads of one token as attention sees them."""
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
        name=model.part("_qkv_heads", form, *_TURNED, ops=["qkv_attention"]),
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
    sections = form["sections"]
    pairs = _PAIRS[form.text("style")]
    if form["style"] == "half" and sections != 1:
        pairs = [line.format(sections) for line in _SECTIONED]
    weighted = f"_weighted_{form['weight_in']}"
    load = "partner = tl.load(source + other, mask=there & turns, other=0.0)"
    normed = [
        "gain = tl.load(weight + other, mask=turns, other=0.0).to(tl.float32)",
        *_offset(form),
        f"partner = {weighted}(partner * scale, gain, value.dtype).to(tl.float32)",
    ]
    return [
        "turns = channel < ROTARY",
        *map(str, pairs),
        f"{load}.to(tl.float32)",
        *(normed if form["norm"] else []),
        "c = tl.load(cos + pair, mask=turns, other=1.0)",
        "s = tl.load(sin + pair, mask=turns, other=0.0)",
        "exact = exact * c + tl.where(first, -partner, partner) * s",
    ]
