"""Lines of YAML with remarks: the text of a draft."""

import textwrap
from collections.abc import Mapping

from glmc.authoring.showing import flow, section

DOUBT = "# ?"
_WIDTH = 88


class Sheet:
    """Collects lines; a doubt stands on lines of its own, above what it is about."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def doubt(self, text: str, indent: str = "") -> None:
        if text:
            self._comment(text, f"{indent}{DOUBT} ", f"{indent}#   ")

    def note(self, text: str, indent: str = "") -> None:
        self._comment(text, f"{indent}# ", f"{indent}# ")

    def _comment(self, text: str, start: str, more: str) -> None:
        plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        self.lines += textwrap.wrap(
            plain,
            _WIDTH,
            initial_indent=start,
            subsequent_indent=more,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def gap(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def entry(self, key: str, value: object, doubt: str = "", indent: str = "") -> None:
        """Write ``key: value``, a section on lines of its own."""
        self.doubt(doubt, indent)
        self.lines += section(key, value, indent)

    def short(self, key: str, value: object, doubt: str = "", indent: str = "") -> None:
        """Write ``key: value`` on one line, whatever its width."""
        self.doubt(doubt, indent)
        self.lines.append(f"{indent}{flow(key)}: {flow(value)}")

    def heading(self, key: str, doubt: str = "", indent: str = "") -> None:
        self.doubt(doubt, indent)
        self.lines.append(f"{indent}{key}:")

    def mapping(self, key: str, entries: Mapping[str, object]) -> None:
        """Write a section, left out where it is empty."""
        if entries:
            self.gap()
            self.entry(key, entries)

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip("\n") + "\n"

    @property
    def doubts(self) -> int:
        """The number of places that are marked."""
        return sum(line.lstrip().startswith(DOUBT) for line in self.lines)


def write_match(sheet: Sheet, config: Mapping[str, object]) -> None:
    """Write ``match``: the config's own model type and classes."""
    classes = config.get("architectures")
    sheet.heading("match")
    sheet.short("model_type", [config.get("model_type", "unknown")], indent="  ")
    if isinstance(classes, list):
        sheet.short("architectures", classes, indent="  ")
