"""GLMC112: models that another engine is to run."""

from glmc.ir.errors.base import GlmcError


class NotServedError(GlmcError):
    """An engine has no counterpart for something that the model does.

    An engine brings the attention, the cache and the scheduler, and calls the model
    with the tokens of many requests in one row. What a layer keeps must be something
    that the engine can keep, and what an op reads of other tokens must come from there.
    Anything else is refused by name when the model is compiled: it would mix requests
    with one another.
    """

    code = "GLMC112"
    next_step = (
        "Leave `--engine` out: the build then runs by itself, and as a model of"
        " transformers."
    )
