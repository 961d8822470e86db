"""Tokenizers from a repository's data files alone; see `tokenizer.load_tokenizer`."""

from .files import TokenizerError
from .tokenizer import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "TokenizerError", "load_tokenizer"]
