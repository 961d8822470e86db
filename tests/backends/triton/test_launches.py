"""The launches of a decoded token: as the ops say, and as they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.backends.triton.target import CUDA
from glmc.look.builds import Build
from support import GOLDEN, builds, quantised
from support.kernels import interpreter, kernels_of

# Products: q, k and v; output with residual; gate and up; down with residual.
PRODUCTS = 4
# What attention takes beside them: what prepares its operands, the parts, their sum.
ATTENTION = 3


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel: Any, launches: Counter[str]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.launches[self.kernel.__name__] += 1
        return self.kernel[grid]


def decoded(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Counter[str], int]:
    """Return what one decoded token launches, and the layers of the model."""
    build = builds.import_build(folder)
    model = build.load(checkpoint, device="cpu", dtype="float32")
    launches: Counter[str] = Counter()
    with torch.no_grad(), interpreter():
        model.ops = kernels = kernels_of(build.__name__)
        out = model(input_ids=torch.tensor([[5, 6, 7]]))
        for name, value in vars(kernels).copy().items():
            if name.endswith("_kernel"):
                monkeypatch.setattr(kernels, name, Counted(value, launches))
        model(input_ids=torch.tensor([[8]]), past_key_values=out.past_key_values)
    return launches, len(model.layers)


def check(folder: Path, launches: Counter[str], layers: int) -> None:
    """Five ops a layer, and no more launches than they say."""
    products = {name for name in launches if name.endswith("_gemv_kernel")}
    made = sum(launches.pop(name) for name in products)
    assert made == PRODUCTS * layers + 1  # the head's
    assert sum(launches.values()) <= ATTENTION * layers
    program = Build(folder).program
    (block,) = program.blocks
    said = {op.mnemonic: CUDA.launches([op.mnemonic]) for op in block.ops}
    assert said.pop("qkv_attention") <= ATTENTION
    assert said == {"rms_norm_linear": 1, "linear_add": 1}
    assert len(block.ops) == PRODUCTS + 1


def test_a_decoded_token_launches_few_kernels_a_layer(
    compiled: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compiled(GOLDEN / "chatglm3")
    check(folder, *decoded(folder, GOLDEN / "chatglm3", monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_take_no_more(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = GOLDEN / "chatglm3"
    stored = quantised.quantised(quantised.tensors_of(source), bits)
    checkpoint = quantised.write(
        tmp_path / "q", source, stored, {"quantization_bit": bits}
    )
    folder = compile_model(checkpoint, tmp_path / "build")
    launches, layers = decoded(folder, checkpoint, monkeypatch)
    assert not any("gemm" in name for name in launches)
    check(folder, launches, layers)
