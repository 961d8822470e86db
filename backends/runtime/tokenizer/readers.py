"""Which files vocabularies are read from, and by what."""

from .glm import READERS

__all__ = ["READERS"]
