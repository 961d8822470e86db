"""Chat templates written with the constructs of the published families.

None of them is a published one: they are as the families' are built (whitespace
control, namespaces, macros, tools as JSON, reasoning that is cut out), and shorter.
Each is a file of its name in the folder `templates`.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = {file.stem: file.read_text() for file in sorted(FOLDER.glob("*.jinja"))}
QWEN, RAG = TEMPLATES["qwen"], TEMPLATES["rag"]
GENERATION = TEMPLATES["generation"]
