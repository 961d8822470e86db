"""Passes from Program to Program, and a ledger of what each did and did not do."""

from glmc.ir.ledger import Entry
from glmc.ir.passes.pipeline import Pass, Stage, general, named, run

__all__ = ["Entry", "Pass", "Stage", "general", "named", "run"]
