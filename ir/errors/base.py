"""The base of all errors of glmc: a code that stays, a paragraph, a next step."""

import inspect
import re
from typing import ClassVar, Self

_CODE = re.compile(r"GLMC\d{3}")
_LONGEST = 3000
"""Characters of a message: what it repeats of a file may be longer than any screen."""
_KINDS: dict[str, type["GlmcError"]] = {}


class GlmcError(Exception):
    """Something a user can mend, told in one paragraph: what, where, why, what next.

    A subclass is one kind of mistake. Its docstring is what ``glmc explain CODE`` and
    the documentation say of it: a first line that names it, then the paragraph.

    Attributes:
        code: ``GLMC`` and three digits; never given to another kind, see
            tests/golden/errors.txt.
        next_step: what to do, for whoever the message alone did not help.
        exit_code: what the command line ends with. Whatever is no GlmcError is a bug
            of ours and keeps its stack trace.
    """

    code: ClassVar[str] = ""
    next_step: ClassVar[str] = ""
    exit_code: ClassVar[int] = 2

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        code = vars(cls).get("code", "")
        if not _CODE.fullmatch(code) or code in _KINDS:
            raise TypeError(f"{cls.__name__} needs a code of its own, not {code!r}")
        if not cls.next_step or not cls.__doc__ or "\n\n" not in cls.__doc__:
            raise TypeError(f"{cls.__name__} needs a title, a paragraph, a next step")
        _KINDS[code] = cls

    def __init__(self, message: str) -> None:
        cut = f"{message[:_LONGEST]}…" if len(message) > _LONGEST else message
        super().__init__(cut)

    def within(self, where: str) -> Self:
        """Put where it happened before the message, ``where: message``, and return the
        error."""
        self.args = (f"{where}: {self}",)
        return self

    def read_by(self, place: str) -> Self:
        """Append the place in the spec that reads what is at fault, and return the
        error."""
        self.args = (f"{self} [{place}]",)
        return self

    @classmethod
    def title(cls) -> str:
        """Return the first line of the docstring, without its full stop."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0].rstrip(".")

    @classmethod
    def about(cls) -> str:
        """Return the paragraph: the meaning of the error, and why glmc stops there."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[2]


def catalogue() -> dict[str, type[GlmcError]]:
    """Return every kind by its code, in the order of the codes."""
    return dict(sorted(_KINDS.items()))
