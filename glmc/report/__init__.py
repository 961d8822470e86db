"""``glmc report``: a build as one page, and one block of it as SVG or Mermaid.

A page is a :func:`~glmc.report.document.document`, plain data read from the dumps of a
build, put into the template of ``codegen_templates/report``. Nothing imports torch.
"""

from glmc.report.mermaid import mermaid
from glmc.report.page import page
from glmc.report.svg import svg

__all__ = ["mermaid", "page", "svg"]
