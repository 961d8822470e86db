"""Norms against the published ones, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from glmc.backends.runtime.ranks import Ranks
from glmc.backends.torch import ops
from glmc.backends.torch.threads import on_ranks

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def sample(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 256), (2, 5, 256), (256,))
    x, y, weight = (torch.randn(*s, generator=generator).to(dtype) for s in shapes)
    return 3 * x, y, weight


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_equals_llama(dtype: torch.dtype) -> None:
    x, _, weight = sample(dtype)
    norm = LlamaRMSNorm(256, eps=1e-5).to(dtype)
    norm.weight.data = weight
    assert torch.equal(ops.rms_norm(x, weight, eps=1e-5), norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_equals_remote_chatglm(dtype: torch.dtype) -> None:
    x, _, weight = sample(dtype)
    wide = x.to(torch.float32)
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
    expected = (weight * scaled).to(dtype)
    assert torch.equal(ops.rms_norm(x, weight, eps=1e-5, weight_in="f32"), expected)


def test_control_the_orders_of_casts_differ_in_bf16() -> None:
    x, _, weight = sample(torch.bfloat16)
    one, other = (
        ops.rms_norm(x, weight, eps=1e-5, weight_in=w) for w in ("input", "f32")
    )
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=2**-7, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm_equals_torch(dtype: torch.dtype, biased: bool) -> None:
    x, y, weight = sample(dtype)
    norm = nn.LayerNorm(256, eps=1e-5, bias=biased).to(dtype)
    norm.weight.data = weight
    bias = norm.bias.data.copy_(y[0, 0]) if biased else None
    assert torch.equal(ops.layer_norm(x, weight, bias=bias, eps=1e-5), norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_residual_norms_are_their_parts(dtype: torch.dtype) -> None:
    x, y, weight = sample(dtype)
    total, normed = ops.add_rms_norm(x, y, weight, eps=1e-6, weight_in="f32")
    assert torch.equal(total, x + y)
    assert torch.equal(normed, ops.rms_norm(x + y, weight, eps=1e-6, weight_in="f32"))
    total, normed = ops.add_layer_norm(x, y, weight, bias=y[0, 0], eps=1e-6)
    assert torch.equal(total, x + y)
    assert torch.equal(normed, ops.layer_norm(x + y, weight, bias=y[0, 0], eps=1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_behind_a_sum_of_all_ranks_are_their_parts(dtype: torch.dtype) -> None:
    x, y, weight = sample(dtype)
    total = x + (y + 2 * y)

    def both(here: Ranks) -> tuple[torch.Tensor, ...]:
        mine = y * (1 + here.rank)
        rms = ops.reduce_add_rms_norm(x, mine, weight, eps=1e-6, weight_in="f32")
        return (
            *rms,
            *ops.reduce_add_layer_norm(x, mine, weight, bias=weight, eps=1e-6),
        )

    for got in on_ranks(2, both):
        assert torch.equal(got[0], total)
        assert torch.equal(got[2], total)
        want = ops.rms_norm(total, weight, eps=1e-6, weight_in="f32")
        assert torch.equal(got[1], want)
        want = nn.functional.layer_norm(total, weight.shape, weight, weight, 1e-6)
        assert torch.equal(got[3], want)
