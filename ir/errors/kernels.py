"""GLMC060 to 067: kernels, and the machines they are compiled for."""

from glmc.ir.errors.base import GlmcError


class KernelRefusedError(GlmcError):
    """A kernel of your own was not taken.

    A file given with `--kernel OP=FILE` must define the op as the reference does, and
    give its results on shapes of this model, before it goes into the build.
    """

    code = "GLMC060"
    next_step = "docs/kernels.md shows a kernel from the first line to the check."


class UnknownDeviceError(GlmcError):
    """There is no such target or device.

    `--target` takes what builds are made for, `--aot` chips such as cuda:90, of that
    target, for which kernels can be compiled without a GPU, and `--cost` the names of
    devices whose data sheets glmc knows.
    """

    code = "GLMC061"
    next_step = "Choose one that the message lists."


class NoTritonError(GlmcError):
    """Triton is not installed.

    Kernels are compiled ahead of time by Triton's own compiler. The build itself needs
    it on a GPU only.
    """

    code = "GLMC062"
    next_step = "`pip install triton` on Linux, or compile without `--aot`."


class AheadOfTimeError(GlmcError):
    """Compiling kernels ahead of time broke off.

    The process that runs the compiler ended before it had answered for every kernel,
    or there is no compiler for that machine. The message repeats its last line.
    """

    code = "GLMC063"
    next_step = "Compile without `--aot`: kernels are then compiled on first use."


class UnsoundKernelError(GlmcError):
    """A kernel does not fit the target it was compiled for.

    It spills registers, needs more shared memory than the target has, or was refused by
    the compiler. It would run slowly or not at all, so nothing was written.
    """

    code = "GLMC064"
    next_step = "Leave the target out of `--aot`, and report it with the config."


class KernelDtypeError(GlmcError):
    """There are no kernels for this dtype.

    Kernels compute with float32, float16 and bfloat16. On a CPU the reference takes
    more.
    """

    code = "GLMC065"
    next_step = "Choose one of the dtypes that the message lists."


class KernelShapeError(GlmcError):
    """A kernel cannot be specialised, as a size is not known.

    Kernels are specialised to the sizes of the model, and here one was missing. The
    fault is glmc's.
    """

    code = "GLMC066"
    next_step = "Report it with the config that was compiled."


class KernelMissingError(GlmcError):
    """With --strict: an op has no kernel that takes it.

    On a GPU such an op runs as the torch code of reference.py, which is slower and
    never wrong, so without `--strict` it is only a line in the ledger, with its reason.
    Ops that are torch's by design are not meant: lookups, views, what is made once a
    call.
    """

    code = "GLMC067"
    next_step = (
        "Compile without `--strict`, or give the op a kernel of your own with"
        " `--kernel OP=FILE`."
    )
