"""glmc: a declarative model-building compiler.

``compile_model("config.json", "build")`` writes a self-contained package; the command
``glmc`` does the same and more.
"""

from typing import TYPE_CHECKING, Any

from glmc.version import __version__

if TYPE_CHECKING:
    from glmc.compile.driver import compile_model
    from glmc.ir.errors import GlmcError

__all__ = ["GlmcError", "__version__", "compile_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``glmc --help`` should not wait for the compiler."""
    if name == "compile_model":
        from glmc.compile.driver import compile_model

        return compile_model
    if name == "GlmcError":
        from glmc.ir.errors import GlmcError

        return GlmcError
    raise AttributeError(f"module 'glmc' has no attribute {name!r}")
