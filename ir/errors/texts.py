"""GLMC090 to 095: published modeling code that is read as text."""

from glmc.ir.errors.base import GlmcError


class TextUnreadableError(GlmcError):
    """A modeling file cannot be read as text.

    It is missing, too large, not Python, in another repository, or has no class of the
    name that config.json gives. The file is parsed and never imported.
    """

    code = "GLMC090"
    next_step = "Name the modeling file, or the folder with it and its config.json."


class TextRefusedError(GlmcError):
    """A modeling text does something that the reader does not do.

    The reader carries out a closed part of Python over tables of torch functions.
    Files, compilers, attributes of the interpreter and whatever no table has are
    refused, and no `except` of the text catches that.
    """

    code = "GLMC091"
    next_step = "The file and the line say what it was; write the spec by hand instead."


class TextBudgetError(GlmcError):
    """A modeling text ran over its budget.

    Steps, nested calls, elements touched, live bytes, and the sizes of numbers, strings
    and lists are counted before anything is computed, and each has a limit.
    """

    code = "GLMC092"
    next_step = "A text of a language model stays far below; look at the line named."


class TextFailedError(GlmcError):
    """A modeling text raised an error of its own.

    It was read to the line named, and raised there, as Python would for this config and
    these inputs.
    """

    code = "GLMC093"
    next_step = "Compare config.json with what the line named expects."


class TextWeightsError(GlmcError):
    """The tensors of a modeling text are not those of the checkpoint.

    Every tensor that the text makes must be in the checkpoint or tied to one that is,
    with the same shape, and the other way round.
    """

    code = "GLMC094"
    next_step = "Take text, config and weights from the same repository and revision."


class UnprovedError(GlmcError):
    """No spec could be proved equal to a modeling text.

    A spec is accepted when small models of other sizes give the text's logits for a
    prompt, cached decoding, padding and long inputs, when the text decides there as it
    does with the real config, and when every tensor and every config key it reads has a
    place. The message names the rule that does not hold, or the stage where the search
    for what no header shows ended.
    """

    code = "GLMC095"
    next_step = (
        "Draft with `glmc specs new`, mend what the message names, and compare with"
        " `glmc verify … --against-text`."
    )
