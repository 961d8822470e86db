"""Lists of names, written as text."""


def words(text: str) -> tuple[str, ...]:
    """The names in a text, which are separated by spaces and line ends."""
    return tuple(text.split())
