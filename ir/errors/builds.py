"""GLMC070 to 077: builds on disk, and what is asked of them."""

from glmc.ir.errors.base import GlmcError


class NotABuildError(GlmcError):
    """A folder is not a build of glmc.

    A build is known by its manifest.json. A file of it that is missing or unreadable
    makes it none either.
    """

    code = "GLMC070"
    next_step = "Make one with `glmc compile CONFIG -o DIR`."


class EditedBuildError(GlmcError):
    """Compiling would overwrite what you wrote.

    The output folder is no build, or files of the build in it are not as glmc left
    them. An edit is never lost in silence.
    """

    code = "GLMC071"
    next_step = (
        "Choose another `-o`, or say `--force`, which keeps the old folder beside the"
        " new one as NAME.bak."
    )


class OutputExistsError(GlmcError):
    """The output already exists.

    The command writes something new and found something old in its place.
    """

    code = "GLMC072"
    next_step = "Choose another `-o`, or remove what is there."


class OutputError(GlmcError):
    """A file cannot be written.

    The operating system refused the name or the folder, or had no room left; the
    message repeats what it said.
    """

    code = "GLMC073"
    next_step = "Choose another `-o`, or see to space and permissions."


class NotInBuildError(GlmcError):
    """A build has no stage, part or op of that name.

    Stages are named as the files in its folder ir, parts are stem, the blocks and head,
    and ops and values as in the dump of the last stage.
    """

    code = "GLMC074"
    next_step = (
        "`glmc inspect BUILD --stages` lists the stages, `--stage NAME` shows one."
    )


class UntraceableError(GlmcError):
    """There is no trace from there.

    A trace starts from a line of model.py that does something (an op of a forward, a
    parameter of an __init__) or from a key of the config.
    """

    code = "GLMC075"
    next_step = (
        "Name such a line as `model.py:LINE`, or a key that `glmc inspect BUILD --keys`"
        " lists."
    )


class EncoderError(GlmcError):
    """An encoder generates nothing.

    Encoders answer all tokens of a text at once and have no next token, so `run` and
    `chat` are not for them.
    """

    code = "GLMC076"
    next_step = "Call it from Python: `build.load(DIR)(input_ids, attention_mask)`."


class ForeignBuildError(GlmcError):
    """The build cannot be held against this checkpoint's model.

    Layers are compared one by one, so both must have the same number of them.
    """

    code = "GLMC077"
    next_step = "Compile from the checkpoint's own config, without `--set num_layers`."


class NotExportableError(GlmcError):
    """A build cannot be exported this way.

    `glmc export` writes a repository of flat files that transformers takes along, or
    with `--wheel` a package with a name that Python imports.
    """

    code = "GLMC078"
    next_step = "See docs/exporting.md for what each way takes."
