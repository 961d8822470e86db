"""Read configs of float8 checkpoints: transformers' own and fbgemm's."""

from collections.abc import Mapping
from typing import Literal

from glmc.frontends.quantization.modules import Modules
from glmc.frontends.quantization.scheme import (
    Config,
    Keys,
    Scheme,
    names_in,
)
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import UnsupportedQuantizationError

_ROUNDING = "a scale for rounding activations or the cache, which stay as they are"
ACTIVATIONS: Mapping[str, str] = {
    f"*.{name}": _ROUNDING
    for name in (
        *("input_scale", "activation_scale", "input_scale_ub", "output_scale"),
        *("q_scale", "k_scale", "v_scale", "kv_scale"),
    )
}
"""Tensors that static quantisation of activations leaves in a checkpoint, and why they
may be waived."""

# How activations would be rounded does not matter: glmc leaves them as they are.
FP8 = Keys(
    valued={
        "quant_method": ("fp8",),
        "fmt": (None, "e4m3", "float8_e4m3fn"),
        "activation_scheme": (None, "dynamic", "static"),
        # Scales that are powers of two are numbers like others.
        "scale_fmt": (None, "float", "ue8m0"),
        "modules_to_convert": (None,),
    },
    read=frozenset({"weight_block_size", "modules_to_not_convert", "ignored_layers"}),
    harmless=frozenset({"weight_per_tensor", "act_per_tensor", "dequantize"}),
)
FBGEMM = Keys(
    valued={"quant_method": ("fbgemm_fp8",)},
    read=frozenset({"modules_to_not_convert"}),
    harmless=frozenset({"activation_scale_ub"}),
)


def fp8(config: Config) -> Scheme:
    """Read ``weight_scale_inv`` for each block, or one without
    ``weight_block_size``."""
    FP8.check(config)
    lists = ("modules_to_not_convert", "ignored_layers")
    return Scheme(
        storages=((None, m.BlockQuantized(block=_block(config))),),
        skipped=Modules.of(name for key in lists for name in names_in(config, key)),
        waived=ACTIVATIONS,
        routers=True,
    )


def fbgemm(config: Config) -> Scheme:
    """Read ``weight_scale`` for each row."""
    FBGEMM.check(config)
    return Scheme(
        storages=((None, m.BlockQuantized(block="row", suffix="_scale")),),
        skipped=Modules.of(names_in(config, "modules_to_not_convert")),
        waived=ACTIVATIONS,
        routers=True,
    )


def _block(config: Config) -> tuple[int, int] | Literal["matrix"]:
    value = config.get("weight_block_size")
    if value is None:
        return "matrix"
    sizes = value if isinstance(value, list | tuple) else []
    whole = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool)]
    if len(sizes) != 2 or len(whole) != 2 or not all(0 < n < 1 << 20 for n in whole):
        raise UnsupportedQuantizationError(
            f"quantization_config.weight_block_size is {show(value)}, expected the two"
            " sizes of a block, as in [128, 128], or null for one scale per matrix"
        )
    return whole[0], whole[1]


HARMLESS = {
    "fp8": tuple(sorted(FP8.harmless)),
    "fbgemm": tuple(sorted(FBGEMM.harmless)),
}
"""Keys of each method's config that say nothing of how weights are stored."""
