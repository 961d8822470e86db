"""Sets of modules, as the lists of quantised checkpoints describe them."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from glmc.frontends.patterns import Pattern


@dataclass(frozen=True)
class Modules:
    """Modules by name, by wildcard and by regular expression.

    A name stands for a module and all within it, wherever in a path it is, or for the
    end of a path; that is the rule of transformers and of what publishes lists for it.
    """

    names: frozenset[str] = frozenset()
    globs: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, listed: Iterable[str]) -> "Modules":
        """Parse a list: entries with ``*`` are wildcards, with ``re:`` before them
        expressions.

        Raises:
            GlmcError: on an expression that glmc does not read.
        """
        listed = list(listed)
        texts = [text for text in listed if not text.startswith("re:")]
        expressions = [text[3:] for text in listed if text.startswith("re:")]
        return cls(
            frozenset(text.strip(".") for text in texts if "*" not in text),
            tuple(text for text in texts if "*" in text),
            tuple(Pattern.parse(text) for text in expressions),
        )

    def __bool__(self) -> bool:
        return bool(self.names or self.globs or self.patterns)

    def hold(self, module: str) -> bool:
        """Tell whether ``module`` is one of them."""
        path = module.split(".")
        places = range(len(path) + 1)
        starts = {".".join(path[a:b]) for a in places for b in places if a < b}
        ends = {module[at:] for at in range(len(module))}
        return not self.names.isdisjoint(starts | ends) or self._match(module)

    def hold_in_all(self, module: str, layers: range) -> bool:
        """Tell whether the module of that name is one of them in every layer.

        ``{i}`` in the name stands for the layer.
        """
        general = Modules(
            globs=tuple(text for text in self.globs if not _numbered(text)),
            patterns=tuple(one for one in self.patterns if not _numbered(one.text)),
        )
        # Most lists say the same of all layers, of which a model may have hundreds.
        if general and general.hold(module.replace("{i}", str(layers.start))):
            return True
        return all(self.hold(module.replace("{i}", str(i))) for i in layers)

    def _match(self, module: str) -> bool:
        if any(fnmatchcase(module, text) for text in self.globs):
            return True
        return any(pattern.begins(module) for pattern in self.patterns)


NO_MODULES = Modules()


def _numbered(text: str) -> bool:
    return any(mark.isdigit() for mark in text)
