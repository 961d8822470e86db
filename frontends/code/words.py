"""Lists of names, written as text."""


def words(text: str) -> tuple[str, ...]:
    """Split a text into names, which are separated by spaces and line ends."""
    return tuple(text.split())
