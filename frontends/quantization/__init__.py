"""Read what a config says about quantisation: how weights are stored."""

from glmc.frontends.quantization.quantised import Quantised, harmless_keys

__all__ = ["Quantised", "harmless_keys"]
