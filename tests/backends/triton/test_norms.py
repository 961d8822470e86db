"""Norm kernels against the reference, interpreted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import examples, norm_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
DTYPES = st.sampled_from([torch.float32, torch.float16])
ROWS = st.tuples(st.integers(1, 3), st.integers(1, 4))
WIDTHS = st.integers(1, 70) | st.sampled_from([128, 300, 1025])
few = examples(12)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == want.dtype
    tolerance = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("weight_in", ["input", "f32"])
@few
@given(dtype=DTYPES, rows=ROWS, width=WIDTHS, seed=st.integers(0, 99))
def test_rms_norm(
    interpreted: Interpreted,
    weight_in: str,
    dtype: torch.dtype,
    rows: tuple[int, int],
    width: int,
    seed: int,
) -> None:
    module = interpreted(norm_use("rms_norm", weight_in=weight_in))
    x = random(*rows, width, dtype=dtype, seed=seed)
    weight = random(width, dtype=dtype, seed=seed + 1)
    attrs = {"eps": 1e-5, "weight_in": weight_in}
    close(module.rms_norm(x, weight, **attrs), reference.rms_norm(x, weight, **attrs))


@pytest.mark.parametrize("weight_in", ["input", "f32"])
@few
@given(dtype=DTYPES, rows=ROWS, width=WIDTHS, seed=st.integers(0, 99))
def test_add_rms_norm(
    interpreted: Interpreted,
    weight_in: str,
    dtype: torch.dtype,
    rows: tuple[int, int],
    width: int,
    seed: int,
) -> None:
    module = interpreted(norm_use("add_rms_norm", weight_in=weight_in))
    x, y = (random(*rows, width, dtype=dtype, seed=seed + n) for n in range(2))
    weight = random(width, dtype=dtype, seed=seed + 2)
    attrs = {"eps": 1e-6, "weight_in": weight_in}
    got = module.add_rms_norm(x, y, weight, **attrs)
    for ours, want in zip(
        got, reference.add_rms_norm(x, y, weight, **attrs), strict=True
    ):
        close(ours, want)


@pytest.mark.parametrize("name", ["layer_norm", "add_layer_norm"])
@pytest.mark.parametrize("bias", [False, True])
@few
@given(dtype=DTYPES, rows=ROWS, width=WIDTHS, seed=st.integers(0, 99))
def test_layer_norm(
    interpreted: Interpreted,
    name: str,
    bias: bool,
    dtype: torch.dtype,
    rows: tuple[int, int],
    width: int,
    seed: int,
) -> None:
    module = interpreted(norm_use(name, bias=bias))
    count = 2 if name == "add_layer_norm" else 1
    inputs = [random(*rows, width, dtype=dtype, seed=seed + n) for n in range(count)]
    weight, shift = (random(width, dtype=dtype, seed=seed + n) for n in (2, 3))
    attrs = {"eps": 1e-5, **({"bias": shift} if bias else {})}
    got = getattr(module, name)(*inputs, weight, **attrs)
    want = getattr(reference, name)(*inputs, weight, **attrs)
    if count == 1:
        got, want = (got,), (want,)
    for ours, theirs in zip(got, want, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize(
    ("use", "rest"),
    [
        (norm_use("reduce_add_rms_norm", weight_in="f32"), "add_rms_norm"),
        (norm_use("reduce_add_layer_norm", bias=True), "add_layer_norm"),
    ],
)
def test_a_sum_of_all_ranks_and_the_kernel_of_the_rest(
    interpreted: Interpreted, use: OpUse, rest: str
) -> None:
    module = interpreted(use)
    ranks = importlib.import_module(".ranks", module.__package__)

    class Three(ranks.Ranks):  # type: ignore[misc, name-defined]
        """A rank among three that have the same summand."""

        def sum(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

    x, y = (random(2, 3, 64, dtype=torch.float32, seed=n) for n in range(2))
    weight, bias = (random(64, dtype=torch.float32, seed=n) for n in (2, 3))
    attrs = use.attrs | ({"bias": bias} if use.operands else {})
    with ranks.use(Three(0, 3)):
        got = getattr(module, use.name)(x, y, weight, **attrs)
    want = getattr(reference, rest)(x, 3 * y, weight, **attrs)
    for ours, theirs in zip(got, want, strict=True):
        close(ours, theirs)
    assert not torch.allclose(got[0], x + y), "a rank's own summand"


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "layer_norm"])
@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_are_offsets_from_1(
    interpreted: Interpreted, name: str, beside: bool
) -> None:
    others = [norm_use(name)] if beside else []
    module = interpreted(norm_use(name, unit_offset=True), *others)
    x = random(3, 70, dtype=torch.float16, seed=0)
    weight = random(70, dtype=torch.float16, seed=1)
    inputs = [x, x] if name.startswith("add") else [x]
    for unit_offset in (True, False)[: 1 + beside]:
        attrs = {"eps": 1e-5, "unit_offset": unit_offset}
        got = getattr(module, name)(*inputs, weight, **attrs)
        want = getattr(reference, name)(*inputs, weight, **attrs)
        pairs = zip(got, want, strict=True) if len(inputs) == 2 else [(got, want)]
        for ours, theirs in pairs:
            close(ours, theirs)


def test_layers_that_differ_share_a_kernel(interpreted: Interpreted) -> None:
    module = interpreted(
        norm_use("rms_norm"),
        norm_use("rms_norm", weight_in="f32"),
        norm_use("layer_norm"),
        norm_use("layer_norm", bias=True),
    )
    x = random(3, 20, dtype=torch.float16, seed=0)
    weight = random(20, dtype=torch.float16, seed=1)
    for weight_in in ("input", "f32"):
        attrs = {"eps": 1e-5, "weight_in": weight_in}
        got = module.rms_norm(x, weight, **attrs)
        close(got, reference.rms_norm(x, weight, **attrs))
    for bias in (None, weight):
        got = module.layer_norm(x, weight, bias=bias, eps=1e-5)
        close(got, reference.layer_norm(x, weight, bias=bias, eps=1e-5))


@pytest.mark.parametrize("layout", ["last token", "every other", "transposed", "row"])
def test_strides(interpreted: Interpreted, layout: str) -> None:
    module = interpreted(norm_use("add_rms_norm"))
    whole = random(2, 6, 40, dtype=torch.float32, seed=0)
    x = {
        "last token": whole[:, -1:],
        "every other": whole[:, ::2],
        "transposed": whole.transpose(1, 2),
        "row": whole[:, :1].expand(-1, 4, -1),
    }[layout]
    y = torch.ones_like(x)
    weight = random(x.shape[-1], dtype=torch.float32, seed=1)
    got = module.add_rms_norm(x, y, weight, eps=1e-5)
    want = reference.add_rms_norm(x, y, weight, eps=1e-5)
    for ours, theirs in zip(got, want, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize(
    ("right", "wrong"),
    first(
        1,
        [
            ("left + right", "left - right"),
            ("/ E + EPS", "/ BLOCK + EPS"),
            ("row * y_row", "row * x_row"),
            ("(normal.to(dtype).to(tl.float32) * weight)", "(normal * weight)"),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    x = random(3, 70, dtype=torch.float16, seed=0)
    y = random(3, 90, dtype=torch.float16, seed=1)[:, :70]
    weight = random(70, dtype=torch.float16, seed=2)
    _, want = reference.add_rms_norm(x, y, weight, eps=1e-5)
    use = norm_use("add_rms_norm")
    _, got = interpreted(use).add_rms_norm(x, y, weight, eps=1e-5)
    assert torch.equal(got, want)
    _, got = interpreted(use, edit=edit).add_rms_norm(x, y, weight, eps=1e-5)
    assert not torch.equal(got, want)
