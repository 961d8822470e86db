"""What mkdocs runs as it builds the site: generated pages, and links it can follow."""

import re
from typing import Any

from mkdocs.structure.files import File, Files

from glmc.error_pages import error_pages
from glmc.reference import pages


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are written from the code."""
    for name, text in {**pages(), **error_pages()}.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to source files, which are not part of the site, become plain text."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!decisions)[^)]*\)", r"\1", markdown)
