"""Products with quantised weights against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import examples, quantized_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

# The reference rounds each weight to the dtype, the kernel the sum: in float32 these
# are the same but for the order of sums, in float16 a step of rounding apart.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = st.sampled_from([torch.float32, torch.float16])


class Case(NamedTuple):
    """A product: any codes, and scales that make weights of about 1 / sqrt(width)."""

    bits: int
    width: int
    rows: int
    group: int = 0
    zeros: bool = False

    @property
    def use(self) -> OpUse:
        return quantized_use(
            self.bits, self.width, self.rows, group=self.group, zeros=self.zeros
        )

    def operands(self, dtype: torch.dtype, seed: int) -> tuple[tuple[Any, ...], Any]:
        """(codes and scale, zeros by their name where there are any)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.rows, self.width * self.bits // 8)
        codes = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
        groups = (self.rows, self.width // self.group) if self.group else (self.rows,)
        scale = torch.rand(groups, generator=generator) + 0.5
        scale = (scale / (2 ** (self.bits - 2) * self.width**0.5)).to(dtype)
        half = 2 ** (self.bits - 1)
        zeros = torch.randint(-half, half, groups, generator=generator).to(torch.int8)
        return (codes, scale), {"zeros": zeros} if self.zeros else {}


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == want.dtype
    tolerance = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@st.composite
def cases(draw: st.DrawFn, bits: int) -> Case:
    """Rows that end within a tile; groups of a part of a tile, or of several."""
    group = draw(st.sampled_from([0, 0, 16, 32, 64, 128]))
    most = {0: 80, 16: 12, 32: 8, 64: 6, 128: 4}[group]
    count = draw(st.integers(1, most) | st.just(1100 // (group or 8)))
    width = count * (group or 32 // bits)
    zeros = bool(group) and draw(st.booleans())
    return Case(bits, width, draw(st.integers(1, 70)), group, zeros)


@pytest.mark.parametrize("bits", [4, 8])
@examples(10)
@given(
    data=st.data(),
    dtype=DTYPES,
    tokens=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_product(
    interpreted: Interpreted,
    bits: int,
    data: st.DataObject,
    dtype: torch.dtype,
    tokens: int,
    bias: bool,
    seed: int,
) -> None:
    case = data.draw(cases(bits))
    form = {"group": 32 * (case.group > 0), "zeros": case.zeros, "bias": bias}
    module = interpreted(quantized_use(bits, **form), quantized_use(bits, group=32))
    operands, zeros = case.operands(dtype, seed)
    x = random(1, tokens, case.width, dtype=dtype, seed=seed)
    how = {"bits": bits, **zeros}
    if bias:
        how["bias"] = random(case.rows, dtype=dtype, seed=seed + 1)
    got = module.quantized_linear(x, *operands, **how)
    close(got, reference.quantized_linear(x, *operands, **how))


@pytest.mark.slow
def test_all_kinds_in_one_model(interpreted: Interpreted) -> None:
    kinds = [
        Case(4, 64, 20),
        Case(8, 64, 20),
        Case(4, 128, 33, 32, zeros=True),
        Case(8, 128, 33, 64),
    ]
    module = interpreted(*(case.use for case in kinds))
    for case in kinds:
        operands, zeros = case.operands(torch.float32, 3)
        for tokens in (2, 9, 17):
            x = random(1, tokens, case.width, dtype=torch.float32, seed=1)
            how = {"bits": case.bits, **zeros}
            got = module.quantized_linear(x, *operands, **how)
            close(got, reference.quantized_linear(x, *operands, **how))


LAYOUTS = ["transposed", "last token", "every other", "row"]


@pytest.mark.parametrize("layout", first(1, LAYOUTS))
@pytest.mark.parametrize("bits", [4, 8])
def test_strides(interpreted: Interpreted, bits: int, layout: str) -> None:
    whole = random(2, 16, 40, dtype=torch.float32, seed=0)
    x = {
        "last token": whole[:, -1:],
        "every other": whole[:, ::2],
        "transposed": whole.transpose(1, 2),
        "row": whole[:, :1].expand(-1, 9, -1),
    }[layout]
    case = Case(bits, x.shape[-1], 20)
    operands, _ = case.operands(torch.float32, 3)
    got = interpreted(case.use).quantized_linear(x, *operands, bits=bits)
    close(got, reference.quantized_linear(x, *operands, bits=bits))


MISTAKES = [
    (Case(4, 1096, 33), "0x41C00000", "0x41800000"),
    (Case(4, 1096, 33), "word % RUN", "word"),
    (Case(4, 1096, 33), "23 - BITS * (plane + 1)", "22 - BITS * (plane + 1)"),
    (Case(8, 1100, 33), "result = total * gain[None, :]", "result = total"),
    (Case(8, 1100, 33), "total * gain.to(tl.float32)[None, :]", "total"),
    (Case(8, 1100, 33), "total -= above", "total += above"),
    (Case(8, 1100, 33), "word < IN // PLANES - begin", "word < IN // PLANES"),
    (Case(4, 1152, 33, 32), "* RUN) // GROUP", "* RUN) // GROUP // 2"),
    (
        Case(4, 1152, 33, 128, zeros=True),
        "above - point * seen",
        "above + point * seen",
    ),
    (Case(8, 1152, 33, 64, zeros=True), "point += ", "point -= "),
    (Case(4, 1152, 33, 32), "BITS) - point) * gain", "BITS) - point)"),
    (Case(4, 1152, 33, 32), "plane // SAME * SAME", "0"),
    (Case(4, 1152, 33, 32), "piece * SAME * RUN", "0"),
    (Case(4, 1096, 33), "BITS) - (3 << (BITS - 1))", "BITS) - (3 << BITS)"),
]


def differences(module: ModuleType, case: Case) -> Iterator[float]:
    """From the reference: for one token, a few, and more."""
    operands, zeros = case.operands(torch.float32, 5)
    # What follows a row is no zero.
    whole = random(17, 2000, dtype=torch.float32, seed=2)
    for tokens in (1, 9, 17):
        x = whole[:tokens, : case.width]
        how = {"bits": case.bits, **zeros}
        got = module.quantized_linear(x, *operands, **how)
        want = reference.quantized_linear(x, *operands, **how)
        yield (got - want).abs().max().item()


@pytest.mark.parametrize(
    "case", first(1, list(dict.fromkeys(case for case, _, _ in MISTAKES)))
)
def test_without_a_mistake_none_is_seen(interpreted: Interpreted, case: Case) -> None:
    assert max(differences(interpreted(case.use), case)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("case", "right", "wrong"), first(2, MISTAKES))
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, case: Case, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    module = interpreted(case.use, edit=edit)
    seen = 10 * TOLERANCE[torch.float32]
    assert any(not off < seen for off in differences(module, case))
