"""Launch parameters as data: tiles, warps, stages, and the parts decode splits into.

Chosen so that no kernel spills on sm_80 and sm_90 and none needs more shared memory
than any of these has; a test compiles them all.
"""

from collections.abc import Mapping

Tile = Mapping[str, int]

POINTWISE: Tile = {"block": 1024, "warps": 4}
PROLOGUE_WARPS = 1


# Rows times width that a program of decode accumulates at most, and from where on it
# takes twice the warps.
DECODE_AREA, WIDE_AREA = 8192, 4096
# A kernel that may have all the registers there are takes those that it needs. Left to
# itself ptxas looks for a number with which one more program fits a core, and now and
# then spills a word to get there, as it does at a lower limit: of 90 kernels of decode
# three. By its bytes one program keeps enough under way to a core; no GPU has shown it.
ALL_REGISTERS = 255


def _tile(rows: int, slots: int, warps: int, stages: int) -> Tile:
    return {"ROWS": rows, "SLOTS": slots, "num_warps": warps, "num_stages": stages}


# Bytes of an element -> (widest head, rounded up to a power of two, tile), ascending.
_PREFILL: Mapping[int, tuple[tuple[int, Tile], ...]] = {
    2: (
        (64, _tile(64, 64, 4, 2)),
        (128, _tile(64, 64, 8, 2)),
        (256, _tile(64, 32, 8, 2)),
        (512, _tile(32, 32, 8, 1)),
    ),
    4: (
        (64, _tile(32, 32, 4, 1)),
        (128, _tile(32, 16, 8, 1)),
        (256, _tile(16, 16, 4, 1)),
        (512, _tile(16, 16, 8, 1)),
    ),
}
ELEMENT_SIZES = tuple(_PREFILL)
# Channels of the widest head that these are for.
WIDEST_HEAD = 512


def prefill(size: int, width: int) -> Tile:
    """Choose the tile of prefill, queries by slots, for elements of
    ``size`` bytes and heads of ``width``."""
    tiles = _PREFILL[size]
    return next((tile for limit, tile in tiles if width <= limit), tiles[-1][1])


# Bytes of an element -> targets on which prefill reads the cache by descriptors (TMA).
# Products of float32 take whole tiles in registers, and kernels with TMA spilled there.
DESCRIBED: Mapping[int, tuple[str, ...]] = {
    2: ("cuda:90", "cuda:100", "cuda:120"),
    4: (),
}


