"""Products with weights in small floats against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.quantization import dequantize, pack_codes, unpack_codes
from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import coded_use, examples, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

# As for integer codes: in float16 the reference rounds each weight.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = st.sampled_from([torch.float32, torch.float16])


class Case(NamedTuple):
    """A product: any codes, and scales that make weights of about 1 / sqrt(width)."""

    floats: str
    bits: int
    width: int
    rows: int
    group: int = 0
    divided: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        return ("factor",) if self.floats == "nvfp4" else ()

    def use(self, name: str = "quantized_linear", *more: str, **attrs: Any) -> OpUse:
        told = {"floats": self.floats, "divided": self.divided, **attrs}
        sizes = (self.bits, self.rows, self.width)
        given = (*self.operands, *more)
        return coded_use(name, *sizes, *given, group=self.group, **told)

    def made(self, seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """(codes, scale, what else an op is told of them)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.rows, self.width * self.bits // 8)
        codes = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
        if self.bits == 8:  # 127 is no number
            codes = torch.where((codes & 127) == 127, codes & -2, codes)
        count = (self.rows, self.width // self.group) if self.group else (self.rows,)
        size = 1 / ((2.5 if self.bits == 4 else 120) * self.width**0.5)
        scale = (torch.rand(count, generator=generator) + 0.5) * size
        how: dict[str, Any] = {"bits": self.bits, "floats": self.floats}
        if self.floats == "mx":
            power = scale.log2().round().to(torch.int32)
            return codes, (power + 127).to(torch.uint8), how
        if self.floats == "fp8":
            return codes, scale, how
        factor = torch.rand(self.rows, generator=generator) + 0.5
        how["divided"] = self.divided
        how["factor"] = factor * 64 if self.divided else factor / 64
        return codes, (scale * 64).to(torch.float8_e4m3fn), how


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == want.dtype
    tolerance = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


KINDS = [
    ("nvfp4", 4, 16, False),
    ("nvfp4", 4, 16, True),
    ("mx", 4, 32, False),
    ("mx", 8, 32, False),
    ("fp8", 8, 0, False),
    ("fp8", 8, 128, False),
]
NAMES = [f"{f}-{b}-{g}{'-divided' * d}" for f, b, g, d in KINDS]


@st.composite
def cases(draw: st.DrawFn, kind: tuple[str, int, int, bool]) -> Case:
    """Rows that end within a tile; widths of some groups or of many."""
    floats, bits, group, divided = kind
    count = draw(st.integers(1, 8) | st.just(560 // (group or 4)))
    rows = draw(st.integers(1, 70))
    return Case(floats, bits, count * (group or 4), rows, group, divided)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@examples(3)
@given(data=st.data(), dtype=DTYPES, tokens=st.integers(1, 40), seed=st.integers(0, 99))
def test_product(
    interpreted: Interpreted,
    kind: tuple[str, int, int, bool],
    data: st.DataObject,
    dtype: torch.dtype,
    tokens: int,
    seed: int,
) -> None:
    case = data.draw(cases(kind))
    module = interpreted(Case(kind[0], kind[1], 256, 48, kind[2], kind[3]).use())
    codes, scale, how = case.made(seed)
    x = random(1, tokens, case.width, dtype=dtype, seed=seed)
    got = module.quantized_linear(x, codes, scale, **how)
    close(got, reference.quantized_linear(x, codes, scale, **how))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_every_code(interpreted: Interpreted, kind: tuple[str, int, int, bool]) -> None:
    """Each code in each place of a word, read by a row of an identity."""
    floats, bits, group, divided = kind
    case = Case(floats, bits, 128, 32, group, divided)
    codes, scale, how = case.made(7)
    nibbles = (torch.arange(32)[:, None] * 9 + torch.arange(128)[None, :]) % 256
    if bits == 8:
        nibbles = torch.where(nibbles % 128 == 127, 0, nibbles)
    codes = pack_codes(nibbles.to(torch.uint8).view(torch.int8), bits)
    assert torch.equal(unpack_codes(codes, bits) & 15, nibbles & 15)
    module = interpreted(case.use())
    want = dequantize(codes, scale, torch.float32, **how).T
    for rows in (1, 9, 20):
        x = torch.eye(128)[None, 8 : 8 + rows]
        got = module.quantized_linear(x, codes, scale, **how)
        torch.testing.assert_close(got[0], want[8 : 8 + rows], atol=0, rtol=3e-7)


FUSED = [
    ("linear_add", {}),
    ("linear_act", {"fn": "silu", "gated": True}),
    ("rms_norm_linear", {"fn": "silu", "gated": True}),
    ("layer_norm_linear", {}),
]


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[5]])
@pytest.mark.parametrize(("name", "attrs"), FUSED)
def test_fused(
    interpreted: Interpreted,
    name: str,
    attrs: dict[str, Any],
    kind: tuple[str, int, int, bool],
) -> None:
    case = Case(kind[0], kind[1], 128, 24, kind[2], kind[3])
    module = interpreted(case.use(name, "bias", **attrs))
    codes, scale, how = case.made(5)
    how |= attrs | {"scale": scale, "bias": random(24, dtype=torch.float32, seed=4)}
    if "norm" in name:
        how["eps"] = 1e-5
    norm = [random(128, dtype=torch.float32, seed=3)] if "norm" in name else []
    for tokens in (1, 7, 20):
        x = random(1, tokens, 128, dtype=torch.float32, seed=2)
        more = [random(1, tokens, 24, dtype=torch.float32, seed=6)]
        operands = [x, *norm, codes, *(more if name == "linear_add" else [])]
        got = getattr(module, name)(*operands, **how)
        close(got, getattr(reference, name)(*operands, **how))


def test_kinds_side_by_side(interpreted: Interpreted) -> None:
    """float8 beside NVFP4 and integers, as mixed checkpoints have them."""
    made = [Case(*KINDS[0][:2], 256, 33, 16), Case("fp8", 8, 256, 20)]
    integers = coded_use("quantized_linear", 4, 33, 256, group=32)
    module = interpreted(*(case.use() for case in made), integers)
    for case in made:
        codes, scale, how = case.made(3)
        for tokens in (2, 9, 17):
            x = random(1, tokens, 256, dtype=torch.float32, seed=1)
            got = module.quantized_linear(x, codes, scale, **how)
            close(got, reference.quantized_linear(x, codes, scale, **how))


NVFP4 = Case("nvfp4", 4, 592, 17, 16)
MISTAKES = [
    (NVFP4, "9 if BITS == 4", "8 if BITS == 4"),
    (NVFP4, "both >> 16 if plane >= HALF", "both >> 16 if plane > HALF"),
    (NVFP4, "-0x7FFF8000", "0x7FFF8000"),
    (NVFP4, "* 256.0", "* 128.0"),
    (NVFP4, "(octets) * LIFT", "(octets)"),
    (NVFP4, "total = _scaled(total, factor, row, OUT)", "total = total"),
    # Rows of 76 words: a run of four, whose columns lie in two groups.
    (Case("nvfp4", 4, 608, 17, 16), "piece * SAME * RUN", "0"),
    (NVFP4, "total * of_row[None, :]", "total"),
    (Case("nvfp4", 4, 592, 17, 16, True), "total / factor", "total * factor"),
    (Case("mx", 8, 608, 17, 32), "word << 23", "word << 22"),
    (Case("mx", 8, 608, 17, 32), "0x3F803F80", "0x3F003F80"),
    (Case("fp8", 8, 604, 17), "_scaled(total * LIFT", "_scaled(total"),
    (Case("fp8", 8, 604, 17), "BITS) * LIFT).to", "BITS)).to"),
]


def differences(module: ModuleType, case: Case) -> Iterator[float]:
    """From the reference: for one token, a few, and more."""
    codes, scale, how = case.made(5)
    whole = random(17, 2000, dtype=torch.float32, seed=2)
    for tokens in (1, 9, 17):
        x = whole[:tokens, : case.width]
        got = module.quantized_linear(x, codes, scale, **how)
        want = reference.quantized_linear(x, codes, scale, **how)
        yield (got - want).abs().max().item()


@pytest.mark.parametrize("case", list(dict.fromkeys(case for case, _, _ in MISTAKES)))
def test_without_a_mistake_none_is_seen(interpreted: Interpreted, case: Case) -> None:
    assert max(differences(interpreted(case.use()), case)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("case", "right", "wrong"), first(4, MISTAKES))
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, case: Case, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    module = interpreted(case.use(), edit=edit)
    seen = 10 * TOLERANCE[torch.float32]
    assert any(not off < seen for off in differences(module, case))
