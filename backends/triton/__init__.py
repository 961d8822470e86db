"""The Triton backend: kernels.py of a build, and its kernels ahead of time.

Rendering imports neither torch nor triton; only ``aot`` does, when it compiles.
"""

from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.registry import aot_specs, places, render_kernels, usual
from glmc.backends.triton.uses import OpUse

__all__ = ["AotSpec", "OpUse", "aot_specs", "places", "render_kernels", "usual"]
