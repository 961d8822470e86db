"""Rotary position embedding: tables of cos and sin, and the rotation.

Each `*_frequencies` function repeats the fp32 operations of transformers 5.23
(`modeling_rope_utils.py`) in the same order, because a last-bit difference in an
inverse frequency grows with the position: at 40k it is worth 1e-3 in a cosine. They
run on the CPU, as transformers does, and once for each set of arguments.

All tables take `pos` int64 [B, T] (`rope_table_sections`: [B, S, T]) and return
`cos, sin`, both fp32 [B, T, dim / 2].
"""

import functools
import math
from collections.abc import Callable

import torch

from glmc.backends.runtime.checks import tracing


def constant(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Keeps the last few tensors that `make` computed.

    A program that is being recorded computes its own: what it is given has no values,
    and later calls must not find that. Few, because a dynamic rope has another table
    with every token.
    """
    kept = functools.lru_cache(maxsize=32)(make)

    @functools.wraps(make)
    def get(*given: object) -> torch.Tensor:
        return make(*given) if tracing() else kept(*given)

    return get


def rope_table(
    pos: torch.Tensor, *, dim: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the unscaled table: pair i of `dim / 2` turns by
    `pos * theta ** (-2i / dim)`."""
    return cos_sin(pos, default_frequencies(dim, theta, pos.device))


def rope_table_linear(
    pos: torch.Tensor, *, dim: int, theta: float, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the table of position interpolation: every frequency divided by
    `factor`."""
    return cos_sin(pos, linear_frequencies(dim, theta, factor, pos.device))


def rope_table_dynamic(
    pos: torch.Tensor, *, dim: int, theta: float, factor: float, max_positions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """NTK scaling by the largest position in `pos`, once it passes `max_positions`."""
    length = max(int(pos.max()) + 1, max_positions)
    inv_freq = dynamic_frequencies(
        dim, theta, factor, max_positions, length, pos.device
    )
    return cos_sin(pos, inv_freq)


def rope_table_llama3(
    pos: torch.Tensor,
    *,
    dim: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Llama 3.1: low frequencies divided by `factor`, a ramp up to the kept ones."""
    inv_freq = llama3_frequencies(
        dim,
        theta,
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_positions,
        pos.device,
    )
    return cos_sin(pos, inv_freq)


def rope_table_yarn(
    pos: torch.Tensor,
    *,
    dim: int,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original_max_positions: int,
    attention_factor: float,
    truncate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """YaRN (https://arxiv.org/abs/2309.00071); the table carries `attention_factor`."""
    inv_freq = yarn_frequencies(
        dim,
        theta,
        factor,
        beta_fast,
        beta_slow,
        original_max_positions,
        truncate,
        pos.device,
    )
    return cos_sin(pos, inv_freq, attention_factor)


def rope_table_longrope(
    pos: torch.Tensor,
    *,
    dim: int,
    theta: float,
    short_factor: tuple[float, ...],
    long_factor: tuple[float, ...],
    original_max_positions: int,
    attention_factor: float,
    long_attention_factor: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """LongRoPE: one divisor a frequency, the long set as soon as any position of the
    call lies beyond `original_max_positions`; the table carries `attention_factor`, or
    with the long set `long_attention_factor` where that is given."""
    short = longrope_frequencies(dim, theta, tuple(short_factor), pos.device)
    long = longrope_frequencies(dim, theta, tuple(long_factor), pos.device)
    # Chosen on the device: a Python `if` would wait for the GPU at every step.
    beyond = pos.max() + 1 > original_max_positions
    inv_freq = torch.where(beyond, long, short)
    if long_attention_factor is None:
        return cos_sin(pos, inv_freq, attention_factor)
    cos, sin = cos_sin(pos, inv_freq)
    factor = torch.where(beyond, long_attention_factor, attention_factor)
    return cos * factor, sin * factor


def rope_table_proportional(
    pos: torch.Tensor, *, dim: int, theta: float, turning: int, factor: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gemma 4: the first `turning` frequencies of the whole head over `factor`, and 0
    for the other pairs, which stand still."""
    inv_freq = proportional_frequencies(dim, theta, turning, factor, pos.device)
    return cos_sin(pos, inv_freq)


def rope_table_sections(
    pos: torch.Tensor, *, dim: int, theta: float, frequencies: str = "f32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tables of the S streams of `pos` [B, S, T], each of `dim / S`
    channels, side by side. `frequencies` "f16" rounds them to fp16, as ChatGLM-6B's
    buffer holds them even when the model computes in fp32."""
    inv_freq = default_frequencies(dim // pos.shape[1], theta, pos.device)
    if frequencies == "f16":
        inv_freq = inv_freq.half().float()
    cos, sin = cos_sin(pos, inv_freq)
    return cos.transpose(1, 2).flatten(2), sin.transpose(1, 2).flatten(2)


def rope(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    style: str,
    sections: int = 1,
    first: int = 0,
    reverse: bool = False,
) -> torch.Tensor:
    """Rotates `2 * cos.shape[-1]` channels of `x` [B, T, n, D], from `first` on.

    Channel i is paired with i + R/2 in style "half", with its neighbour in style
    "interleaved"; channels beyond the rotary ones pass; `reverse` turns by negative
    angles. Several `sections` cut the rotary channels and the table into equal parts
    that turn on their own. As in transformers, the tables are rounded to the dtype of
    `x` first and the rotation happens in it.
    """
    if first:
        turned = rope(
            x[..., first:], cos, sin, style=style, sections=sections, reverse=reverse
        )
        return torch.cat((x[..., :first], turned), dim=-1)
    if sections > 1:
        width = 2 * cos.shape[-1] // sections
        parts = x[..., : width * sections].chunk(sections, -1)
        tables = (parts, cos.chunk(sections, -1), sin.chunk(sections, -1))
        rotated = [
            rope(part, c, s, style=style) for part, c, s in zip(*tables, strict=True)
        ]
        return torch.cat((*rotated, x[..., width * sections :]), dim=-1)
    rotary = 2 * cos.shape[-1]
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    if reverse:
        sin = -sin
    turned, passed = x[..., :rotary], x[..., rotary:]
    if style == "half":
        a, b = turned.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin, passed), dim=-1)
    a, b = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((pairs.flatten(-2), passed), dim=-1)


def cos_sin(
    pos: torch.Tensor, inv_freq: torch.Tensor, attention_factor: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the angles `pos * inv_freq`, in fp32."""
    angles = pos.unsqueeze(-1).float() * inv_freq
    cos, sin = angles.cos(), angles.sin()
    if attention_factor == 1.0:
        return cos, sin
    return cos * attention_factor, sin * attention_factor


def exponents(dim: int) -> torch.Tensor:
    """`2i / dim` for each pair i. On the CPU and in fp32, like all that follows from
    it, because a last bit here is worth 1e-3 in a cosine at position 40k."""
    return torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim


@constant
def default_frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    """`theta ** (-2i / dim)`."""
    return (1.0 / theta ** exponents(dim)).to(device)


@constant
def linear_frequencies(
    dim: int, theta: float, factor: float, device: torch.device
) -> torch.Tensor:
    """transformers' `linear`."""
    return (1.0 / theta ** exponents(dim) / factor).to(device)


@constant
def proportional_frequencies(
    dim: int, theta: float, turning: int, factor: float, device: torch.device
) -> torch.Tensor:
    """transformers' `proportional`."""
    inv_freq = 1.0 / theta ** exponents(dim)
    inv_freq[turning:] = 0.0
    return (inv_freq / factor).to(device)


@constant
def dynamic_frequencies(
    dim: int,
    theta: float,
    factor: float,
    max_positions: int,
    length: int,
    device: torch.device,
) -> torch.Tensor:
    """transformers' `dynamic`, for a sequence of `length` tokens."""
    grown: int | torch.Tensor = length
    if length > max_positions:
        # transformers passes the grown length as a tensor, so this part is fp32 there.
        grown = torch.tensor(length, device="cpu")
    stretch = (factor * grown / max_positions) - (factor - 1)
    base = theta * stretch ** (dim / (dim - 2))
    return (1.0 / base ** exponents(dim)).to(device)


@constant
def llama3_frequencies(
    dim: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
    device: torch.device,
) -> torch.Tensor:
    """transformers' `llama3`."""
    inv_freq = 1.0 / theta ** exponents(dim)
    wavelength = 2 * math.pi / inv_freq
    is_long = wavelength > original_max_positions / low_freq_factor
    is_short = wavelength < original_max_positions / high_freq_factor
    ramp = (original_max_positions / wavelength - low_freq_factor) / (
        high_freq_factor - low_freq_factor
    )
    smoothed = (1 - ramp) * inv_freq / factor + ramp * inv_freq
    scaled = torch.where(is_long, inv_freq / factor, inv_freq)
    return torch.where(~is_short & ~is_long, smoothed, scaled).to(device)


@constant
def yarn_frequencies(
    dim: int,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original_max_positions: int,
    truncate: bool,
    device: torch.device,
) -> torch.Tensor:
    """transformers' `yarn`: interpolated below `beta_slow` turns over the original
    context, kept above `beta_fast` turns, a linear ramp between."""
    spread = theta ** exponents(dim)
    low, high = (
        dim
        * math.log(original_max_positions / (turns * 2 * math.pi))
        / (2 * math.log(theta))
        for turns in (beta_fast, beta_slow)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as published, against a division by zero
    steps = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
    kept = 1 - ((steps - low) / (high - low)).clamp(0, 1)
    inv_freq = (1.0 / (factor * spread)) * (1 - kept) + (1.0 / spread) * kept
    return inv_freq.to(device)


@constant
def longrope_frequencies(
    dim: int, theta: float, divisors: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """transformers' `longrope` for one of its two sets of `divisors`."""
    scale = torch.tensor(divisors, dtype=torch.float32, device="cpu")
    return (1.0 / (scale * theta ** exponents(dim))).to(device)
