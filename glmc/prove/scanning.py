"""``glmc check --values``: scan the values of a checkpoint's tensors."""

from collections.abc import Iterator
from pathlib import Path

import torch

from glmc.backends.runtime.checkpoint import Checkpoint
from glmc.backends.runtime.expected import unexpected
from glmc.backends.runtime.values import are_numbers, fits, is_narrowed
from glmc.compile.accounting import needed
from glmc.compile.checkpoints import told
from glmc.look.builds import Build

_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def scan(build: Build, folders: list[Path]) -> list[str]:
    """Read all tensors; return a sentence for each that holds what it should not.

    Raises:
        GlmcError: when a file cannot be read.
    """
    with told():
        checkpoint = Checkpoint(*folders)
        try:
            return list(_faults(build, checkpoint))
        finally:
            checkpoint.close()


def _faults(build: Build, checkpoint: Checkpoint) -> Iterator[str]:
    model = build.model
    needs = needed(model, build.program, checkpoint.headers)
    bound = {name for name in needs if name in checkpoint.headers}
    rows = (tuple(value for _, value in one) for one in model.expected)
    yield from unexpected(rows, checkpoint, bound, model.optional_prefix, whole=True)
    dtype = _DTYPES[model.dtype]
    for name in sorted(bound):
        tensor = checkpoint.read(name)
        narrowed = is_narrowed([checkpoint.headers[name].dtype or ""], dtype)
        if not are_numbers(tensor, whole=True):
            yield f"{name} holds nan or infinities"
        elif narrowed and not fits(tensor, dtype):
            yield f"{name} holds numbers that are too large for {model.dtype}"
        size = tensor.nbytes
        del tensor
        checkpoint.spend(size)
