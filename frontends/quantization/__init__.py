"""How the weights of a model are stored: what a config says about quantisation."""

from glmc.frontends.quantization.quantised import Quantised

__all__ = ["Quantised"]