def decode(size: int, width: int, group: int) -> Tile:
    """Choose the tile of decode, heads of a group by slots; a group too large for one
    program takes several."""
    rows = min(dot_block(group), max(16, DECODE_AREA // width))
    slots = 16 if size == 4 else 64 if width <= 128 else 32
    # Heads of 16 leave four warps nothing to share: on sm_80 ptxas spilled a word.
    wide = rows * width > (WIDE_AREA if size < 4 else WIDE_AREA // 4)
    warps = 8 if wide else 4 if width > 16 else 2
    # With one stage, wide rows of float32 were held in registers whole, and spilled.
    stages = 1 if size == 4 and width < 128 else 2
    return {**_tile(rows, slots, warps, stages), "maxnreg": ALL_REGISTERS}


def _expert_tile(rows: int, cols: int, depth: int, warps: int, stages: int) -> Tile:
    sizes = {"ROWS": rows, "COLS": cols, "DEPTH": depth}
    return sizes | {"num_warps": warps, "num_stages": stages}


# Bytes of an element -> tiles where experts have few rows, and where they have many.
EXPERTS: Mapping[int, tuple[Tile, Tile]] = {
    2: (_expert_tile(16, 64, 128, 4, 2), _expert_tile(64, 64, 64, 8, 3)),
    4: (_expert_tile(16, 32, 32, 4, 1), _expert_tile(32, 32, 32, 4, 2)),
}
# Where a row is multiplied alone. Up: as many programs as keep the last wave full.
# Down: a program adds the experts of a token one after another, so that only many
# programs have enough under way.
EXPERT_ROW_UP: Mapping[int, Tile] = {
    2: {"COLS": 4, "DEPTH": 512, "num_warps": 4},
    4: {"COLS": 8, "DEPTH": 256, "num_warps": 4},
}
EXPERT_ROW_DOWN: Mapping[int, Tile] = {
    2: {"COLS": 2, "DEPTH": 1024, "num_warps": 4},
    4: {"COLS": 2, "DEPTH": 512, "num_warps": 4},
}


# The same for weights that are codes, whose columns are words.
def _code_expert(rows: int, cols: int, words: int, warps: int, stages: int) -> Tile:
    sizes = {"ROWS": rows, "COLS": cols, "WORDS": words}
    return sizes | {"num_warps": warps, "num_stages": stages}


CODE_EXPERTS: Mapping[int, tuple[Tile, Tile]] = {
    2: (_code_expert(16, 32, 16, 4, 2), _code_expert(64, 32, 16, 8, 2)),
    4: (_code_expert(16, 32, 16, 4, 1), _code_expert(32, 32, 16, 4, 1)),
}
CODE_EXPERT_ROW: Mapping[int, Tile] = {
    size: {"COLS": 8, "WORDS": 128, "num_warps": 4} for size in (2, 4)
}
# Rows by expert that one program sorts, by how many at a time, and with so many warps.
SORTED, SORT_STEP, SORT_WARPS = 256, 16, 8

# The router's product: its tile, and up to how many tokens it is not a library's. A
# program to each expert makes some hundred of them for one token.
SCORES: Tile = {"COLS": 1, "DEPTH": 512, "num_warps": 4}
SCORED_TOKENS = 16
CHOICE_WARPS = 1
# Experts that a program holds in registers to choose among them.
MOST_EXPERTS = 1024


# Latent attention. A program of decode holds a tile of latents once, for scores and for
# the context, and the context of its heads. Bytes of an element -> (widest, tile):
# channels of a key and a value together for prefill, of a latent for decode.
_LATENT_PREFILL: Mapping[int, tuple[tuple[int, Tile], ...]] = {
    2: ((320, _tile(64, 32, 8, 2)), (640, _tile(32, 32, 8, 1))),
    4: ((640, _tile(16, 16, 4, 1)),),
}
_LATENT_DECODE: Mapping[int, tuple[tuple[int, Tile], ...]] = {
    2: ((256, _tile(16, 32, 4, 2)), (512, _tile(16, 32, 8, 2))),
    4: ((256, _tile(16, 16, 4, 1)), (512, _tile(16, 16, 8, 1))),
}
WIDEST_EXPANDED, WIDEST_LATENT = 640, 512
LATENT_QUERY: Tile = {"COLS": 64, "DEPTH": 128, "num_warps": 4}
LATENT_CONTEXT: Tile = {"COLS": 16, "DEPTH": 256, "num_warps": 4}
LATENT_WRITE_WARPS = 1


def latent_prefill(size: int, width: int) -> Tile:
    """Choose the tile of prefill, queries by slots, for keys and values of ``width``
    channels together."""
    tiles = _LATENT_PREFILL[size]
    return next((tile for limit, tile in tiles if width <= limit), tiles[-1][1])


def latent_decode(size: int, rank: int) -> Tile:
    """Choose the tile of decode, heads by slots, for latents of ``rank`` channels."""
    tiles = _LATENT_DECODE[size]
    return next((tile for limit, tile in tiles if rank <= limit), tiles[-1][1])


def latent_splits(heads: int) -> int:
    """Choose the number of parts of the cache, so that one sequence alone gives a GPU
    some 128 programs."""
    return max(8, min(power_of_two(128 // -(-heads // 16)), 32))


# Products of codes with many rows.
def _gemm(tokens: int, outputs: int, words: int, warps: int, stages: int) -> Tile:
    sizes = {"TOKENS": tokens, "OUTPUTS": outputs, "WORDS": words}
    return {**sizes, "num_warps": warps, "num_stages": stages}


# Bytes of an element -> tile.
GEMM: Mapping[int, Tile] = {2: _gemm(64, 64, 16, 4, 3), 4: _gemm(32, 32, 16, 4, 2)}


# Products with float weights. Up to so many rows of x, each row reads the weights for
# itself; up to so many more, a matrix unit takes them together; a library beyond.
ONE_ROW, FEW_ROWS = 1, 16
# Columns of x that the statistics of a norm before a product of one row take at a time.
SPAN = 4096


def _gemv(rows: int, columns: int, **limits: int) -> Tile:
    return {"ROWS": rows, "COLUMNS": columns, "num_warps": 4, **limits}


def _skinny(rows: int, columns: int, parts: int, warps: int, stages: int) -> Tile:
    sizes = {"ROWS": rows, "COLUMNS": columns, "PARTS": parts}
    return {**sizes, "num_warps": warps, "num_stages": stages}


# Outputs that there are at least -> tile, the most outputs first. A GPU has some 100 to
# 150 cores and wants several programs on each: with fewer outputs a program takes fewer
# rows of a weight, and more programs share the columns of a row. ROWS * COLUMNS weights
# are under way in each, and those of the last wave wait for memory alone: where there
# are two or three waves, long rows make it short.
LINEAR_GEMV: Mapping[int, Tile] = {
    8192: _gemv(8, 1024),
    2048: _gemv(4, 2048),
    # Left to itself ptxas went for 48 registers on sm_100, and spilled two words.
    0: _gemv(2, 1024, maxnreg=ALL_REGISTERS),
}
LINEAR_SKINNY: Mapping[int, Mapping[int, Tile]] = {
    2: {
        8192: _skinny(32, 128, 1, 4, 4),
        4096: _skinny(32, 128, 2, 4, 4),
        2048: _skinny(32, 128, 4, 4, 4),
        0: _skinny(16, 128, 8, 4, 4),
    },
    4: {
        8192: _skinny(32, 64, 1, 4, 2),
        2048: _skinny(32, 64, 4, 4, 2),
        0: _skinny(16, 64, 8, 4, 2),
    },
}


# Targets that can launch a kernel before the one before it has ended (programmatic
# dependent launch), as their instruction sets say: from sm_90 on.
PDL = ("cuda:90", "cuda:100", "cuda:120")


# The same for codes, whose columns are words. Up to so many rows each reads the codes
# itself: after the first they come from cache, and a matrix unit would be mostly idle.
CODE_GEMV_ROWS = 4


def _code_gemv(rows: int, registers: int = ALL_REGISTERS) -> Tile:
    sizes = {"ROWS": rows, "COLUMNS": 256}
    return {**sizes, "num_warps": 2, "maxnreg": registers}


# Of eight rows four programs fit a core, and five with fewer registers: of CORES cores
# a wave takes 4,224 outputs or 5,280, and that is taken of which the last is fuller.
_FOUR, _FIVE = _code_gemv(8), _code_gemv(8, 200)
# Instructions are the limit here, not bytes (`glmc inspect --kernels`): a thread takes
# many rows, so that it reads, norms and widens a value of x once for all of them. Bits
# of a code -> outputs that there are at least -> tile.
CODE_GEMV: Mapping[int, Mapping[int, Tile]] = {
    4: {
        **{15841: _FOUR, 12673: _FIVE, 10561: _FOUR, 8449: _FIVE, 5281: _FOUR},
        **{4225: _FIVE, 2048: _FOUR, 0: _code_gemv(4)},
    },
    8: {
        **{15841: _FOUR, 12673: _FIVE, 10561: _FOUR, 8449: _FIVE, 6337: _FOUR},
        **{5281: _code_gemv(4), 4225: _FIVE, 0: _code_gemv(4)},
    },
}
# With scales for groups, bytes of an element -> columns of a group at least -> tile:
# small groups, and float32 with zero points, spilled with eight rows.
GROUP_GEMV: Mapping[int, Mapping[int, Tile]] = {
    2: {64: _FOUR, 0: _code_gemv(4)},
    4: {0: _code_gemv(4)},
}
# Small floats have a scale for few of them, and with more rows ptxas spilled on sm_80.
SMALL_GEMV: Mapping[int, Tile] = {
    least: _gemv(rows, 256, maxnreg=ALL_REGISTERS)
    for least, rows in ((2048, 4), (0, 2))
}
CODE_SKINNY: Mapping[int, Mapping[int, Tile]] = {
    2: {
        # With three stages ptxas spilled two words on sm_100: groups, norm and gate.
        8192: _skinny(32, 32, 1, 4, 2),
        4096: _skinny(32, 32, 2, 4, 3),
        2048: _skinny(32, 32, 4, 4, 3),
        0: _skinny(16, 32, 8, 4, 3),
    },
    4: {
        8192: _skinny(32, 16, 1, 4, 2),
        2048: _skinny(32, 16, 4, 4, 2),
        0: _skinny(16, 16, 8, 4, 2),
    },
}


def counters() -> int:
    """Bound the number of programs whose columns are split: those of one output less
    than the least of the tile before."""
    return max(
        -(-(more - 1) // tile["ROWS"])
        for table in (*LINEAR_SKINNY.values(), *CODE_SKINNY.values())
        for more, tile in zip(table, [*table.values()][1:], strict=False)
        if tile["PARTS"] > 1
    )


def power_of_two(size: int) -> int:
    """Return the least power of two that is not below ``size``."""
    return 1 << max(size - 1, 0).bit_length()


def dot_block(size: int) -> int:
    """Round ``size`` up to a block that ``tl.dot`` takes: a power of two from 16."""
    return max(16, power_of_two(size))


# Parts of the cache that one program joins. SPLITS are at most FAN * FAN: neighbours
# are joined first, then what they became.
FAN = 8
# Cores (streaming multiprocessors) of the GPU that tiles by outputs, and parts of a
# cache, are chosen for; a build that is loaded on another scales them.
CORES = 132


def splits(kv_heads: int) -> int:
    """Choose the number of parts of the cache, so that one sequence alone gives a GPU
    some 256 programs."""
    wanted = power_of_two(256 // max(kv_heads, 1))
    return max(FAN, min(wanted, FAN * FAN))


# Short convolutions: a program's channels of a token, and its tokens of a prompt.
SHORT_CONV: tuple[Tile, Tile] = (
    {"TOKENS": 1, "COLS": 256, "num_warps": 4},
    {"TOKENS": 32, "COLS": 64, "num_warps": 4},
)
# Channels whose newest tokens a program keeps.
KEPT_COLS = 256

# Scans of channels, of a token and of a prompt. A token's programs are many, as it is
# the states that are read; a prompt's hold a chunk of all that its channels keep.
SELECTIVE: tuple[Tile, Tile] = (
    {"CHUNK": 1, "COLS": 32, "num_warps": 4},
    {"CHUNK": 16, "COLS": 16, "num_warps": 4},
)
CHANNELS: tuple[Tile, Tile] = (
    {"CHUNK": 1, "COLS": 32, "num_warps": 1},
    {"CHUNK": 32, "COLS": 32, "num_warps": 4},
)

# Mixers. A program of a token holds so many numbers of a head's state at a time, 64 a
# thread; one of a prompt holds fewer columns, and chunks beside them.
STATE_AREA, WIDEST_KEY = 8192, 256


def mix_token(k_dim: int, v_dim: int) -> Tile:
    """Choose the tile of a mixer's token."""
    keys = dot_block(k_dim)
    columns = min(dot_block(v_dim), STATE_AREA // keys)
    return {"V_BLOCK": columns, "num_warps": max(4, columns * keys // 2048)}


def mix_scan(size: int, k_dim: int, v_dim: int, keyed: bool) -> Tile:
    """Choose the tile of a mixer's prompt, for elements of ``size`` bytes; ``keyed``
    where each channel of a key decays by itself.

    Elements of 4 bytes have no CHUNK: products of float32 take whole tiles in
    registers, so a program reads one token after the other.
    """
    keys = dot_block(k_dim)
    if size == 4:
        return {"V_BLOCK": min(dot_block(v_dim), 32), "num_warps": max(4, keys // 32)}
    columns = min(dot_block(v_dim), 32 if keys <= 128 else 16)
    chunk = {"CHUNK": 16, "V_BLOCK": columns, **({"PART": 16} if keyed else {})}
    return {**chunk, "num_warps": 8 if keys > 64 else 4, "num_stages": 1}
