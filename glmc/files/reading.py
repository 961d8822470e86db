"""Read dumps of the IR back: verified, and every mistake with its line."""

from collections.abc import Callable
from typing import TypeVar

from glmc.ir.errors import GlmcError, IRSyntaxError
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.model import Model
from glmc.ir.text import located, parse_model, parse_program
from glmc.ir.verify import VerifyError, verify, verify_model

Dump = TypeVar("Dump", Model, Program)


def read_model(text: str, where: str) -> Model:
    """Read and verify a dump of the Model level; errors begin with ``where``.

    Raises:
        GlmcError: with line, column and what was expected.
    """
    return _read(parse_model, verify_model, text, where)


def read_program(text: str, where: str) -> Program:
    """Read and verify a dump of a stage; errors begin with ``where``.

    Raises:
        GlmcError: with line, column and what was expected.
    """
    return _read(parse_program, verify, text, where)


def lowered(model: Model, where: str) -> Program:
    """Lower a Model that was read; errors begin with ``where``.

    Raises:
        GlmcError: when its parts do not fit.
    """
    try:
        return lower(model)
    except GlmcError as error:
        raise error.within(where) from None


def _read(
    parse: Callable[[str], Dump],
    check: Callable[[Dump], None],
    text: str,
    where: str,
) -> Dump:
    try:
        found = parse(text)
        check(found)
    except IRSyntaxError as error:
        raise error.within(where) from None
    except VerifyError as error:
        raise located(text, error).within(where) from None
    return found
