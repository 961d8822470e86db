"""Fuse attention with the ops that prepare its operands.

On a GPU that is one launch for a token of decode, and two for a prompt.
"""

from glmc.ir.passes.rewrite import Fusion, Match, Rule


def _one_width(match: Match) -> str | None:
    wide, values = match.type("%qh").dims[-1], match.type("%vh").dims[-1]
    if wide == values:
        return None
    return f"values are {values} wide, and queries and keys {wide}"


_SPLIT = """
    %q, %k, %v = split(%qkv, sizes=$sizes)
    %qh = heads(%q, n=$heads)
    %kh = heads(%k, n=$kv_heads)
    %vh = heads(%v, n=$kv_heads)
"""
_QK_NORM = """
    %qn = rms_norm(%qh, @q_norm, eps=$eps, weight_in=$weight_in, unit_offset=$offset)
    %kn = rms_norm(%kh, @k_norm, eps=$eps, weight_in=$weight_in, unit_offset=$offset)
"""
_ROPE = """
    %qr = rope(%{q}, %cos, %sin, style=$style, sections=$sections)
    %kr = rope(%{k}, %cos, %sin, style=$style, sections=$sections)
"""
_ATTEND = """
    %kv_now = kv_write(%kv, %{k}, %vh)
    %ctx = attention(%{q}, %kv_now, prefix=%prefix?, slopes=%slopes?, sinks=@sinks?,
        scale=$scale, window=$window, learned=$learned, chunk=$chunk, softcap=$softcap)
"""
_SHAPE = """prefix=%prefix, slopes=%slopes, sinks=@sinks, heads=$heads,
            kv_heads=$kv_heads, head_dim=$head_dim, scale=$scale, window=$window,
            learned=$learned, chunk=$chunk, softcap=$softcap"""


def _named(text: str, q: str, k: str) -> str:
    return text.replace("{q}", q).replace("{k}", k)


QKV_ATTENTION = Fusion(
    name="qkv-attention",
    doc="Norm, rope, cache write and attention of a token in one launch.",
    rules=(
        Rule(
            match=_SPLIT
            + _QK_NORM
            + _named(_ROPE, "qn", "kn")
            + _named(_ATTEND, "qr", "kr"),
            replace=f"""
                %ctx = qkv_attention(%qkv, %kv, cos=%cos, sin=%sin,
                    q_norm=@q_norm, k_norm=@k_norm, {_SHAPE}, style=$style,
                    sections=$sections, eps=$eps, weight_in=$weight_in,
                    unit_offset=$offset)
            """,
        ),
        Rule(
            match=_SPLIT + _named(_ROPE, "qh", "kh") + _named(_ATTEND, "qr", "kr"),
            replace=f"""
                %ctx = qkv_attention(%qkv, %kv, cos=%cos, sin=%sin, {_SHAPE},
                    style=$style, sections=$sections)
            """,
        ),
        Rule(
            match=_SPLIT + _named(_ATTEND, "qh", "kh"),
            replace=f"%ctx = qkv_attention(%qkv, %kv, {_SHAPE})",
        ),
    ),
    check=_one_width,
    compute={"head_dim": lambda match: match.type("%qh").dims[-1]},
)
