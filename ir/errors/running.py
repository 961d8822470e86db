"""GLMC080 to 089: options of a command, and what it runs."""

from glmc.ir.errors.base import GlmcError


class OptionValueError(GlmcError):
    """An option has a value that it does not take.

    The message repeats the option and shows the form that it takes.
    """

    code = "GLMC080"
    next_step = "`glmc COMMAND --help` describes every option."


class OptionsDisagreeError(GlmcError):
    """Options do not go together, or one is missing.

    One of them would be without effect, or says nothing without another. An option that
    does nothing is not accepted in silence.
    """

    code = "GLMC081"
    next_step = "`glmc COMMAND --help` describes every option."


class UnknownNameError(GlmcError):
    """Nothing is known by that name.

    `glmc explain` knows passes, ops, codes of errors, and the config keys that the
    built-in specs read.
    """

    code = "GLMC082"
    next_step = "`glmc explain` without a name lists what there is."


class GenerationError(GlmcError):
    """A model broke off while it ran.

    The build loaded and did not come to an end: the prompt does not fit, memory ran
    out, or a library failed. The message is the build's or the library's own.
    """

    code = "GLMC083"
    next_step = "Try a shorter prompt, another `--dtype`, or `--device cpu`."


class TokenizerUnusableError(GlmcError):
    """There is no tokenizer to use.

    Files of the vocabulary are missing, of another model, in an unknown format, or need
    a library that is not installed. The message is the build's own.
    """

    code = "GLMC084"
    next_step = (
        "Name a folder with `--tokenizer`, install `glmc[tokenizers]`, or pass token"
        " ids with `--prompt-ids`."
    )


class NoReferenceError(GlmcError):
    """There is nothing to hold the build against.

    transformers is not installed, or has no code of its own for this model; code that
    comes with a model is not run.
    """

    code = "GLMC085"
    next_step = "Use golden numbers: `--against golden.safetensors`."


class GoldenFileError(GlmcError):
    """A file is not one of golden numbers.

    Such a file holds, for each scenario, input_ids [B,P] and logits [B,P,V], and maybe
    every layer's output.
    """

    code = "GLMC086"
    next_step = "Write one with `glmc verify … --save FILE`."


class ScenarioError(GlmcError):
    """A build cannot run a scenario of the comparison.

    It stopped at inputs that the reference took. The message is the build's own.
    """

    code = "GLMC087"
    next_step = "`glmc bisect` with the same options finds the op."


class CommandLineError(GlmcError):
    """A command line cannot be understood.

    A command or an option of that name does not exist, an argument that must be there
    is missing, or a value is of another kind than its option takes. Nothing was read
    and nothing was written.
    """

    code = "GLMC089"
    next_step = "`glmc --help` lists the commands, `glmc COMMAND --help` its options."
