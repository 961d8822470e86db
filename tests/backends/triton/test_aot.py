"""Every kernel becomes a binary for real GPUs, without one, and none spills."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import cache

import pytest

from glmc.backends.triton import tiles
from glmc.backends.triton.aot import Ahead, Compiled, compile_ahead, files, table
from glmc.backends.triton.registry import aot_specs
from glmc.backends.triton.sketch import DTYPES
from glmc.backends.triton.targets import LIMITS
from glmc.backends.triton.uses import OpUse
from glmc.ir.errors import GlmcError
from support.kernels import (
    attention_use,
    coded_use,
    elementwise_use,
    full_use,
    latent_uses,
    moe_use,
    norm_use,
    pointwise_use,
    product_use,
    qkv_use,
    quantized_use,
    render,
    rope_use,
    router_use,
    write_use,
)
from support.mixing import MIXERS, conv_use, gated_use
from support.scanning import (
    block_use,
    lru,
    memory_use,
    scan_use,
    selective,
    shift_use,
    steady_use,
    wkv,
)

TARGETS = ("cuda:80", "cuda:90")
EVERY = (*TARGETS, "cuda:100")
# What a program may take on every GPU from sm_80 on: consumer chips have the least.
SHARED = 99 * 1024

SILU = {"fn": "silu", "gated": True}

DELTA = replace(MIXERS["delta"], groups=16, share=2, key=128, value=128)
CHANNELS = replace(MIXERS["channels"], groups=32, key=128, value=128)
STATES = replace(MIXERS["sum"], groups=8, share=16, key=128, value=64)

NORMS = [norm_use("rms_norm", 4096), norm_use("add_rms_norm", 4096)]
SHIFTED = [
    norm_use("layer_norm", 768, bias=True),
    norm_use("add_layer_norm", 12288, bias=True),
]
MODELS: dict[str, tuple[str, list[OpUse], tuple[str, ...]]] = {
    "chatglm3": (
        "bf16",
        [
            *NORMS,
            qkv_use(32, 2, 128, rotary=64, style="interleaved"),
            pointwise_use("act_mul", "silu", 27392),
        ],
        (*TARGETS, "cuda:100", "hip:gfx942"),
    ),
    "qwen3, windows in some layers": (
        "f16",
        [
            qkv_use(32, 8, 128, rotary=128, norm=True),
            qkv_use(32, 8, 128, rotary=128, norm=True, window=4096),
            norm_use("rms_norm", 128, weight_in="f32"),
            pointwise_use("act_mul", "gelu_tanh", 24576),
        ],
        TARGETS,
    ),
    "gpt2": (
        "f32",
        [*SHIFTED, qkv_use(12, 12, 64), pointwise_use("activation", "gelu", 3072)],
        TARGETS,
    ),
    "multi-query, 71 heads": ("bf16", [qkv_use(71, 1, 64, rotary=64)], TARGETS),
    "wide heads": ("bf16", [qkv_use(8, 4, 256, rotary=256, window=512)], TARGETS),
    "wide heads, f32": ("f32", [qkv_use(16, 1, 256, rotary=256)], TARGETS),
    "chunks in some layers": (
        "bf16",
        [qkv_use(40, 8, 128, rotary=128, chunk=8192), qkv_use(40, 8, 128)],
        (*TARGETS, "cuda:100"),
    ),
    "delta rule of Qwen3-Next": ("bf16", [DELTA.use], EVERY),
    "delta rule, decays of channels": ("bf16", [CHANNELS.use], EVERY),
    "delta rule, wide heads, f32": (
        "f32",
        [replace(DELTA, key=256, value=256).use],
        TARGETS,
    ),
    "Mamba-2": (
        "bf16",
        [STATES.use, gated_use(8192, 8192, groups=8, order="gate_first")],
        EVERY,
    ),
    "Mamba-2, f32": ("f32", [replace(STATES, key=256).use], TARGETS),
    "scans of channels": (
        "bf16",
        [
            selective(8192, 16, 1, "bias", "opened").use,
            lru(2560, "opened").use,
            wkv(4096, "opened").use,
        ],
        EVERY,
    ),
    "scans alone, and units": (
        "bf16",
        [
            scan_use(64, 1, 96, 96),
            scan_use(16, 2, 128, 128, beta=True),
            scan_use(32, 1, 128, 128, keyed=True, beta=True),
            steady_use(64, factors=True),
            block_use(10, 256, 256, bias=True),
            shift_use(4096),
            memory_use(8, 256, 512),
            elementwise_use("soft_cap", 4096, cap=15.0),
        ],
        EVERY,
    ),
    "scans of channels, f32": (
        "f32",
        [selective(8192, 16, 2, "bias", "opened").use, lru(2560).use, wkv(4096).use],
        TARGETS,
    ),
    "short convolutions": ("bf16", [conv_use(2048, 3, None)], EVERY),
    "sinks and slopes": (
        "bf16",
        [qkv_use(64, 8, 64, extras=("slopes", "sinks"), window=128, softcap=30.0)],
        (*TARGETS, "cuda:100"),
    ),
    "odd heads": ("f16", [qkv_use(32, 32, 80, rotary=32)], TARGETS),
    "odd heads, f32": ("f32", [*NORMS, qkv_use(64, 2, 96, rotary=96)], TARGETS),
    "keys unlike values": ("bf16", [attention_use(16, 16, 192, 128)], TARGETS),
    "chatglm v1 with a prefix encoder": (
        "f16",
        [
            qkv_use(32, 32, 128, rotary=128, sections=2, prefix=True, learned=128),
            pointwise_use("activation", "gelu_tanh", 16384),
        ],
        TARGETS,
    ),
    "wide heads, many": ("bf16", [attention_use(64, 64, 256, 256)], TARGETS),
    "deepseek-v3": (
        "bf16",
        [
            *latent_uses(128, 128, 64, 128, 512),
            rope_use(128, 192, 64, first=128, style="interleaved"),
            rope_use(1, 64, 64, style="interleaved"),
            moe_use(experts=256, top_k=8, width=7168, ff=2048),
            router_use(
                "correction",
                experts=256,
                top_k=8,
                width=7168,
                score="sigmoid",
                groups=8,
                top_groups=4,
                renormalise=True,
                scale=2.5,
            ),
        ],
        (*TARGETS, "cuda:100"),
    ),
    "glm-4.7-flash, glm-5": (
        "bf16",
        [
            *latent_uses(20, 192, 64, 256, 512),
            *latent_uses(64, 192, 64, 256, 512, selects=True),
        ],
        (*TARGETS, "cuda:100"),
    ),
    "latents, f32": ("f32", latent_uses(20, 192, 64, 256, 512), TARGETS),
    "small latents, f32": ("f32", latent_uses(40, 64, 32, 64, 256), TARGETS),
    "tiny latents": ("f16", latent_uses(4, 12, 8, 20, 32, selects=True), TARGETS),
    "experts": (
        "bf16",
        [
            moe_use(experts=128, top_k=8, width=4096, ff=1408),
            router_use(experts=128, top_k=8, width=4096, renormalise=True),
        ],
        TARGETS,
    ),
    "gpt-oss": (
        "bf16",
        [
            moe_use(
                "silu",
                "gate_up_bias",
                "down_bias",
                experts=32,
                top_k=4,
                width=2880,
                ff=2880,
                alpha=1.702,
                limit=7.0,
            ),
            router_use("bias", experts=32, top_k=4, width=2880, score="logit"),
        ],
        (*TARGETS, "cuda:100"),
    ),
    "mixtral, as they read": (
        "f16",
        [moe_use(experts=8, top_k=2, width=4096, ff=14336, weigh="input")],
        TARGETS,
    ),
    "experts, f16, functions": (
        "f16",
        [moe_use("gelu", width=6144, ff=2048), pointwise_use("act_mul", "silu", 64)],
        TARGETS,
    ),
    "odd experts, f32": (
        "f32",
        [moe_use("relu", experts=3, width=200, ff=72)],
        TARGETS,
    ),
    "alone": (
        "bf16",
        [
            *(elementwise_use(name, 2816) for name in ("add", "mul")),
            elementwise_use("scale", 2816, factor=0.3, rounded=True),
            elementwise_use("gate", 4096, 32, fn="softplus"),
            elementwise_use("rms_normalize", 256, eps=1e-6),
            write_use(8, 256, 128),
            rope_use(16, 512, 128),
        ],
        EVERY,
    ),
    "bert": (
        "f16",
        [
            *SHIFTED,
            full_use(12, 12, 64),
            pointwise_use("activation", "gelu", 3072),
            pointwise_use("activation", "tanh", 768),
        ],
        TARGETS,
    ),
    "encoder, f32": ("f32", [full_use(16, 16, 128)], TARGETS),
    "encoder, wide": ("bf16", [full_use(8, 2, 256)], TARGETS),
    "products": (
        "bf16",
        [
            product_use("rms_norm_linear", 4608, 4096, "bias", weight_in="f32"),
            product_use("rms_norm_linear", 27392, 4096, weight_in="f32", **SILU),
            product_use("linear_add", 4096, 13696),
        ],
        EVERY,
    ),
    "products, 8B": (
        "bf16",
        [
            product_use("rms_norm_linear", 6144, 4096),
            product_use("linear_add", 4096, 4096),
            product_use("rms_norm_linear", 28672, 4096, **SILU),
            product_use("linear_add", 4096, 14336),
            product_use("rms_norm_linear", 151936, 4096),
        ],
        EVERY,
    ),
    "products, 1B": (
        "f16",
        [
            product_use("rms_norm_linear", 3072, 2048),
            product_use("linear_add", 2048, 2048),
            product_use("rms_norm_linear", 16384, 2048, **SILU),
            product_use("linear_add", 2048, 8192),
        ],
        EVERY,
    ),
    "products, f32": (
        "f32",
        [
            product_use("layer_norm_linear", 2304, 768, "bias", "norm_bias"),
            product_use("layer_norm_linear", 3072, 768, "norm_bias", fn="gelu"),
            product_use("rms_norm_linear", 16384, 2048, **SILU),
            product_use("linear_add", 768, 3072, "bias"),
        ],
        EVERY,
    ),
    "coded products": (
        "f16",
        [
            coded_use("rms_norm_linear", 4, 4608, 4096, "bias", weight_in="f32"),
            coded_use("rms_norm_linear", 8, 27392, 4096, weight_in="f32", **SILU),
            coded_use("linear_add", 4, 4096, 13696),
            coded_use("linear_add", 8, 4096, 4096),
            product_use("rms_norm_linear", 65024, 4096, weight_in="f32"),
        ],
        EVERY,
    ),
    "coded products, 8B": (
        "bf16",
        [
            coded_use("rms_norm_linear", 4, 6144, 4096, "zeros", group=128),
            coded_use("linear_add", 4, 4096, 4096, "zeros", group=128),
            coded_use("rms_norm_linear", 4, 28672, 4096, group=128, **SILU),
            coded_use("linear_add", 4, 4096, 14336, group=128),
            product_use("rms_norm_linear", 128256, 4096),
        ],
        EVERY,
    ),
    "coded products, f32": (
        "f32",
        [
            coded_use("layer_norm_linear", 8, 2304, 768, "bias", "norm_bias"),
            coded_use("rms_norm_linear", 4, 16384, 2048, "zeros", group=64, **SILU),
            coded_use("linear_add", 4, 768, 3072, "bias", group=32),
        ],
        EVERY,
    ),
    "int4": ("f16", [quantized_use(4, 4096, 4608, bias=True)], EVERY),
    "int8": ("bf16", [quantized_use(8, 13696, 4096)], EVERY),
    "int4, f32": ("f32", [quantized_use(4, 4096, 27392)], EVERY),
    "int8, f32": ("f32", [quantized_use(8, 4096, 4608, bias=True)], EVERY),
    "int4-g128": ("bf16", [quantized_use(4, 4096, 6144, group=128)], EVERY),
    "int4-g32": ("f16", [quantized_use(4, 4096, 6144, group=32)], EVERY),
    "int4-g128, zeros": (
        "bf16",
        [quantized_use(4, 14336, 4096, group=128, zeros=True, bias=True)],
        EVERY,
    ),
    "int8-g128": ("bf16", [quantized_use(8, 4096, 6144, group=128)], EVERY),
    "int4-g64, f32": (
        "f32",
        [quantized_use(4, 4096, 6144, group=64, zeros=True)],
        EVERY,
    ),
}


@cache
def compiled(model: str) -> tuple[Compiled, ...]:
    dtype, uses, targets = MODELS[model]
    # What spills or does not fit raises.
    return compile_ahead(render(*uses), uses, [dtype], targets).kernels


#: What every run compiles, beside the golden ChatGLM3 of test_precompiled.py; the rest
#: is compiled by `make test-slow`.
ALWAYS = {"bert"}
CHOSEN = [
    name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow)
    for name in MODELS
]


def test_what_is_always_compiled_is_there() -> None:
    assert set(MODELS) >= ALWAYS


@pytest.mark.parametrize("model", CHOSEN)
def test_every_kernel_becomes_a_binary_that_fits_every_gpu(model: str) -> None:
    dtype, uses, targets = MODELS[model]
    text = render(*uses)
    defined = {
        node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    }
    for target in targets:
        asked = {
            one: {spec.kernel for spec in aot_specs(text, uses, one, target=target)}
            for one in DTYPES
        }
        assert set().union(*asked.values()) == defined
        found = [c for c in compiled(model) if c.job.target.name == target]
        assert {c.job.spec.kernel for c in found} == asked[dtype]
        assert all(len(c.binary) > 1000 for c in found)
        if target.startswith("cuda"):
            assert all(c.resources.shared <= SHARED for c in found)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["int8", "fp8_e4m3"])
@pytest.mark.parametrize(("heads", "width"), [((32, 8), 128), ((16, 2), 256)])
def test_a_cache_of_codes(heads: tuple[int, int], width: int, cache: str) -> None:
    uses = [qkv_use(*heads, width, rotary=width, norm=True)]
    found = compile_ahead(render(*uses), uses, ["bf16"], TARGETS, cache=cache).kernels
    assert len(found) == 5 * len(TARGETS)
    assert all(c.resources.shared <= SHARED for c in found)


@pytest.mark.slow
def test_prefill_reads_by_descriptors_where_the_target_has_them() -> None:
    copies = {
        c.job.target.name: c.resources.instructions.get("TMA", 0)
        for c in compiled("chatglm3")
        if c.job.spec.kernel == "prefill_kernel"
    }
    assert copies["cuda:80"] == copies["hip:gfx942"] == 0
    assert copies["cuda:90"] >= 2  # keys and values
    assert copies["cuda:100"] >= 2


@pytest.mark.slow
def test_tensor_cores_are_used_where_there_are_some() -> None:
    prefill = {
        c.job.target.name: set(c.resources.instructions)
        for c in compiled("chatglm3")
        if c.job.spec.kernel == "prefill_kernel"
    }
    assert "mma" in prefill["cuda:80"]
    assert "cp.async" in prefill["cuda:80"]
    assert "wgmma" in prefill["cuda:90"]
    assert "tcgen05.mma" in prefill["cuda:100"]
    assert "mfma" in prefill["hip:gfx942"]


def test_a_spill_fails_with_the_name_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    big = {"ROWS": 128, "SLOTS": 128, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(tiles, "_PREFILL", dict.fromkeys((2, 4), ((512, big),)))
    use = attention_use(16, 16, 128, 128)
    with pytest.raises(GlmcError, match=r"prefill_kernel \(f16, cuda:90\) spills \d+"):
        compile_ahead(render(use), [use], ["f16"], ["cuda:90"])


@pytest.mark.slow
def test_too_much_shared_memory_fails_with_the_name_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = {"ROWS": 64, "SLOTS": 64, "num_warps": 8, "num_stages": 8}
    monkeypatch.setattr(tiles, "_PREFILL", dict.fromkeys((2, 4), ((512, deep),)))
    use = attention_use(16, 16, 128, 128)
    expected = r"prefill_kernel \(f16, cuda:80\) .* shared memory"
    with pytest.raises(GlmcError, match=expected):
        compile_ahead(render(use), [use], ["f16"], ["cuda:80"])


def test_a_kernel_that_does_not_compile_is_named() -> None:
    use = pointwise_use("act_mul", "silu", 256)
    text = render(use).replace("tl.store(out", "tl.stroe(out")
    with pytest.raises(GlmcError, match=r"act_mul_kernel .*does not compile.*stroe"):
        compile_ahead(text, [use], ["f16"], ["cuda:90"])


@pytest.mark.parametrize(
    "target", ["cuda", "cuda:", "cuda:91", "hip:gfx9", "tpu:4", ""]
)
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(GlmcError, match="cuda:80"):
        compile_ahead("", [norm_use("rms_norm")], ["bf16"], [target])


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(GlmcError, match="f32, f16, bf16"):
        compile_ahead("", [norm_use("rms_norm")], ["f8"], ["cuda:90"])


def test_compiling_twice_gives_the_same_bytes_and_no_path_of_this_machine() -> None:
    use = norm_use("rms_norm", 512)
    targets = ["cuda:90", "hip:gfx942"]
    first, second = (
        compile_ahead(render(use), [use], ["bf16"], targets) for _ in range(2)
    )
    assert files(first) == files(second)
    for content in files(first).values():
        data = content.encode() if isinstance(content, str) else content
        assert b"site-packages" not in data
        assert b"/triton/" not in data


@pytest.mark.slow
def test_the_table_tells_specialisations_apart() -> None:
    text = table(Ahead("3.7.1", compiled("chatglm3")))
    assert text.count("qkv_decode_kernel[no start]") == 4
    assert text.count("qkv_decode_kernel[start]") == 4
    assert text.count("qkv_prologue_kernel  ") == 4


def test_every_target_can_be_compiled_for() -> None:
    use = pointwise_use("act_mul", "silu", 256)
    found = compile_ahead(render(use), [use], ["f16"], list(LIMITS)).kernels
    assert [c.job.target.name for c in found] == list(LIMITS)
