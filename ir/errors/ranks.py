"""GLMC110 and 111: models that several ranks compute together."""

from glmc.ir.errors.base import GlmcError


class NotDealtError(GlmcError):
    """A model cannot be dealt to so many ranks.

    Heads, channels and experts go to ranks whole, quantised weights in whole words and
    groups, and every op must say what becomes of a part of its operands. What cannot be
    dealt is refused by name when the model is compiled, and never computed wrongly.
    """

    code = "GLMC110"
    next_step = (
        "Choose a number of ranks that the message names, or add stages with"
        " `--pipeline-parallel`."
    )


class RanksDisagreeError(GlmcError):
    """The ranks that run a build do not belong together.

    A build for N ranks is run by N processes that `torchrun` starts, all with the same
    build and the same checkpoint; hashes of both are compared before anything is
    computed. The message is the build's own, and every rank prints it.
    """

    code = "GLMC111"
    next_step = (
        "`torchrun --nproc-per-node N -m glmc run BUILD …`, with N of the build."
    )
