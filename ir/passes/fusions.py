"""The fusions that pay off on any machine, as data; each target lists which it runs."""

from collections.abc import Callable

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.ops import Add
from glmc.ir.passes.rewrite import Check, Fusion, Match, Rule


def _rows(*weights: str) -> Callable[[Match], tuple[int, ...]]:
    """Return a function that gives the number of rows of each of some matrices."""
    return lambda match: tuple(match.type(weight).dims[0] for weight in weights)


def _biases_agree(*names: str) -> Check:
    def check(match: Match) -> str | None:
        present = [match.bound.get(name) is not None for name in names]
        if all(present) or not any(present):
            return None
        return "some of the linears have a bias and some have none"

    return check


def _beside_an_add(_: Program, graph: Graph, __: Op) -> bool:
    """Tell whether the graph has an add, which a norm in it could be fused with."""
    return any(isinstance(op, Add) for op in graph.ops)


MERGE_QKV = Fusion(
    name="merge-qkv",
    doc="One matrix product for q, k and v; the hidden state is read once.",
    rules=(
        Rule(
            match="""
                %q = linear(%x, @wq, bias=@bq?)
                %k = linear(%x, @wk, bias=@bk?)
                %v = linear(%x, @wv, bias=@bv?)
                %qh = heads(%q, n=$heads)
                %kh = heads(%k, n=$kv_heads)
                %vh = heads(%v, n=$kv_heads)
            """,
            replace="""
                @qkv = cat(@wq, @wk, @wv)
                @qkv_bias = cat(@bq, @bk, @bv)
                %qkv = linear(%x, @qkv, bias=@qkv_bias)
                %q, %k, %v = split(%qkv, sizes=$sizes)
                %qh = heads(%q, n=$heads)
                %kh = heads(%k, n=$kv_heads)
                %vh = heads(%v, n=$kv_heads)
            """,
        ),
    ),
    check=_biases_agree("@bq", "@bk", "@bv"),
    compute={"sizes": _rows("@wq", "@wk", "@wv")},
)

MERGE_GATE_UP = Fusion(
    name="merge-gate-up",
    doc="One matrix product for gate and up; the hidden state is read once.",
    rules=(
        Rule(
            match="""
                %gate = linear(%x, @wg, bias=@bg?)
                %up = linear(%x, @wu, bias=@bu?)
                %act = activation(%gate, fn=$fn)
                %ff = mul(%act, %up)
            """,
            replace="""
                @gate_up = cat(@wg, @wu)
                @gate_up_bias = cat(@bg, @bu)
                %gate_up = linear(%x, @gate_up, bias=@gate_up_bias)
                %gate, %up = split(%gate_up, sizes=$sizes)
                %act = activation(%gate, fn=$fn)
                %ff = mul(%act, %up)
            """,
        ),
        Rule(
            match="""
                %gate = linear(%x, @wg, bias=@bg?)
                %up = linear(%x, @wu, bias=@bu?)
                %ff = clamped_glu(
                    %gate, %up, fn=$fn, limit=$limit, alpha=$alpha, cut=$cut, soft=$soft
                )
            """,
            replace="""
                @gate_up = cat(@wg, @wu)
                @gate_up_bias = cat(@bg, @bu)
                %gate_up = linear(%x, @gate_up, bias=@gate_up_bias)
                %gate, %up = split(%gate_up, sizes=$sizes)
                %ff = clamped_glu(
                    %gate, %up, fn=$fn, limit=$limit, alpha=$alpha, cut=$cut, soft=$soft
                )
            """,
        ),
    ),
    check=_biases_agree("@bg", "@bu"),
    compute={"sizes": _rows("@wg", "@wu")},
)

ACT_MUL = Fusion(
    name="act-mul",
    doc="The gated activation reads the packed product once and writes half of it.",
    rules=(
        Rule(
            match="""
                %gate, %up = split(%gate_up, sizes=$sizes)
                %act = activation(%gate, fn=$fn)
                %ff = mul(%act, %up)
            """,
            replace="%ff = act_mul(%gate_up, fn=$fn)",
        ),
    ),
)

ADD_RMS_NORM = Fusion(
    name="add-rms-norm",
    doc="Residual add and RMSNorm read the residual stream once.",
    rules=(
        Rule(
            match="""
                %s = add(%x, %y)
                %h = rms_norm(%s, @w, eps=$eps, weight_in=$weight_in,
                    unit_offset=$unit_offset)
            """,
            replace="""
                %s, %h = add_rms_norm(%x, %y, @w, eps=$eps, weight_in=$weight_in,
                    unit_offset=$unit_offset)
            """,
        ),
    ),
    candidate=_beside_an_add,
    wanted="stands beside an add",
)

ADD_LAYER_NORM = Fusion(
    name="add-layer-norm",
    doc="Residual add and LayerNorm read the residual stream once.",
    rules=(
        Rule(
            match="""
                %s = add(%x, %y)
                %h = layer_norm(%s, @w, bias=@b?, eps=$eps, unit_offset=$unit_offset)
            """,
            replace="""
                %s, %h = add_layer_norm(%x, %y, @w, bias=@b, eps=$eps,
                    unit_offset=$unit_offset)
            """,
        ),
    ),
    candidate=_beside_an_add,
    wanted="stands beside an add",
)


def _ranked(program: Program, _: Graph, __: Op) -> bool:
    return program.ranks > 1


REDUCE_ADD_NORM = Fusion(
    name="reduce-add-norm",
    doc="The sum of all ranks, residual add and norm are one op.",
    rules=(
        Rule(
            match="""
                %z = all_reduce(%y)
                %s, %h = add_rms_norm(%x, %z, @w, eps=$eps, weight_in=$weight_in,
                    unit_offset=$unit_offset)
            """,
            replace="""
                %s, %h = reduce_add_rms_norm(%x, %y, @w, eps=$eps,
                    weight_in=$weight_in, unit_offset=$unit_offset)
            """,
        ),
        Rule(
            match="""
                %z = all_reduce(%y)
                %s, %h = add_layer_norm(%x, %z, @w, bias=@b?, eps=$eps,
                    unit_offset=$unit_offset)
            """,
            replace="""
                %s, %h = reduce_add_layer_norm(%x, %y, @w, bias=@b, eps=$eps,
                    unit_offset=$unit_offset)
            """,
        ),
    ),
    candidate=_ranked,
    wanted="is of several ranks",
)
