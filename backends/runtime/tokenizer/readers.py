"""The readers of vocabulary files, by the file's name."""

from .glm import READERS

__all__ = ["READERS"]
