"""A model's text: its files, and the classes that are wanted of them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The files of a model, as they were published."""

    texts: Mapping[str, str]
    """File name without .py to content."""
    file: str
    """The modeling file, without .py."""
    model_class: str
    config_file: str | None = None
    config_class: str | None = None
    given: str = ""
    """The file, folder or id that the user named."""
