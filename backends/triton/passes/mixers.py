"""Fuse a mixer's scan with the ops that prepare its operands, and with its norm.

On a GPU that is one launch for a token of decode; where a norm is of several heads, it
has a launch of its own.
"""

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.ops import LruScan, SelectiveScan, ShortConv, WkvScan
from glmc.ir.passes.rewrite import Fusion, Match, Rule

_CONVOLVED = """
    %qc, %kept_q_now = short_conv(%q, @conv_q, %kept_q, bias=@bias_q?, fn=$fn)
    %qh = heads(%qc, n=$groups)
    {q}
    %kc, %kept_k_now = short_conv(%k, @conv_k, %kept_k, bias=@bias_k?, fn=$fn)
    %kh = heads(%kc, n=$groups)
    {k}
    %vc, %kept_v_now = short_conv(%v, @conv_v, %kept_v, bias=@bias_v?, fn=$fn)
    %vh = heads(%vc, n=$heads)
"""
_UNIT = _CONVOLVED.format(
    q="%qn = l2_normalize(%qh, eps=$l2_eps)", k="%kn = l2_normalize(%kh, eps=$l2_eps)"
)
_STEP = """
    %size = step_size(%step, bias=@dt_bias?, low=$low, high=$high)
    %g = decay(%size, @a_log)
"""
_BOUNDED = "%g = bounded_decay(%step, @a_log, bias=@dt_bias?, floor=$floor)"
_CORRECTED = """
    %strength = sigmoid(%beta, factor=$factor)
    %y, %state_now = scan(%qn, %kn, %vh, %g, %state, beta=%strength, scale=$scale)
"""
_SUMMED = """
    %vs = scale_each(%vh, %size)
    %read, %state_now = scan(%qh, %kh, %vs, %g, %state, scale=$scale)
    %y = add_skip(%read, %vh, @skip)
"""
_OPERANDS = """%q, %k, %v, %step, @conv_q, @conv_k, @conv_v, @a_log, %kept_q, %kept_k,
            %kept_v, %state, bias_q=@bias_q, bias_k=@bias_k, bias_v=@bias_v,
            dt_bias=@dt_bias, fn=$fn, scale=$scale"""
_DELTA = f"{_OPERANDS}, beta=%beta, l2_eps=$l2_eps, factor=$factor"

MIX = Fusion(
    name="mix",
    doc="Convolutions, decay and scan of a mixer in one launch for a token.",
    rules=(
        Rule(
            match=_UNIT + _STEP + _CORRECTED,
            replace=f"%y = mix({_DELTA}, low=$low, high=$high)",
        ),
        Rule(
            match=_UNIT + _BOUNDED + _CORRECTED,
            replace=f"%y = mix({_DELTA}, floor=$floor)",
        ),
        Rule(
            match=_CONVOLVED.format(q="", k="") + _STEP + _SUMMED,
            replace=f"""
                %y = mix({_OPERANDS}, skip=@skip, steps=true, low=$low, high=$high)
            """,
        ),
    ),
)


def _of_heads(match: Match) -> str | None:
    heads = match.type("%state").sizes[0]
    same = match.bound["$groups"] == heads
    return None if same else f"the norm is not of each of {heads} heads"


_MIXED = """
    %y = mix(%q, %k, %v, %step, @conv_q, @conv_k, @conv_v, @a_log, %kept_q, %kept_k,
        %kept_v, %state, bias_q=@bias_q?, bias_k=@bias_k?, bias_v=@bias_v?,
        dt_bias=@dt_bias?, beta=%beta?, skip=@skip?, fn=$fn, l2_eps=$l2_eps, low=$low,
        high=$high, floor=$floor, steps=$steps, factor=$factor, scale=$scale)
    %n = gated_norm(%y, %z, @norm, eps=$eps, fn=$gate, order=$order, groups=$groups,
        weight_in=$weight_in)
"""

MIX_NORM = Fusion(
    name="mix-norm",
    doc="A mixer norms and gates each head before it writes it.",
    rules=(
        Rule(
            match=_MIXED,
            replace=f"""
                %n = mix({_OPERANDS}, beta=%beta, skip=@skip, z=%z, norm=@norm,
                    l2_eps=$l2_eps, low=$low, high=$high, floor=$floor, steps=$steps,
                    factor=$factor, eps=$eps, gate=$gate, order=$order,
                    weight_in=$weight_in)
            """,
        ),
    ),
    check=_of_heads,
)

_CHANNELS = (LruScan, SelectiveScan, WkvScan)
_STEPS = "selective_scan(%v, {step}, %k, %q, @a_log, @skip, %state{more})"
_LRU = "lru_scan(%x, %i, %r, @rate, %state, power=$power{})"
_WKV = "wkv_scan(%k, %v, @rate, @first, %state{})"


def _makes_a_scan(program: Program, graph: Graph, op: Op) -> bool:
    """Tell whether a product reads what was convolved for a scan of channels."""
    scans = any(isinstance(one, SelectiveScan) for one in graph.ops)
    return scans and isinstance(graph.producers.get(op.values[0]), ShortConv)


def _rows(match: Match) -> tuple[int, ...]:
    return tuple(int(match.type(name).dims[0]) for name in ("@a", "@b", "@c"))


MERGE_SELECTED = Fusion(
    name="merge-selected",
    doc="One product for steps, keys and queries; what was convolved is read once.",
    rules=(
        Rule(
            match="""
                %one = linear(%x, @a)
                %two = linear(%x, @b)
                %three = linear(%x, @c)
            """,
            replace="""
                @selected = cat(@a, @b, @c)
                %selected = linear(%x, @selected)
                %one, %two, %three = split(%selected, sizes=$sizes)
            """,
        ),
    ),
    compute={"sizes": _rows},
    candidate=_makes_a_scan,
    wanted="reads what was convolved for a scan of channels",
)

STEP_SCAN = Fusion(
    name="step-scan",
    doc="A scan of channels makes its steps of what is projected.",
    rules=(
        Rule(
            match=f"""
                %size = step_size(%step, bias=@bias)
                %y, %now = {_STEPS.format(step="%size", more="")}
            """,
            replace=f"%y, %now = {_STEPS.format(step='%step', more=', bias=@bias')}",
        ),
    ),
)


def _gates_a_scan(program: Program, graph: Graph, op: Op) -> bool:
    return any(isinstance(graph.producers.get(v), _CHANNELS) for v in op.values)


def _of_channels(match: Match) -> str | None:
    same = match.type("%opened") == match.type("%read")
    return None if same else "the gate is not of each channel"


def _gated(scan: str, made: str, gate: str) -> Rule:
    return Rule(match=f"%read, %now = {scan}\n{gate}", replace=f"%y, %now = {made}")


_MUL, _GATE = "%y = mul(%opened, %read)", "%y = gate(%read, %opened, fn=sigmoid)"

SCAN_GATE = Fusion(
    name="scan-gate",
    doc="A scan of channels multiplies by the gate as it writes.",
    rules=(
        _gated(
            _STEPS.format(step="%step", more=", bias=@bias?"),
            _STEPS.format(step="%step", more=", bias=@bias, opened=%opened"),
            _MUL,
        ),
        _gated(_LRU.format(""), _LRU.format(", opened=%opened"), _MUL),
        _gated(_WKV.format(""), _WKV.format(", opened=%opened"), _GATE),
    ),
    check=_of_channels,
    candidate=_gates_a_scan,
    wanted="gates a scan of channels",
)
