"""Latent attention: the sizes that shape its kernels, and their launches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from glmc.backends.triton import tiles
from glmc.backends.triton.attention_heads import table
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
from glmc.backends.triton.lines import Lines, call
from glmc.backends.triton.model import Model, Part, cores, part
from glmc.backends.triton.uses import OpUse


@dataclass(frozen=True)
class LatentShape:
    """The sizes of latent attention: heads; channels of a key without and with rotary
    embedding, of a value and of a latent."""

    heads: int
    nope: int
    turned: int
    v_dim: int
    rank: int

    @classmethod
    def of(cls, use: OpUse) -> "LatentShape":
        """Return the shape of a layer's latent attention."""
        heads, rank = use.size("q", 2), use.size("kv_b", 1)
        turned = use.size("latents") - rank
        nope = use.size("q", 3) - turned
        return cls(heads, nope, turned, use.size("kv_b", 0) // heads - nope, rank)

    @property
    def expanded(self) -> int:
        """The channels of a token's key and value that a program of prefill holds."""
        widths = (self.nope, self.turned, self.v_dim)
        return sum(map(tiles.dot_block, widths))


def unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels of ``latent_attention`` do not take a use of it,
    or None."""
    shape = LatentShape.of(use)
    if tiles.dot_block(shape.rank) > tiles.WIDEST_LATENT:
        return (
            f"{use.name}: a program holds latents of {tiles.WIDEST_LATENT} channels at"
            f" most, not of {shape.rank}"
        )
    if shape.expanded > tiles.WIDEST_EXPANDED:
        return (
            f"{use.name}: a program holds {tiles.WIDEST_EXPANDED} channels of a key and"
            f" its value at most, each part rounded up, not {shape.expanded}"
        )
    return None


@dataclass(frozen=True)
class Plan:
    """One set of tiles, fit for the widest latents of a model."""

    splits: int
    prefill: dict[int, tiles.Tile]
    decode: dict[int, tiles.Tile]

    @classmethod
    def of(cls, uses: Iterable[OpUse]) -> "Plan":
        """Return the plan for the latent attention of all layers."""
        shapes = [LatentShape.of(use) for use in uses]
        rank, heads = max(s.rank for s in shapes), min(s.heads for s in shapes)
        expanded = max(s.expanded for s in shapes)
        sizes = tiles.ELEMENT_SIZES
        return cls(
            splits=tiles.latent_splits(heads),
            prefill={n: tiles.latent_prefill(n, expanded) for n in sizes},
            decode={n: tiles.latent_decode(n, tiles.dot_block(rank)) for n in sizes},
        )


_POSITION = pointer(
    "position",
    "[1]",
    "slots that were filled before this call",
    source="latents.position",
)
_START = pointer(
    "start",
    "[B] or None",
    "first real slot of a row that is padded on the left",
    source="latents.start",
)
_KEYS = pointer("keys", "[B, capacity, RANK + TURNED]", source="latents.slots")
_CAPACITY = count("capacity", "latents.slots.shape[1]")
_SIZES = {
    "HEADS": "H",
    "NOPE": "nope",
    "TURNED": "turned",
    "V_DIM": "V",
    "RANK": "R",
    "SPLITS": "LATENT_SPLITS",
}


def _sizes(*names: str) -> tuple[Argument, ...]:
    return tuple(constant(name, _SIZES[name]) for name in names)


def _block(name: str, source: str) -> Argument:
    return constant(f"{name}_BLOCK", f"max(16, triton.next_power_of_2({source}))")


def _fixed(found: tiles.Tile) -> tuple[Argument, ...]:
    """Return the constants of a tile that is not tuned."""
    return tuple(
        constant(name, str(size)) for name, size in found.items() if name.isupper()
    )


def write_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that writes latents and shared keys to the cache, and its
    launcher."""
    strides = [
        stride(f"{name}_{what}", f"{name}.stride({dim})")
        for name in ("latent", "shared")
        for dim, what in enumerate(("batch", "token"))
    ]
    turned, block = "shared.shape[-1]", "triton.next_power_of_2"
    yield part("rows_dense")
    yield part(
        "latent_write",
        head=model.head(form.op, model.launcher(form)),
        launch=Launch(
            "latent_write_kernel",
            "(B * T,)",
            (
                pointer(
                    "latent", "[B, T, RANK]", "in strides latent_batch, latent_token"
                ),
                pointer(
                    "shared",
                    "[B, T, 1, TURNED]",
                    "in strides shared_batch, shared_token",
                ),
                _KEYS,
                _POSITION,
                *strides,
                count("T"),
                _CAPACITY,
                constant("RANK", "R"),
                constant("TURNED", turned),
                constant("RANK_BLOCK", f"{block}(R)"),
                constant("TURNED_BLOCK", f"{block}({turned})"),
            ),
            (f"num_warps={tiles.LATENT_WRITE_WARPS}",),
        ),
    )


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of one form for prefill and decode, and their launcher."""
    plan = Plan.of(model.of("latent_attention"))
    chosen = ["selection"] if form["selection"] else []
    prefill, decode = (_named(base, form, model) for base in ("prefill", "decode"))
    given = ["_dense(q)", "latents", "kv_b", *chosen, "scale"]
    yield from (part("rows_dense"), part("softmax"))
    yield cores()
    yield part(
        "latent_tiles",
        prefill=table(plan.prefill),
        decode=table(plan.decode),
        splits=plan.splits,
    )
    parameters = ["q", "latents", "kv_b", *chosen, "scale"]
    yield part(
        "latent_prefill",
        launch=_prefill(form, prefill),
        visible=_SEEN if chosen else (),
        head=(f"def {prefill}({', '.join(parameters)}):",),
        chosen=_CHOSEN if chosen else (),
    )
    yield part("latent_query", launch=_query())
    yield part(
        "latent_decode",
        launch=_decode(form, decode),
        ranged=_SELECTED if chosen else (),
        span=_SPAN_OF_SELECTION if chosen else _SPAN,
        visible=_SELECTION if chosen else (),
    )
    yield part("latent_context", launch=_context())
    yield part(
        "latent_attention",
        head=model.head(form.op, model.launcher(form)),
        doc=_DOC if chosen else (),
        whole=_WHOLE if chosen else (),
        chosen=(f"launch = {decode} if q.shape[1] == 1 else {prefill}",),
        attended=(call("", "return launch", given),),
        name=decode,
        decode_head=(f"def {decode}({', '.join(parameters)}):",),
        query=_query(),
        decode=_decode(form, decode),
        context=_context(),
    )


def _named(base: str, form: Form, model: Model) -> str:
    return model.part(f"_latent_{base}", form, "selection", ops=["latent_attention"])


_DOC = ("It sees only those of its `selection` [B, T, N], unless N is 0.",)
_WHOLE = ("if selection.shape[-1] == 0:", "    selection = None")
_CHOSEN: Lines = (
    "seen = None",
    "if selection is not None:",
    "    seen = torch.zeros(B, T, S, dtype=torch.bool, device=q.device)",
    "    seen.scatter_(-1, selection, True)",
)
_SEEN: Lines = (
    "if seen is not None:",
    "    chosen = seen + (batch * T + token[:, None]) * S + slot[None, :]",
    "    visible &= tl.load(chosen, inside & (slot < stop)[None, :], other=0) != 0",
)
_SELECTED: Lines = (
    "lowest, last = first, past",
    "if selection is not None:",
    "    first, last = 0, N - 1",
)
_SPAN: Lines = (
    "span = tl.cdiv(tl.cdiv(past + 1 - first, SPLITS), SLOTS) * SLOTS",
    "begin = first + split * span",
    "stop = tl.minimum(begin + span, past + 1)",
)
_SPAN_OF_SELECTION: Lines = (
    "span = tl.cdiv(tl.cdiv(last + 1 - first, SPLITS), SLOTS) * SLOTS",
    "begin = first + split * span",
    "stop = tl.minimum(begin + span, last + 1)",
)
_SELECTION: Lines = (
    "if selection is not None:",
    "    slot = tl.load(selection + batch * N + slot, mask=visible, other=0)",
    "    visible &= (slot >= lowest) & (slot <= past)",
)


def _prefill(form: Form, name: str) -> Launch:
    seen = pointer("seen", "[B, T, S] or None", "slots that a query sees")
    return Launch(
        f"{name.lstrip('_')}_kernel",
        '(triton.cdiv(T, tile["ROWS"]), B * H)',
        (
            pointer(
                "q",
                "[B, T, HEADS, NOPE + TURNED]",
                "lies in strides q_batch, q_token, q_head",
            ),
            pointer("up", "[B, S, HEADS, NOPE + V_DIM]", "of all slots so far"),
            _KEYS,
            _POSITION,
            _START,
            *([seen] if form["selection"] else []),
            pointer("out", "[B, T, HEADS, V_DIM]"),
            stride("q_batch", "q.stride(0)"),
            stride("q_token", "q.stride(1)"),
            stride("q_head", "q.stride(2)"),
            count("T"),
            count("S"),
            _CAPACITY,
            constant("SCALE", "scale"),
            *_sizes("HEADS", "NOPE", "TURNED", "V_DIM", "RANK"),
            _block("NOPE", "nope"),
            _block("TURNED", "turned"),
            _block("V", "V"),
            *tile("ROWS", "SLOTS"),
        ),
        ("**tile",),
    )


def _query() -> Launch:
    columns = tiles.LATENT_QUERY["COLS"]
    return Launch(
        "latent_query_kernel",
        f"(B, H, triton.cdiv(R, {columns}))",
        (
            pointer("q", "[B, 1, HEADS, NOPE + TURNED]", "in strides q_batch, q_head"),
            pointer("kv_b", "[HEADS, NOPE + V_DIM, RANK]"),
            pointer("states", "[B, HEADS, RANK + TURNED]"),
            stride("q_batch", "q.stride(0)"),
            stride("q_head", "q.stride(2)"),
            *_sizes("HEADS", "NOPE", "TURNED", "V_DIM", "RANK"),
            constant("TURNED_BLOCK", "triton.next_power_of_2(turned)"),
            *_fixed(tiles.LATENT_QUERY),
        ),
    )


def _decode(form: Form, name: str) -> Launch:
    selection = pointer("selection", "[B, 1, N] or None", "slots that the query sees")
    n = count("N", "0 if selection is None else selection.shape[-1]")
    parts = "latents of each part, weighted, in float32"
    return Launch(
        f"{name.lstrip('_')}_kernel",
        '(LATENT_SPLITS, B, triton.cdiv(H, tile["ROWS"]))',
        (
            pointer("states", "[B, HEADS, RANK + TURNED]", "of latent_query_kernel"),
            _KEYS,
            _POSITION,
            _START,
            *([selection] if form["selection"] else []),
            pointer("parts", "[B, HEADS, SPLITS, RANK]", parts),
            pointer(
                "weights", "[B, HEADS, SPLITS]", "log2 of the sums of their powers"
            ),
            *([n] if form["selection"] else []),
            _CAPACITY,
            constant("SCALE", "scale"),
            *_sizes("HEADS", "SPLITS", "RANK", "TURNED"),
            _block("RANK", "R"),
            _block("TURNED", "turned"),
            *tile("ROWS", "SLOTS"),
        ),
        ("**tile",),
    )


def _context() -> Launch:
    columns = tiles.LATENT_CONTEXT["COLS"]
    return Launch(
        "latent_context_kernel",
        f"(B, H, triton.cdiv(V, {columns}))",
        (
            pointer("parts", "[B, HEADS, SPLITS, RANK]"),
            pointer("weights", "[B, HEADS, SPLITS]"),
            pointer("kv_b", "[HEADS, NOPE + V_DIM, RANK]"),
            pointer("out", "[B, 1, HEADS, V_DIM]"),
            *_sizes("HEADS", "SPLITS", "NOPE", "V_DIM", "RANK"),
            *_fixed(tiles.LATENT_CONTEXT),
        ),
    )
