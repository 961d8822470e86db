"""GLMC010 to 023: what a config.json says, and glmc cannot take."""

from collections.abc import Collection

from glmc.ir.errors.base import GlmcError


class UnknownModelTypeError(GlmcError):
    """No spec describes this model type.

    The `model_type` of a config (or the class in `architectures`) names the
    architecture, and every architecture is a spec. A model that merely resembles
    another is not compiled as that one.
    """

    code = "GLMC010"
    next_step = (
        "`glmc specs` lists what there is. If the architecture equals a known one,"
        " name its spec with `--spec`; else `glmc specs new` drafts one."
    )


class UnidentifiedModelError(GlmcError):
    """A config does not say what kind of model it describes.

    Neither `model_type` nor `architectures` holds a name. Configs of tokenizers,
    adapters and pipelines have neither; a model's has at least one.
    """

    code = "GLMC011"
    next_step = "Name the config.json of the model itself."


class UnknownKeyError(GlmcError):
    """A config has a key that its spec says nothing about.

    Every key is consumed, without effect on inference, off by its value, or refused: a
    key that is dropped in silence is how a compiled model comes to differ from the
    published one. The message shows the value, and the known key that is spelt alike.
    """

    code = "GLMC012"
    next_step = (
        "If the key has no effect on inference (training, the tokenizer, the"
        " library), compile with `--ignore-key NAME`; else add it to a spec of your"
        " own."
    )

    def __init__(self, message: str, keys: Collection[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class UnsupportedValueError(GlmcError):
    """A config asks for a computation that glmc does not have.

    The key is known, and of its values only some are supported. Any other value would
    make another model, so nothing is built.
    """

    code = "GLMC013"
    next_step = (
        "See in the message which values are supported. If yours is the same"
        " computation by another name, set it with `--set KEY=VALUE`."
    )


class ConfigContradictionError(GlmcError):
    """A config contradicts itself.

    Two keys for one thing differ, or sizes do not fit each other. glmc does not choose
    between them: one of the two is not how the weights were trained.
    """

    code = "GLMC014"
    next_step = (
        "Find out which is right and say it with `--set KEY=VALUE` (`KEY=null` takes a"
        " key out)."
    )


class ConfigValueError(GlmcError):
    """A value in a config is not of the kind that its key takes.

    A string where a number belongs, a list of the wrong length, a size below one. The
    message ends with the line of the spec that reads the key, where it is known.
    """

    code = "GLMC015"
    next_step = "Correct the value in the config, or set it with `--set KEY=VALUE`."


class AutoMapError(GlmcError):
    """The auto_map of a config is not a table of class names.

    An entry is `FILE.Class`, or `REPOSITORY--FILE.Class`, made of plain identifiers.
    glmc reads the names to identify the model and never runs the files, and it takes
    nothing that could be more than a name.
    """

    code = "GLMC016"
    next_step = "Correct the entry, or take it out: `--set auto_map=null`."


class ForeignClassError(GlmcError):
    """A config names another class than the one its spec describes.

    The model type is known, and `architectures` or `auto_map` names a class that the
    spec does not. It may be the same computation with another head, or code of the
    repository's own that changes it.
    """

    code = "GLMC017"
    next_step = (
        "Compare the classes. If they compute the same, compile with"
        " `--ignore-key architectures` (or `auto_map`)."
    )


class UndecidedVariantError(GlmcError):
    """A config does not tell which variant of its family it is.

    Some families published different computations under one model type. Where the
    config has no key that tells them apart, the user must.
    """

    code = "GLMC018"
    next_step = "Choose with `--variant NAME`; the message lists the names."


class UnsupportedQuantizationError(GlmcError):
    """The checkpoint is quantised in a format that glmc does not read.

    Codes and scales are read by formats that a spec names. Any other would be taken
    for numbers that it is not.
    """

    code = "GLMC019"
    next_step = (
        "Compile the unquantised repository of the model, or one in a supported"
        " format; docs/quantization.md lists them."
    )


class ModelShapeError(GlmcError):
    """The parts of a model are each known, and not in this combination.

    Lowering writes one program for all layers, with one cache and one kind of mask.
    This combination would need a program that glmc does not write.
    """

    code = "GLMC020"
    next_step = "Change the spec as the message says, or report the model."
