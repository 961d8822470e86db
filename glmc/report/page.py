"""The report as one HTML file that needs nothing else."""

import json
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmc.look.builds import Build
from glmc.report.document import document

_SCRIPTS = ("roofline.js", "page.js")  # the last begins; it calls the others


def page(build: Build) -> str:
    """Return a page with its style, its script and its data inside."""
    env = Environment(
        loader=PackageLoader("glmc.codegen_templates", "report"),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
    )
    assets = files("glmc.codegen_templates") / "report"
    return env.get_template("page.html.j2").render(
        name=build.model.name,
        spec=build.manifest["spec"],
        dtype=build.model.dtype,
        version=build.manifest["glmc"],
        style=(assets / "page.css").read_text("utf-8"),
        script="".join((assets / name).read_text("utf-8") for name in _SCRIPTS),
        data=_embedded(document(build)),
    )


def _embedded(data: object) -> str:
    """Write JSON that no HTML parser finds an end tag or a comment in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
