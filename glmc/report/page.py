"""The report as one HTML file that needs nothing else."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmc.look.builds import Build
from glmc.report.comparing import comparison
from glmc.report.document import document

#: The last begins; it calls the others.
_ONE = ("base.js", "graph.js", "code.js", "roofline.js", "page.js")
_TWO = ("base.js", "compare.js")


def page(build: Build) -> str:
    """Return the report of a build, with its style, its script and its data inside."""
    return _page("page.html.j2", _ONE, document(build), **_named(build))


def comparing_page(a: Build, b: Build) -> tuple[str, dict[str, Any]]:
    """Return the report of two builds side by side, and its data."""
    found = comparison((a, b))
    return _page("compare.html.j2", _TWO, found, a=_named(a), b=_named(b)), found


def _named(build: Build) -> dict[str, str]:
    return {
        "folder": build.path.name or build.path.resolve().name,
        "name": build.model.name,
        "spec": build.manifest["spec"],
        "dtype": build.model.dtype,
        "version": build.manifest["glmc"],
    }


def _page(template: str, scripts: Sequence[str], data: object, **named: Any) -> str:
    env = Environment(
        loader=PackageLoader("glmc.codegen_templates", "report"),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
    )
    assets = files("glmc.codegen_templates") / "report"
    return env.get_template(template).render(
        **named,
        style=(assets / "page.css").read_text("utf-8"),
        script="".join((assets / name).read_text("utf-8") for name in scripts),
        data=_embedded(data),
    )


def _embedded(data: object) -> str:
    """Write JSON that no HTML parser finds an end tag or a comment in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
