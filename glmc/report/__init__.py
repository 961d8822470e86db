"""``glmc report``: a build as one page.

A page is a :func:`~glmc.report.document.document`, plain data read from the dumps of a
build, put into the template of ``codegen_templates/report``. Nothing imports torch.
"""

from glmc.report.page import page

__all__ = ["page"]
