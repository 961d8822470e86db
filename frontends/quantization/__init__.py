"""How the weights of a model are stored: what a config says about quantisation."""

from glmc.frontends.quantization.quantised import Quantised, harmless_keys

__all__ = ["Quantised", "harmless_keys"]
