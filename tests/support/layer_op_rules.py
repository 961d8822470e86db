"""Rules of ops for recurrent layers, pooled tokens, streams and ranks, as ``op_rules``
has them of others."""

from __future__ import annotations

from typing import Any

from support.op_rules import Counted, Taken

X = {"x": "f16[B,T,300]"}  # wider than the numbers that Python keeps one of
HEADS = {"x": "f16[B,T,2,4]"}
CONV = {"x": "f16[B,T,8]", "weight": "f16[8,3]", "state": "row[8,3]"}
SCAN = {
    **{"q": "f32[B,T,2,3]", "k": "f32[B,T,2,3]", "v": "f16[B,T,4,5]"},
    **{"g": "f32[B,T,4]", "state": "row[4,3,5]"},
}
CHANNELS = {
    **{"v": "f16[B,T,8]", "step": "f32[B,T,8]", "k": "f16[B,T,4]"},
    **{"q": "f16[B,T,4]", "a_log": "f32[8,4]", "skip": "f32[8]", "state": "row[8,4]"},
}
GATED = {"x": "f32[B,T,8]", "z": "f16[B,T,8]", "weight": "f16[8]"}
NORM = {"eps": 1.0, "fn": "silu"}
MIX = {
    **{"q": "f16[B,T,6]", "k": "f16[B,T,6]", "v": "f16[B,T,20]", "step": "f16[B,T,4]"},
    **{"conv_q": "f16[6,2]", "conv_k": "f16[6,2]", "conv_v": "f16[20,2]"},
    **{"kept_q": "row[6,2]", "kept_k": "row[6,2]", "kept_v": "row[20,2]"},
    **{"a_log": "f32[4]", "state": "row[4,3,5]"},
}
ENDED = {**MIX, "z": "f16[B,T,20]", "norm": "f16[5]"}
POOL = {
    **{"x": "f16[B,T,6]", "gates": "f16[B,T,6]", "bias": "f32[4,6]"},
    "pending": "row[4,12]",
}
KEEP = {"entries": "token4[6]", "x": "f16[B,N,1,6]", "at": "i64[B,N]"}
SELECT = {
    **{"q": "f16[B,T,2,6]", "x": "f16[B,T,8]", "entries": "token4[6]"},
    "weight": "f32[2,8]",
}
POOLED = {"q": "f16[B,T,2,6]", "kv": "token[6]"}
BOTH = {**POOLED, "entries": "token4[6]"}
ALL = {**BOTH, "selection": "i64[B,T,N]", "sinks": "f32[2]"}
WINDOW = {"scale": 1.0, "window": 3}
PARTS = {"x": "f16[B,T,2,6]", "weight": "f16[3,5,4]"}
STREAMS = {"x": "f16[B,T,3,8]"}
MAPS = {**STREAMS, "fn": "f32[6,24]", "base": "f32[6]", "scale": "f32[2]"}
MIXED = {**STREAMS, "fn": "f32[15,24]", "base": "f32[15]", "scale": "f32[3]"}
EPS = {"eps": 1.0, "norm_eps": 1.0}
BACK = {**STREAMS, "y": "f16[B,T,8]", "post": "f32[B,T,3]"}
OVER = {**BACK, "comb": "f32[B,T,3,3]"}
KEPT = {"snapshots": "f16[B,T,N,300]", **X}
ROW = {**KEPT, "norm": "f16[300]", "weight": "f16[1,300]"}
CHOICE = {"experts": "i64[B,T,2]", "weights": "f32[B,T,2]"}
TABLE = {"ids": "i64[B,T]", "weight": "f16[9,300]"}
PART = {**X, "squares": "f32[B,T,1]", "weight": "f16[300]"}

