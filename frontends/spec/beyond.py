"""Known model types that no spec can express, and the parts of them that are
missing."""

from collections.abc import Mapping

_HAS: Mapping[str, str] = {
    "gated delta rule layers": "qwen4_exp qwen4_exp_text",
    "stacks of layers that run several times for a token": "hrm_text",
    "short convolutions": "inkling2_text inkling_text zaya",
}
BEYOND_ATTENTION: Mapping[str, str] = {
    name: what for what, names in _HAS.items() for name in names.split()
}
"""Type to what it has beside attention and feed-forwards in one residual stream."""
