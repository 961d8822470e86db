"""The text form of the IR: ``parse(print(x)) == x`` for models and programs.

The notation is also the one fusions are written in (:mod:`glmc.ir.passes.rewrite`).
"""

from glmc.ir.text.locate import located
from glmc.ir.text.printer import print_model, print_program
from glmc.ir.text.reader import parse_model, parse_program

__all__ = [
    "located",
    "parse_model",
    "parse_program",
    "print_model",
    "print_program",
]