TAKEN: list[Taken] = [
    ("short_conv", {}, CONV, "f16[B,T,8] f32[8,3] per row"),
    ("short_conv", {}, {**CONV, "bias": "f16[8]"}, "f16[B,T,8] f32[8,3] per row"),
    ("scan", {}, SCAN, "f16[B,T,20] f32[4,3,5] per row"),
    ("scan", {}, {**SCAN, "g": "f32[B,T,4,3]"}, "f16[B,T,20] f32[4,3,5] per row"),
    ("scan", {}, {**SCAN, "beta": "f32[B,T,4]"}, "f16[B,T,20] f32[4,3,5] per row"),
    ("selective_scan", {}, CHANNELS, "f16[B,T,8] f32[8,4] per row"),
    ("l2_normalize", {"eps": 1.0}, X, "f32[B,T,300]"),
    ("step_size", {}, {**X, "bias": "f32[300]"}, "f32[B,T,300]"),
    ("decay", {}, {"step": "f32[B,T,8]", "a_log": "f32[8]"}, "f32[B,T,8]"),
    ("decay", {}, {"step": "f32[B,T,8]", "a_log": "f32[4]"}, "f32[B,T,4,2]"),
    (
        "bounded_decay",
        {"floor": -5.0},
        {"x": "f16[B,T,8]", "a_log": "f32[1]", "bias": "f32[8]"},
        "f32[B,T,1,8]",
    ),
    ("sigmoid", {}, X, "f16[B,T,300]"),
    ("scale_each", {}, {**HEADS, "factor": "f32[B,T,2]"}, "f32[B,T,2,4]"),
    (
        "add_skip",
        {},
        {"y": "f32[B,T,8]", **HEADS, "weight": "f32[2]"},
        "f16[B,T,8]",
    ),
    ("gated_norm", NORM, GATED, "f16[B,T,8]"),
    ("gated_norm", {**NORM, "groups": 2}, {**GATED, "weight": "f16[4]"}, "f16[B,T,8]"),
    ("mix", {}, MIX, "f16[B,T,20]"),
    ("mix", {}, {**MIX, "step": "f16[B,T,12]"}, "f16[B,T,20]"),
    ("mix", {}, {**MIX, "bias_q": "f16[6]", "bias_v": "f16[20]"}, "f16[B,T,20]"),
    ("mix", {"eps": 1.0}, ENDED, "f16[B,T,20]"),
    (
        "pool_tokens",
        {"every": 4},
        POOL,
        "f16[B,N,6] i64[B,N] f32[4,12] per row",
    ),
    (
        "pool_tokens",
        {"every": 4, "overlap": True},
        {**POOL, "pending": "row[8,12]"},
        "f16[B,N,3] i64[B,N] f32[8,12] per row",
    ),
    ("pool_write", {}, KEEP, "[6] per 4 tokens"),
    ("pool_select", {"top_k": 2, "scale": 1.0}, SELECT, "i64[B,T,N]"),
    ("pooled_attention", WINDOW, POOLED, "f16[B,T,12]"),
    ("pooled_attention", WINDOW, BOTH, "f16[B,T,12]"),
    ("pooled_attention", WINDOW, ALL, "f16[B,T,12]"),
    ("grouped_linear", {}, PARTS, "f16[B,T,15]"),
    ("hyper_read", EPS, MAPS, "f16[B,T,8] f32[B,T,3]"),
    (
        "hyper_read",
        {**EPS, "iterations": 1},
        MIXED,
        "f16[B,T,8] f32[B,T,3] f32[B,T,3,3]",
    ),
    ("hyper_write", {}, BACK, "f16[B,T,3,8]"),
    ("hyper_write", {}, OVER, "f16[B,T,3,8]"),
    (
        "hyper_head",
        EPS,
        {**STREAMS, "fn": "f32[3,24]", "base": "f32[3]", "scale": "f32[1]"},
        "f16[B,T,8]",
    ),
    ("mean_streams", {}, STREAMS, "f16[B,T,8]"),
    ("add_to_others", {}, {**STREAMS, "y": "f16[B,T,8]"}, "f16[B,T,3,8]"),
    ("spread_streams", {}, {**X, "weight": "f16[1,300,300]"}, "f16[B,T,2,300]"),
    ("no_snapshots", {}, X, "f16[B,T,N,300]"),
    ("snapshot", {}, KEPT, "f16[B,T,N,300]"),
    ("mix_snapshots", {"eps": 1.0}, ROW, "f16[B,T,300]"),
    (
        "expert_queries",
        {"kv_heads": 2},
        {**X, "experts": "i64[B,T,2]", "weight": "f16[4,8,300]"},
        "f16[B,T,4,4]",
    ),
    ("all_reduce", {}, X, "f16[B,T,300]"),
    ("all_gather", {"dim": 2, "ranks": 2, "size": 600}, X, "f16[B,T,600]"),
    ("all_gather", {"dim": 2, "ranks": 2, "size": 301}, X, "f16[B,T,301]"),
    ("reduce_scatter", {"dim": 2, "ranks": 3}, X, "f16[B,T,100]"),
    ("own_part", {"dim": 2, "ranks": 300}, X, "f16[B,T,1]"),
    ("own_rows", {}, TABLE, "f16[B,T,300]"),
    ("own_experts", {"count": 1}, CHOICE, "i64[B,T,2] f32[B,T,2]"),
    ("square_sum", {}, X, "f32[B,T,1]"),
    ("rms_norm_part", {"width": 600, "eps": 1.0}, PART, "f16[B,T,300]"),
]


