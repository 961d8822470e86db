"""Errors about a checkpoint, told in a sentence."""

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "absent",  # there are no weights
    "incomplete",  # index and files are not of one piece
    "index",  # the index has no table of tensors
    "path",  # something leads out of the folder
    "damaged",  # a file is not sound
    "unreadable",  # a file cannot be read
    "large",  # a file is larger than any of its kind
    "json",  # a file is not the JSON that it should be
    "config",  # the config is another than that of the build
    "values",  # tensors hold what they should not
    "mismatch",  # the tensors are not those of the model
]


class WeightsError(ValueError):
    """A checkpoint that cannot be loaded: what, where, and what to do about it.

    `kind` says which rule it breaks.
    """

    def __init__(self, message: str, kind: Kind = "mismatch"):
        super().__init__(message)
        self.kind: Kind = kind


def brief(value: object, most: int = 80) -> str:
    """Shows a value in a message, in one line: of a long one the beginning."""
    text = value if isinstance(value, str) else repr(value)
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 1]}…"
