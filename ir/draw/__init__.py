"""Graphs as pictures: SVG, and Mermaid for documents that draw it."""

from glmc.ir.draw.mermaid import mermaid
from glmc.ir.draw.svg import svg

__all__ = ["mermaid", "svg"]
