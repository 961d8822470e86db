"""The activation functions that models and ops may name."""

from typing import Literal

ActivationName = Literal[
    "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "tanh"
]
"""Each is a function of ``ACTIVATIONS`` in ``backends/torch/ops/elementwise.py``, which
is what the name means, and of each backend that computes it in another way."""
