"""GLMC040 to 049: checkpoints that cannot be bound to a model."""

from glmc.ir.errors.base import GlmcError


class NoCheckpointError(GlmcError):
    """There are no weights where weights were looked for.

    A checkpoint is a folder or a repository with model.safetensors or
    pytorch_model.bin, or the index of one in several files.
    """

    code = "GLMC040"
    next_step = "Name the folder that holds the weights with `--weights`."


class IncompleteCheckpointError(GlmcError):
    """The index of a checkpoint and its files are not of one piece.

    The index says which file holds which tensor, and the headers of the files say what
    they hold. Where the two differ, files are missing or from another download.
    """

    code = "GLMC041"
    next_step = "Download the checkpoint again, index and files together."


class WeightMapError(GlmcError):
    """The index of a checkpoint has no table of tensors.

    `weight_map` must be an object that gives the name of a file for each tensor.
    """

    code = "GLMC042"
    next_step = "Download the index again."


class UnsafePathError(GlmcError):
    """A checkpoint points out of its own folder.

    A file name in the index, or a link in the folder, leads elsewhere on this machine.
    No real checkpoint does that, and following it could read what is not the model's.
    """

    code = "GLMC043"
    next_step = (
        "Do not load this checkpoint. If you made the links yourself, put the files"
        " in their place."
    )


class DamagedWeightsError(GlmcError):
    """A file of weights is not sound.

    The header of a .safetensors, or the table in a .bin, does not describe the bytes
    that follow, or asks for more than tensors to be loaded. Nothing of it was used;
    glmc does not unpickle.
    """

    code = "GLMC044"
    next_step = "Download the file again; if it stays so, do not trust its source."


class CheckpointMismatchError(GlmcError):
    """A checkpoint is not one of this model.

    Names, shapes or dtypes of its tensors are not those that the model binds: tensors
    are missing, of another size, or ones that nobody asks for.
    """

    code = "GLMC045"
    next_step = (
        "`glmc check BUILD --weights DIR` lists all of them. Compile from the config of"
        " the same repository, with the same `--variant`."
    )


class WeightsUnusableError(GlmcError):
    """A build could not take a checkpoint.

    The loader inside the build refused it; the message is the build's own, which needs
    no glmc and therefore has no codes.
    """

    code = "GLMC046"
    next_step = "`glmc check BUILD --weights DIR` compares the two without loading."


class NotQuantizableError(GlmcError):
    """A checkpoint cannot be quantised this way.

    `glmc quantize` writes int8 or int4 codes with a scale per row, for families whose
    spec has that format, from finite float weights.
    """

    code = "GLMC047"
    next_step = "Give the float checkpoint of a ChatGLM; see docs/quantization.md."


class ConfigDriftError(GlmcError):
    """The config beside the weights is another than the one that was compiled.

    A build computes what its own config said. Weights of a checkpoint with another
    rope, another epsilon or other heads fit by name and shape, and would give other
    tokens than they do elsewhere. Every key that the model is made from is compared; an
    absent key stands for what the spec takes it for, and both spellings of a rope are
    one.
    """

    code = "GLMC048"
    next_step = (
        "Compile from the config.json of this checkpoint, or pass"
        " `--allow-config-drift` if the difference is meant."
    )


class WeightValuesError(GlmcError):
    """The weights are not what they are taken for.

    Tensors that a build does not read because they are always the same, or in order,
    are not so in this checkpoint; or weights are no numbers, or too large for their
    dtype; or an adapter lies beside them, which would change them.
    """

    code = "GLMC049"
    next_step = (
        "The message says what the difference means; `glmc check --values` looks at all"
        " elements."
    )
