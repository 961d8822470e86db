"""GLMC025 to 034: mistakes in a spec, which describes an architecture."""

from glmc.ir.errors.base import GlmcError


class SpecSyntaxError(GlmcError):
    """A spec is not YAML, or uses more of YAML than specs do.

    Specs are plain YAML: mappings with each key once and in quotes where it is no
    string, no anchors, no aliases, no tags. What looks alike to a reader then is alike.
    """

    code = "GLMC025"
    next_step = "Mend the line that is named."


class SpecKeyError(GlmcError):
    """A spec has a key or a value that the spec language does not.

    Each section takes the keys of its class in frontends/spec/ and no others, so that
    a misspelt key is an error and not a key without effect.
    """

    code = "GLMC026"
    next_step = (
        'Compare with the page "Keys of a spec" of the documentation, and with a spec'
        " that `glmc specs show NAME` prints."
    )


class SpecInheritanceError(GlmcError):
    """A spec extends a spec that is not there, or itself.

    `extends` names another spec: one of glmc's by its name, or a file beside this one.
    """

    code = "GLMC027"
    next_step = "`glmc specs` lists the names."


class ExpressionError(GlmcError):
    """An expression of a spec cannot be read.

    What begins with `=` is an expression over the keys of the config: a small, total
    language with numbers, strings, comparisons, `if … else …` and a few functions, and
    without attributes, loops or calls into Python.
    """

    code = "GLMC028"
    next_step = "docs/specs.md says what may stand in an expression."


class ExpressionValueError(GlmcError):
    """An expression of a spec has no value for this config.

    It divides by zero, compares a string with a number, reads a key that is missing,
    or gives a value that its place does not take. The message shows what it read.
    """

    code = "GLMC029"
    next_step = (
        "If the config is at fault, set the key with `--set KEY=VALUE`; else guard the"
        " expression, or give the key a value under `defaults`."
    )


class LayoutError(GlmcError):
    """A layout of a weight does not say where everything is.

    A layout names the axes of a stored tensor, as in `(K G D) E`. Every axis needs a
    size, and the layout must have the axes that its slot has.
    """

    code = "GLMC030"
    next_step = "docs/specs.md says how layouts are written."

    def __init__(self, message: str, axis: str | None = None) -> None:
        super().__init__(message)
        self.axis = axis
        """The axis that is missing, where one is."""


class SpecIncompleteError(GlmcError):
    """A spec describes a part of a model without what the part needs.

    An attention needs its projections, a norm its weight, a model its sizes. The slot,
    the size or the value named is missing, given twice, or not one there is.
    """

    code = "GLMC031"
    next_step = "Add the entry; the spec of a similar family shows how it looks."

    def __init__(self, message: str, entry: str = "") -> None:
        super().__init__(message)
        self.entry = entry
        """The keys that lead to what is at fault, with dots; empty if none does."""


class UnknownSpecError(GlmcError):
    """There is no spec of that name.

    A spec is named as `glmc specs` lists it, or by the path of a .yaml file.
    """

    code = "GLMC032"
    next_step = "`glmc specs` lists the names."


class DraftError(GlmcError):
    """A checkpoint does not show enough to draft a spec from it.

    `glmc specs new` reads names and shapes from the headers of the weights and sizes
    from the config. Something that every language model has was not found in them.
    """

    code = "GLMC033"
    next_step = (
        "Name a folder with the weights of a language model, or write the spec by hand"
        " with docs/writing-a-spec.md."
    )
