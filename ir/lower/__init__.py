"""Lower a Model to a Program: every block becomes a graph of plain ops.

Nothing is fused here. The graph says what the model means; the passes change how.
"""

from glmc.ir.lower.program import lower

__all__ = ["lower"]
