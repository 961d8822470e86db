"""Read configs of mxfp4, as gpt-oss is published: its experts alone."""

from glmc.frontends.quantization.modules import Modules
from glmc.frontends.quantization.scheme import Config, Keys, Scheme, names_in
from glmc.ir import model as m

MXFP4 = Keys(
    valued={"quant_method": ("mxfp4",)},
    read=frozenset({"modules_to_not_convert"}),
    harmless=frozenset({"dequantize"}),
)


def mxfp4(config: Config) -> Scheme:
    """Read ``_blocks`` and ``_scales`` of the experts' stacked matrices."""
    MXFP4.check(config)
    return Scheme(
        storages=((None, m.Mxfp4Quantized()),),
        skipped=Modules.of(names_in(config, "modules_to_not_convert")),
        experts_only=True,
    )


HARMLESS = {"mxfp4": tuple(sorted(MXFP4.harmless))}
"""Keys of each method's config that say nothing of how weights are stored."""
