"""A vocabulary, and what the model that it belongs to expects of its inputs."""

from collections.abc import Callable
from dataclasses import dataclass

from .batch import Positions, counted
from .codec import Codec
from .messages import Chat


@dataclass(frozen=True)
class Profile:
    """A vocabulary and what the model it belongs to expects of its inputs."""

    codec: Codec
    variant: str | None
    eos: tuple[int, ...]
    pad: int
    positions: Positions = counted
    chat: Chat | None = None
    #: Refuses a number of rows, and whose they are, that is not this vocabulary's.
    check_rows: Callable[[int, str], None] | None = None
    side: str = "left"
    typed: bool = False
    #: What tokenizer_config.json says of any tokenizer.
    longest: int | None = None
    cut_side: str = "right"
    clean: bool = False
