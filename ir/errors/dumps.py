"""GLMC050 to 056: dumps of the IR, and the passes that run on it."""

from glmc.ir.errors.base import GlmcError


class IRSyntaxError(GlmcError):
    """A dump is not IR.

    A dump that was edited must still be the language that glmc prints. The message has
    line and column of the first place where it is not, and what was expected there.
    """

    code = "GLMC050"
    next_step = (
        "Compare the line with its neighbours; `glmc explain OP` shows an op's operands"
        " and attributes."
    )

    def __init__(self, text: str, at: int, what: str) -> None:
        self.line = text.count("\n", 0, at) + 1
        self.column = at - (text.rfind("\n", 0, at) + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {what}")


class DumpRuleError(IRSyntaxError):
    """A dump breaks a rule of the IR.

    It reads well and makes no program: a value is used before it is defined or with
    another type than its op gives, a parameter is not what its recipe makes, a layer
    has no block. The verifier names the first rule that is broken, with line and
    column.
    """

    code = "GLMC051"
    next_step = "Change what the message points at, or undo the edit."


class DumpsDisagreeError(GlmcError):
    """A dump and the Model beside it are not of one build.

    A program holds the ops, and the Model it came from the rest: names, dtypes, the
    tokenizer's ids. Both lie in the folder ir of a build and must be edited together.
    """

    code = "GLMC052"
    next_step = (
        "Start from the dumps of one build, and edit both where they must agree."
    )


class DumpNameError(GlmcError):
    """A name in a dump cannot stand in emitted code.

    Values and parameters of a dump become variables and attributes of the emitted
    module, so a name is an identifier, and none that Python or the module uses.
    """

    code = "GLMC053"
    next_step = "Choose another name in the dump."


class UnknownPassError(GlmcError):
    """There is no pass of that name.

    Passes run in the order of the pipeline and are named as in `glmc inspect BUILD
    --stages`, without the number.
    """

    code = "GLMC054"
    next_step = "`glmc explain` lists the passes."


class FusionSilentError(GlmcError):
    """With --strict: a fusion matched nothing that it could take.

    A fusion that does not happen is slower and never wrong, so without `--strict` it is
    only a line in the ledger, with its reason.
    """

    code = "GLMC055"
    next_step = (
        "Read the reasons in the message. Leave the fusion out with `--disable NAME`,"
        " or compile without `--strict`."
    )


class DecodeDiffersError(GlmcError):
    """With --verify-passes: decoding answers something else than the prompt.

    A shrunken instance of this model read the same tokens in one call, in chunks and
    one by one, with padding and without, and its logits were not the same. What layers
    keep from call to call is wrong, in a dump that was edited or in glmc.
    """

    code = "GLMC088"
    next_step = (
        "Look at the `state` lines of the dump and at what reads and writes them;"
        " report it with the config where the dump is not your own."
    )


class PassChangedResultsError(GlmcError):
    """With --verify-passes: a pass changed what the model computes.

    Each pass was run on a shrunken instance of this model with random weights, and the
    logits after it are not those before it. The fault is glmc's.
    """

    code = "GLMC056"
    next_step = (
        "Compile with `--disable NAME` of the pass, and report it with the config."
    )
