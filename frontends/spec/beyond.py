"""Known model types that no spec can express, and the parts of them that are
missing."""

from collections.abc import Mapping

_HAS: Mapping[str, str] = {
    "gated delta rule layers": "qwen4_exp qwen4_exp_text",
    "gated delta rule layers with short convolutions": "kimi_k3 kimi_linear",
    "linear attention layers (Lightning Attention)": "bailing_hybrid minimax",
    "recurrent layers": "recurrent_gemma rwkv xlstm",
    "stacks of layers that run several times for a token": "hrm_text",
    "short convolutions": "inkling2_text inkling_text lfm2_moe lfm3 zaya",
    "state space layers (Mamba)": (
        "falcon_h1 falcon_mamba jamba mamba nemotron_h zamba zamba2"
    ),
}
BEYOND_ATTENTION: Mapping[str, str] = {
    name: what for what, names in _HAS.items() for name in names.split()
}
"""Type to what it has beside attention and feed-forwards in one residual stream."""
