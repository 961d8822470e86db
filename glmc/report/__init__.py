"""``glmc report``: a build as one page, or two side by side.

A page is a :func:`~glmc.report.document.document` or a
:func:`~glmc.report.comparing.comparison`, plain data read from the dumps of builds, put
into a template of ``codegen_templates/report``. Nothing imports torch.
"""

from glmc.report.page import comparing_page, page

__all__ = ["comparing_page", "page"]