def beside(operands: dict[str, str], said: str, **others: str) -> list[Any]:
    """Return cases of other types of one operand each, refused with one sentence."""
    return [({**operands, key: text}, said) for key, text in others.items()]


_REFUSED: list[tuple[str, dict[str, Any], list[Any]]] = [
    (
        "short_conv",
        {},
        [
            *beside(CONV, "not the channels", weight="f16[7,3]"),
            *beside(CONV, "must be", state="token[8,3]"),
            *beside({**CONV, "bias": ""}, "does not fit", bias="f16[9]"),
            *beside({**CONV, "bias": ""}, "does not fit", bias="f16[7]"),
            *beside(CONV, r"must be \[8,3\] per row", state="row[8,2]"),
        ],
    ),
    (
        "scan",
        {},
        [
            *beside(SCAN, "is not k", q="f32[B,T,2,4]", k="f32[B,T,2,4]"),
            *beside({**SCAN, "q": "f32[B,T,6]"}, "is not k", k="f32[B,T,6]"),
            *beside(SCAN, "must be of heads", v="f16[B,T,20]"),
            *beside({**SCAN, "q": "f32[B,T,3,3]"}, "serve 4", k="f32[B,T,3,3]"),
            *beside(SCAN, "neither of heads", g="f32[B,T,4,5]"),
            *beside({**SCAN, "beta": ""}, "not of heads", beta="f32[B,T,2]"),
            *beside(SCAN, "must be", state="row[4,5,3]"),
        ],
    ),
    (
        "selective_scan",
        {},
        [
            *beside(CHANNELS, "are not of", step="f32[B,T,4]"),
            *beside(CHANNELS, "is not k", q="f16[B,T,8]"),
            *beside(CHANNELS, "not the channels", a_log="f32[4,8]"),
            *beside(CHANNELS, "not of the channels", skip="f32[4]"),
            *beside(CHANNELS, "must be", state="row[4,8]"),
        ],
    ),
    ("step_size", {}, beside({**X, "bias": ""}, "does not fit", bias="f32[299]")),
    (
        "decay",
        {},
        [
            *beside({"step": "f32[B,T,8]"}, "not the heads", a_log="f32[3]"),
            *beside({"step": "f32[B,T,8]"}, "not the heads", a_log="f32[8,1]"),
        ],
    ),
    (
        "bounded_decay",
        {"floor": -5.0},
        beside({**X, "a_log": "f32[2]"}, "does not fit", bias="f32[2]"),
    ),
    ("scale_each", {}, beside(HEADS, "not of the heads", factor="f32[B,T,4]")),
    (
        "add_skip",
        {},
        [
            ({"y": "f32[B,T,8]", **HEADS, "weight": "f32[4]"}, "not of the heads"),
            ({"y": "f32[B,T,4]", **HEADS, "weight": "f32[2]"}, "does not fit"),
        ],
    ),
    (
        "gated_norm",
        NORM,
        [
            *beside(GATED, "gates", z="f16[B,T,9]"),
            *beside(GATED, "gates", z="f16[B,T,7]"),
            *beside(GATED, "neither the channels", weight="f16[4]"),
        ],
    ),
    ("gated_norm", {**NORM, "groups": 3}, [(GATED, "not made of 3 parts")]),
    (
        "mix",
        {},
        [
            *beside(MIX, "not that of a scan", state="row[4,15]"),
            *beside(MIX, "not that of a scan", state="token[4,3,5]"),
            *beside(MIX, "does not fill", v="f16[B,T,19]"),
            *beside(MIX, "do not serve", k="f16[B,T,3]"),
            *beside({**MIX, "q": "f16[B,T,7]"}, "do not serve", k="f16[B,T,7]"),
            *beside({**MIX, "q": "f16[B,T,9]"}, "do not serve", k="f16[B,T,9]"),
            *beside(MIX, "of no heads", step="f16[B,T,5]"),
            *beside(MIX, "not the channels", conv_k="f16[5,2]"),
            *beside(MIX, "does not hold", kept_v="row[20,3]", kept_q="token[6,2]"),
            *beside({**MIX, "bias_k": ""}, "does not fit", bias_k="f16[2]"),
            (ENDED, "go together"),
            ({**MIX, "z": "f16[B,T,20]"}, "go together"),
        ],
    ),
    ("mix", {"eps": 1.0}, [(MIX, "go together")]),
    (
        "pool_tokens",
        {"every": 4},
        [
            *beside(POOL, "do not go with", gates="f16[B,T,3]"),
            *beside(POOL, "is not", bias="f32[3,6]"),
            *beside(POOL, "is not", bias="f16[4,6]"),
            *beside(POOL, "per row", pending="row[8,12]"),
            *beside(POOL, "per row", pending="token[4,12]"),
        ],
    ),
    (
        "pool_tokens",
        {"every": 4, "overlap": True},
        [
            (
                {
                    **{"x": "f16[B,T,5]", "gates": "f16[B,T,5]"},
                    **{"bias": "f32[4,5]", "pending": "row[8,10]"},
                },
                "no two halves",
            )
        ],
    ),
    (
        "pool_write",
        {},
        [
            *beside(KEEP, "several tokens", entries="token[6]"),
            *beside(KEEP, "does not fit", x="f16[B,N,6]"),
            *beside(KEEP, "positions", at="i32[B,N]"),
        ],
    ),
    (
        "pool_select",
        {"top_k": 2, "scale": 1.0},
        [
            *beside(SELECT, "do not fit", q="f16[B,T,2,5]"),
            *beside(SELECT, "do not fit", q="f16[B,T,6]"),
            *beside(SELECT, "several tokens", entries="token[6]"),
            *beside(SELECT, "is not", weight="f32[3,8]"),
            *beside(SELECT, "is not", weight="f16[2,8]"),
        ],
    ),
    (
        "pooled_attention",
        WINDOW,
        [
            *beside(POOLED, "do not fit", kv="token[7]"),
            *beside(BOTH, "does not fit", entries="token4[5]"),
            *beside(BOTH, "several tokens", entries="token[6]"),
            *beside(BOTH, "is not", selection="i64[B,T,2]"),
            *beside(POOLED, "no entries", selection="i64[B,T,N]"),
            *beside(POOLED, "do not fit", sinks="f32[3]"),
        ],
    ),
    (
        "grouped_linear",
        {},
        [
            *beside(PARTS, "3 dims", weight="f16[5,4]"),
            *beside(PARTS, "does not multiply", weight="f16[2,5,4]"),
            *beside(PARTS, "does not multiply", x="f16[B,T,12]"),
        ],
    ),
    (
        "hyper_read",
        EPS,
        [
            *beside(MAPS, "fn", fn="f32[6,23]"),
            *beside(MAPS, "fn", fn="f16[6,24]"),
            *beside(MAPS, "base", base="f32[5]"),
            *beside(MAPS, "scale", scale="f32[3]"),
            (MIXED, "fn"),
        ],
    ),
    (
        "hyper_write",
        {},
        [
            *beside(BACK, "no stream", y="f16[B,T,7]"),
            *beside(BACK, "is not", post="f32[B,T,2]"),
            *beside(BACK, "is not", post="f16[B,T,3]"),
            *beside(BACK, "does not mix", comb="f32[B,T,9]"),
        ],
    ),
    ("add_to_others", {}, beside(STREAMS, "no stream", y="f16[B,T,9]")),
    (
        "spread_streams",
        {},
        [
            *beside(X, "must have 3 dims", weight="f16[300,300]"),
            *beside(X, "must have 3 dims", weight="f16[2,2,300,300]"),
        ],
    ),
    ("no_snapshots", {}, [(STREAMS, "is not")]),
    (
        "snapshot",
        {},
        beside(KEPT, "are not", snapshots="f16[B,T,2,300]", x="f32[B,T,300]"),
    ),
    (
        "mix_snapshots",
        {"eps": 1.0},
        [
            *beside(ROW, "does not fit", norm="f16[1]"),
            *beside(ROW, "is not a row", weight="f16[300]"),
            *beside(ROW, "are not", snapshots="f16[B,T,300]"),
        ],
    ),
    (
        "expert_outputs",
        {"kv_heads": 2},
        [
            ({**CHOICE, "x": "f16[B,T,8]", "weight": "f16[5,4]"}, "3 dims"),
            ({**CHOICE, "x": "f16[B,T,6]", "weight": "f16[4,5,4]"}, "multiply"),
        ],
    ),
    ("all_gather", {"dim": 2, "ranks": 2, "size": 601}, [(X, "do not make 601")]),
    ("all_gather", {"dim": 2, "ranks": 2, "size": 300}, [(X, "do not make 300")]),
    ("all_gather", {"dim": 3, "ranks": 2, "size": 1}, [(X, "no dimension 3")]),
    ("reduce_scatter", {"dim": 2, "ranks": 7}, [(X, "cannot be dealt to 7")]),
    ("reduce_scatter", {"dim": 1, "ranks": 1}, [(X, "cannot be dealt to 1")]),
    ("own_part", {"dim": -1, "ranks": 2}, [(X, "no dimension -1")]),
    (
        "own_rows",
        {},
        [
            *beside(TABLE, "must be i64", ids="i32[B,T]"),
            *beside(TABLE, "2 dims", weight="f16[9]"),
            *beside(TABLE, "2 dims", weight="f16[9,300,1]"),
        ],
    ),
    ("own_experts", {"count": 0}, [(CHOICE, "no experts")]),
    (
        "own_experts",
        {"count": 1},
        beside(CHOICE, "do not go with", weights="f32[B,T,3]"),
    ),
    (
        "rms_norm_part",
        {"width": 600, "eps": 1.0},
        [
            *beside(PART, "is not", squares="f32[B,T,0]"),
            *beside(PART, "is not", squares="f16[B,T,1]"),
            *beside(PART, "does not fit", weight="f16[600]"),
        ],
    ),
]
REFUSED = [
    (name, attributes, types, said)
    for name, attributes, cases in _REFUSED
    for types, said in cases
]

