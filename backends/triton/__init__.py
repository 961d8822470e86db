"""The Triton backend: fusions for GPUs, kernels.py of a build, kernels ahead of time.

Rendering imports neither torch nor triton; only ``aot`` does, when it compiles. What
only asks for the target imports no templates either.
"""
