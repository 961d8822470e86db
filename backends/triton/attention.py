"""Attention: the kernels of each form, and the parts they are put together from."""

from collections.abc import Iterator

from glmc.backends.triton import attention_pieces as pieces
from glmc.backends.triton import qkv, tiles
from glmc.backends.triton.attention_heads import ALL, CACHED, SCORED, Plan, table
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, count, pointer, stride, tile
from glmc.backends.triton.lines import Lines, call
from glmc.backends.triton.model import Model, Part, cores, part


def full_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of full attention (no cache), and its launcher."""
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
                pointer("q", "[B, T, HEADS, K_DIM]", pieces.lies("q", "token", "head")),
                pointer("k", "[B, T, KV_HEADS, K_DIM]", "in strides of its own"),
                pointer("v", "[B, T, KV_HEADS, V_DIM]", "in strides of its own"),
                pointer("mask", "[B, T] or None", "which tokens are real", source=mask),
                pointer("out", "[B, T, HEADS, V_DIM]"),
                *strides,
                count("T"),
                constant("SCALE", "scale"),
                *pieces.HEADS,
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )


def write_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that writes keys and values to the cache, in the cache's dtype,
    and its launcher."""
    yield from (part("rows_dense"), pieces.cache(), part("kv_store"))
    strides = [
        stride(f"{name}_{what}", f"{name}.stride({dim})")
        for name in ("k", "v")
        for dim, what in enumerate(pieces.DIMS)
    ]
    yield part(
        form.op,
        head=model.head(form.op, model.launcher(form)),
        launch=Launch(
            "kv_write_kernel",
            "(B * T, K)",
            (
                pointer(
                    "k", "[B, T, KV_HEADS, K_DIM]", pieces.lies("k", *pieces.DIMS[1:])
                ),
                pointer(
                    "v", "[B, T, KV_HEADS, V_DIM]", pieces.lies("v", *pieces.DIMS[1:])
                ),
                *pieces.kept("K_DIM", "V_DIM"),
                pieces.POSITION,
                *strides,
                count("T"),
                count("capacity", "kv.keys.shape[2]"),
                *pieces.HEADS[1:4],
                constant("K_BLOCK", "triton.next_power_of_2(D)"),
                constant("V_BLOCK", "triton.next_power_of_2(V)"),
            ),
            (f"num_warps={tiles.PROLOGUE_WARPS}",),
        ),
    )


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of one form for prefill and decode, and their launcher."""
    yield from _shared(form, model)
    yield _prefill(form, model)
    yield part("decode_parts")
    yield _attend(form, model)
    if form.op == "attention":
        yield _decode(form, model)
    given = ["q", "kv"]
    if form.op == "qkv_attention":
        yield from qkv.prologue(form, model)
        yield qkv.decode(form, model)
        given = ["qkv", "kv", "heads", *qkv.inputs(form)]
    base = "_decode" if form.op == "attention" else "_qkv_decode"
    decode = f"return {pieces.named(base, form, model)}"
    prefilled = f"return {model.part('_prefill', form, *SCORED, ops=CACHED)}"
    numbers = pieces.numbers(form)
    prefill = ["q", "kv", *pieces.pointers(form), *numbers]
    yield part(
        form.op,
        head=model.head(form.op, model.launcher(form)),
        doc=_seen(form),
        decode=(call("", decode, [*given, *pieces.vectors(form), *numbers]),),
        prologue=(
            call(
                "",
                model.part("_qkv_prologue", form, *qkv.TURNED, ops=["qkv_attention"]),
                ["qkv", "q", "kv", *qkv.inputs(form)],
            ),
        ),
        prefill=(call("", prefilled, prefill),),
    )


def _seen(form: Form) -> Lines:
    """Describe the slots that a query attends to, for the launcher's docstring."""
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
    """Yield the table of tiles, and the functions that all kernels of attention
    share."""
    plan = Plan.of(model.of(*ALL))
    yield from (part("rows_dense"), part("softmax"))
    yield pieces.cache()
    yield cores()
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
    """Return the function that makes scores for the softmax of products q kᵀ: scaled,
    capped, less the slopes."""
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
    known = [f"{name}: tl.constexpr" for name in pieces.scored(form)]
    told = (
        "#   distance [rows, slots]       slots from a key to its query",
        "#   slope [rows, 1]              by which scores fall for each of them",
    )
    name = model.part("_scores", form, "slopes", "softcap", ops=CACHED)
    return part(
        "scores",
        told=told if form["slopes"] else (),
        head=(pieces.defined(name, ["products", *sloped, *known]),),
        steps=steps,
    )