FLOPS: list[Counted] = [
    ("short_conv", {}, CONV, 2 * 6 * 8 * 3),
    ("scan", {}, SCAN, 5 * 6 * 60),
    ("scan", {}, {**SCAN, "beta": "f32[B,T,4]"}, 7 * 6 * 60),
    ("selective_scan", {}, CHANNELS, 6 * 6 * 32),
    ("l2_normalize", {"eps": 1.0}, X, 3 * 6 * 300),
    ("step_size", {}, X, 2 * 6 * 300),
    ("bounded_decay", {"floor": -5.0}, {**X, "a_log": "f32[2]"}, 4 * 6 * 300),
    ("add_skip", {}, {"y": "f32[B,T,8]", **HEADS, "weight": "f32[2]"}, 2 * 6 * 8),
    ("gated_norm", NORM, GATED, 6 * 6 * 8),
    ("mix", {}, MIX, 5 * 6 * 60 + 2 * 2 * 6 * (6 + 6 + 20)),
    ("mix", {"eps": 1.0}, ENDED, 5 * 6 * 60 + 2 * 2 * 6 * 32 + 6 * 6 * 20),
    (
        "mix",
        {},
        {**MIX, "beta": "f16[B,T,4]"},
        7 * 6 * 60 + 2 * 2 * 6 * (6 + 6 + 20),
    ),
    ("pool_tokens", {"every": 4}, POOL, 6 * 6 * 6),
    (
        "pool_select",
        {"top_k": 2, "scale": 1.0},
        SELECT,
        2 * (2 * 2 * 18 // 4 * 6 + 6 * 8 * 2),
    ),
    ("pooled_attention", WINDOW, POOLED, 4 * 2 * 2 * 6 * 9),
    ("pooled_attention", WINDOW, BOTH, 4 * 2 * 2 * 6 * (9 + 18 // 4)),
    ("grouped_linear", {}, PARTS, 2 * 6 * 60),
    ("hyper_read", EPS, MAPS, 2 * 6 * 24 * (6 + 1)),
    ("hyper_write", {}, BACK, 2 * 6 * 24 * (1 + 1)),
    ("hyper_write", {}, OVER, 2 * 6 * 24 * (3 + 1)),
    (
        "hyper_head",
        EPS,
        {**STREAMS, "fn": "f32[3,24]", "base": "f32[3]", "scale": "f32[1]"},
        2 * 6 * 24 * (3 + 1),
    ),
    ("no_snapshots", {}, X, 0),
    ("mix_snapshots", {"eps": 1.0}, ROW, 16 * 6 * 300),
    ("all_gather", {"dim": 2, "ranks": 2, "size": 600}, X, 0),
    ("own_rows", {}, TABLE, 0),
    ("square_sum", {}, X, 2 * 6 * 300),
    ("rms_norm_part", {"width": 600, "eps": 1.0}, PART, 2 * 6 * 300),
]
BYTES: list[Counted] = [
    ("short_conv", {}, CONV, 2 * (48 + 24 + 48) + 2 * 2 * 24 * 4),
    (
        "scan",
        {},
        SCAN,
        4 * (36 + 36) + 2 * 120 + 4 * 24 + 2 * 120 + 2 * 2 * 60 * 4,
    ),
    (
        "selective_scan",
        {},
        CHANNELS,
        2 * 48 + 4 * 48 + 2 * 24 + 2 * 24 + 4 * (32 + 8) + 2 * 48 + 2 * 2 * 32 * 4,
    ),
    (
        "mix",
        {},
        MIX,
        2 * (36 + 36 + 120 + 24)
        + 2 * (12 + 12 + 40)
        + 4 * 4
        + 2 * 120
        + 2 * 2 * 4 * (12 + 12 + 40 + 60),
    ),
    (
        "pool_select",
        {"top_k": 2, "scale": 1.0},
        SELECT,
        2 * 72 + 2 * 48 + 4 * 16 + 8 * 6 + 2 * 2 * 2 * 7,
    ),
    # Of 7 slots the queries see at most 3 + 3 - 1; of entries 6 numbers in 4 tokens.
    ("pooled_attention", WINDOW, POOLED, 2 * 72 + 2 * 72 + 2 * 2 * 6 * 5),
    (
        "pooled_attention",
        WINDOW,
        BOTH,
        2 * 72 + 2 * 72 + 2 * 2 * 6 * 5 + 2 * 2 * 2 * 7,
    ),
    ("no_snapshots", {}, X, 0),
    ("own_rows", {}, TABLE, 8 * 6 + 2 * 2 * 6 * 300),
]
SENT: list[Counted] = [
    ("all_reduce", {}, X, 2 * 3600 * 2 // 3),
    ("all_gather", {"dim": 2, "ranks": 3, "size": 900}, X, 3600 * 2),
    ("reduce_scatter", {"dim": 2, "ranks": 3}, X, 3600 * 2 // 3),
    ("own_part", {"dim": 2, "ranks": 3}, X, 0),
]