def _prefill(form: Form, model: Model) -> Part:
    """Return the kernel of prefill: a program takes ROWS queries of one head."""
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
        started=pieces.begin(form, "heads", "token < T", "token < T", "V_BLOCK"),
        k=(call("k", "_head_tile", ["keys", "key_scales", *tile_of, *_BLOCKS["K"]]),),
        v=(
            call(
                "v", "_head_tile", ["values", "value_scales", *tile_of, *_BLOCKS["V"]]
            ),
        ),
        scores=(pieces.score(form, model, "scores", "products", "distance"),),
        visible=visible,
        head=(
            pieces.defined(
                name, ["q", "kv", *pieces.pointers(form), *pieces.numbers(form)]
            ),
        ),
    )


_BLOCKS = {name: [f"{name}_DIM", f"{name}_BLOCK", "SLOTS"] for name in ("K", "V")}


def _prefill_launch(form: Form, name: str) -> Launch:
    read = '_slots(kv.{}, filled, q.dtype, tile["SLOTS"], blocks[{}])'
    prefix = pointer(
        "prefix", "[B]", "slot after the part of a row that sees itself whole"
    )
    heads = (
        *pieces.HEADS[:4],
        constant("K_BLOCK", "blocks[0]", pieces.HEADS[4].meaning),
    )
    return Launch(
        f"{name.lstrip('_')}_kernel",
        '(triton.cdiv(T, tile["ROWS"]), B * H)',
        (
            pointer("q", "[B, T, HEADS, K_DIM]", pieces.lies("q", "token", "head")),
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
            *pieces.CODES,
            pieces.START,
            *([prefix] if form["prefix"] else []),
            *pieces.vector_arguments(form),
            pointer("out", "[B, T, HEADS, V_DIM]"),
            *(stride(f"q_{d}", f"q.stride({n})") for n, d in enumerate(pieces.DIMS)),
            count("T"),
            count("past", "kv.past", "slots that were filled before this call"),
            count("capacity"),
            *pieces.constants(form),
            *heads,
            constant("V_BLOCK", "blocks[1]", pieces.HEADS[5].meaning),
            *tile("ROWS", "SLOTS"),
        ),
        ("**tile",),
    )


def _attend(form: Form, model: Model) -> Part:
    """Return the pass of decode over one part of the cache."""
    names = ("past", "slope", "real")
    parameters = [
        name if name in names else f"{name}: tl.constexpr"
        for name in pieces.attended(form)
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
        name=model.part("_attend", form, *pieces.ATTENDED, ops=CACHED),
        told=[text for name, text in told.items() if form[name]],
        parameters=[f"{parameter}," for parameter in parameters],
        distance=distance if form["slopes"] else (),
        scores=(pieces.score(form, model, "scores", "products", "distance"),),
        visible=visible if form["learned"] else (),
    )


def _decode(form: Form, model: Model) -> Part:
    """Return the kernel of decode: one token of each row, with q ready and its key in
    the cache."""
    name = pieces.named("_decode", form, model)
    return part(
        "decode",
        ranged=pieces.ranged(form),
        started=pieces.begin(form, "head", "there", "there & (split == 0)", "V_BLOCK"),
        attend=model.part("_attend", form, *pieces.ATTENDED, ops=CACHED),
        attended=[f"{argument}," for argument in pieces.attended(form)],
        head=(
            pieces.defined(
                name, ["q", "kv", *pieces.vectors(form), *pieces.numbers(form)]
            ),
        ),
        launch=Launch(
            f"{name.lstrip('_')}_kernel",
            "grid",
            (
                pointer("q", "[B, 1, HEADS, K_DIM]", pieces.lies("q", "head")),
                *pieces.kept("K_DIM", "V_DIM"),
                pieces.POSITION,
                pieces.START,
                *pieces.vector_arguments(form),
                *pieces.joined("V_DIM", "q", "H"),
                stride("q_batch", "q.stride(0)"),
                stride("q_head", "q.stride(2)"),
                count("capacity"),
                *pieces.constants(form),
                *pieces.HEADS[:2],
                *pieces.PARTS,
                *pieces.HEADS[2:],
                *tile("ROWS", "SLOTS"),
            ),
            ("**tile",),
        ),
    )
