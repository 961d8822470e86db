"""Ahead-of-time specifications say what the launchers launch."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from glmc.backends.runtime.state import PerRow
from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.registry import aot_specs
from glmc.backends.triton.uses import OpUse
from glmc.ir.errors import GlmcError
from support.kernels import (
    attention_use,
    coded_use,
    elementwise_use,
    filled_cache,
    full_use,
    latent_uses,
    moe_use,
    norm_use,
    pointwise_use,
    product_use,
    qkv_use,
    quantized_use,
    random,
    render,
    rope_use,
    router_use,
    write_use,
)
from support.mixing import MIXERS, conv_use, emptied, gated_use

Interpreted = Callable[..., ModuleType]

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.int8: "*i8",
    torch.bool: "*i1",
}
MODELS: dict[str, list[OpUse]] = {
    "rms": [
        norm_use("rms_norm", 64),
        norm_use("rms_norm", 4096, weight_in="f32"),
        norm_use("add_rms_norm", 9000),
        pointwise_use("act_mul", "silu", 100),
    ],
    "layer": [
        norm_use("layer_norm", 48),
        norm_use("layer_norm", 48, bias=True),
        norm_use("add_layer_norm", 80, bias=True),
        pointwise_use("activation", "gelu", 70),
        pointwise_use("act_mul", "relu", 64),
    ],
    "rope": [qkv_use(8, 2, 128, rotary=64, norm=True, style="interleaved")],
    "mixed": [
        qkv_use(3, 1, 20, rotary=20, window=7),
        qkv_use(3, 1, 20),
        qkv_use(4, 4, 256, norm=True),
    ],
    "full": [full_use(12, 12, 32), full_use(6, 2, 20, 24)],
    "attention": [attention_use(40, 1, 256, 200)],
    "capped": [
        norm_use("rms_norm", unit_offset=True),
        norm_use("rms_norm", 80),
        norm_use("add_layer_norm", unit_offset=True),
        qkv_use(rotary=64, norm=True, unit_offset=True, softcap=50.0, window=8),
        qkv_use(rotary=64, norm=True),
    ],
    "sloped": [qkv_use(extras=("slopes",)), qkv_use()],
    "sunk": [qkv_use(8, 2, extras=("sinks",)), qkv_use(8, 2, window=4)],
    "experts": [moe_use("silu", width=80, ff=24), moe_use("gelu", top_k=3, ff=24)],
    "many experts": [moe_use(experts=256, top_k=8, width=40, ff=24)],
    "gpt-oss": [
        moe_use("silu", "gate_up_bias", "down_bias", alpha=1.5, limit=7.0),
        router_use("bias", score="logit", after="softmax"),
        pointwise_use("act_mul", "silu", 64),
    ],
    "llama 4": [
        moe_use(experts=130, top_k=1, width=50, weigh="input"),
        router_use(experts=130, top_k=1, width=50, score="logit", after="sigmoid"),
    ],
    "alone": [
        elementwise_use("add", 48),
        elementwise_use("mul", 1100),
        elementwise_use("scale", 50, factor=0.5),
        elementwise_use("scale", 64, factor=0.1, rounded=True),
        elementwise_use("gate", 96, 4, fn="sigmoid"),
        elementwise_use("gate", 64, fn="softplus"),
        elementwise_use("rms_normalize", 96, eps=1e-6),
        write_use(2, 24, 16),
        write_use(1, 64, 40),
    ],
    "turned": [rope_use(3, 40, 24, first=8), rope_use(1, 64, style="interleaved")],
    "deepseek": [
        *latent_uses(),
        *latent_uses(17, 16, 4, 12, 48),
        router_use("correction", groups=4, top_groups=2, renormalise=True, scale=2.5),
        router_use("correction", groups=2, renormalise=True, experts=6, width=40),
    ],
    "sparse": [*latent_uses(selects=True), *latent_uses()],
    "least": [router_use(renormalise=True, least_sum=0.1, experts=100)],
    "glm": [qkv_use(4, 4, 64, rotary=64, sections=2, prefix=True)],
    "learned": [qkv_use(4, 2, 64, rotary=32, learned=2)],
    "everything": [
        qkv_use(4, 4, 64, rotary=64, sections=2, prefix=True, learned=2),
        qkv_use(4, 4, 64, rotary=64, window=3),
    ],
    "int4": [quantized_use(4, 128, 70), quantized_use(4, 128, 64, bias=True)],
    "int8": [quantized_use(8, 100, 33)],
    "products": [
        product_use("rms_norm_linear", 96, 64),
        product_use("rms_norm_linear", 96, 80, fn="silu", gated=True),
        product_use("linear_add", 33, 100),
        product_use("linear", 8200, 16, "bias"),
    ],
    "normed products": [
        product_use("rms_norm_linear", 40, 64, weight_in="f32", unit_offset=True),
        product_use("rms_norm_linear", 40, 64),
        product_use("layer_norm_linear", 48, 48, "norm_bias", "bias", fn="gelu"),
        product_use("layer_norm_linear", 2048, 20),
        product_use("linear_act", 66, 32, fn="silu", gated=True),
    ],
    "coded products": [
        coded_use("rms_norm_linear", 4, 96, 64, "bias"),
        coded_use("rms_norm_linear", 4, 96, 64, fn="silu", gated=True),
        coded_use("linear_add", 8, 2100, 100),
        product_use("linear", 8200, 16),
    ],
    "coded products, groups": [
        coded_use("layer_norm_linear", 4, 40, 64, "norm_bias", "zeros", group=32),
        coded_use("linear_add", 4, 40, 128, group=128),
        coded_use("linear_act", 8, 66, 32, "bias", fn="silu", gated=True),
        coded_use("quantized_linear", 8, 40, 64, group=16),
    ],
    "int4 and int8": [quantized_use(4, 32, 33), quantized_use(8, 32, 33)],
    "mixers": [mixer.use for mixer in MIXERS.values()],
    "mixer": [MIXERS["delta"].use, gated_use(60, 20, groups=3)],
    "convolutions": [
        conv_use(70, 3, None),
        conv_use(256, 4, "silu", "bias"),
        gated_use(96, 96, groups=4, order="gate_first"),
        gated_use(96, 96, fn="sigmoid", weight_in="f32"),
    ],
    "groups": [
        quantized_use(4, 128, 70, group=32, zeros=True),
        quantized_use(4, 128, 64, group=64, bias=True),
        quantized_use(8, 96, 33),
    ],
}


ELEMENTWISE = ("add", "mul", "scale", "gate", "rms_normalize")


class Recorder:
    """Stands for a kernel: keeps what it was launched with."""

    def __init__(self, kernel: Any, found: list[dict[str, Any]]):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            names = self.kernel.arg_names
            bound = {**dict(zip(names, args, strict=False)), **options}
            self.found.append({"kernel": self.kernel.__name__, **bound})

        return launch


def launch(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """Call the launcher of ``use`` as a model would, in every way it can."""
    if use.name in ("attention", "qkv_attention"):
        for tokens in (1, 3):
            for start in (None, [0, 1]):
                attend(module, use, dtype, tokens, start)
        return
    if use.name in ELEMENTWISE:
        sizes = [int(shape[-1]) for shape in use.shapes.values()]
        given = [random(2, 3, size, dtype=dtype, seed=0) for size in sizes]
        getattr(module, use.name)(*given, **use.attrs)
        return
    if use.name == "kv_write":
        heads, *widths = (use.size("kv", dim) for dim in range(3))
        cache = filled_cache((heads, *widths), batch=2, past=4, tokens=3, dtype=dtype)
        states = [random(2, 3, heads, size, dtype=dtype, seed=0) for size in widths]
        module.kv_write(cache.own[0], *states)
        return
    if use.name == "rope":
        x = random(2, 3, use.size("x", 2), use.size("x", 3), dtype=dtype, seed=0)
        table = random(2, 3, use.size("cos"), dtype=torch.float32, seed=1)
        module.rope(x, table, table, **use.attrs)
        return
    special = {"moe_experts": mix, "moe_router": route, "latent_attention": latent}
    special |= {"mix": scan, "short_conv": convolve, "gated_norm": norm_gated}
    if use.name in special:
        special[use.name](module, use, dtype)
        return
    if use.name == "latent_write":
        sizes = {name: use.size(name) for name in ("latent", "shared")}
        parts = [random(2, 3, n, dtype=dtype, seed=0) for n in sizes.values()]
        shape = (sum(sizes.values()),)
        kv = filled_cache(shape, batch=2, past=4, tokens=3, dtype=dtype).own[0]
        module.latent_write(kv, parts[0], parts[1].unsqueeze(2))
        return
    if use.name == "full_attention":
        (H, D), (K, V) = use.shapes["q"][2:], use.shapes["v"][2:]
        packed = random(2, 3, (H + K) * D + K * V, dtype=dtype, seed=0)
        sizes = {"q": H * D, "k": K * D, "v": K * V}
        parts = packed.split(list(sizes.values()), dim=-1)
        states = [
            x.unflatten(-1, (n, -1)) for x, n in zip(parts, (H, K, K), strict=True)
        ]
        for mask in (None, torch.ones(2, 3, dtype=torch.bool)):
            module.full_attention(*states, mask, **use.attrs)
        return
    if use.name in ("activation", "act_mul"):
        width = next(iter(use.shapes.values()))[-1]
        x = random(2, 3, int(width), dtype=dtype, seed=0)
        getattr(module, use.name)(x, **use.attrs)
        return
    if "linear" in use.name:
        project(module, use, dtype)
        return
    width = int(use.shapes["weight"][0])
    vectors = [random(width, dtype=dtype, seed=n) for n in range(2)]
    x = random(2, 3, width, dtype=dtype, seed=0)
    inputs = [x, x] if use.name.startswith("add") else [x]
    bias = {"bias": vectors[1]} if "bias" in use.operands else {}
    getattr(module, use.name)(*inputs, vectors[0], **use.attrs, **bias)


def mix(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """With rows one by one, sorted for both tiles, and more than one program sorts."""
    count, width, _ = use.sizes("down")
    matrices = [
        torch.zeros(use.sizes(name), dtype=dtype) for name in ("gate_up", "down")
    ]
    sizes = {"gate_up_bias": matrices[0].shape[:2], "down_bias": matrices[1].shape[:2]}
    biases = {n: torch.zeros(sizes[n], dtype=dtype) for n in use.operands & {*sizes}}
    top_k = use.size("experts")
    for tokens in (1, max(top_k, count // 2) // top_k + 1, 256 // top_k, 20 * count):
        experts = torch.zeros(1, tokens, use.size("experts"), dtype=torch.int64)
        x = random(1, tokens, width, dtype=dtype, seed=0)
        more = {**use.attrs, **biases}
        module.moe_experts(x, experts, experts.float(), *matrices, **more)


def scan(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """A prompt and a token; with padding or none."""
    (mixer,) = (one for one in MIXERS.values() if one.use == use)
    weights, named = mixer.weights(dtype)
    for tokens, start in itertools.product((1, 3), (None, [0, 1])):
        cache = mixer.cache(2, dtype, start)
        given, more = mixer.tokens(tokens, 2, dtype, 0)
        more |= {**named, **use.attrs}
        module.mix(*given, *weights, *cache.own, **more)


def convolve(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """A prompt and a token; with padding or none."""
    channels, width = use.sizes("weight")
    bias = {"bias": torch.ones(channels, dtype=dtype)} if "bias" in use.operands else {}
    weight = torch.ones(channels, width, dtype=dtype)
    for tokens, start in itertools.product((1, 3), (None, [0, 1])):
        cache = emptied({"state": PerRow(channels, width)}, 2, dtype, start)
        x = random(2, tokens, channels, dtype=dtype, seed=0)
        module.short_conv(x, weight, cache.own[0], **use.attrs, **bias)


def norm_gated(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    x = random(2, 3, use.size("x"), dtype=dtype, seed=0)
    weight = torch.ones(use.sizes("weight"), dtype=dtype)
    module.gated_norm(x, x, weight, **use.attrs)


def route(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """With few tokens; with many the product is a library's."""
    weight = torch.ones(use.sizes("weight"))
    vectors = {name: torch.ones(len(weight)) for name in use.operands}
    x = random(1, 1, use.size("x"), dtype=dtype, seed=0)
    module.moe_router(x, weight, **use.attrs, **vectors)


def latent(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """A prompt and a token; with padding or none, a selection or none."""
    shape, heads = (use.size("latents"),), use.size("q", 2)
    kv_b = torch.zeros(use.sizes("kv_b"), dtype=dtype)
    lengths = (0, 2) if "selection" in use.operands else (None,)
    for tokens, start, length in itertools.product((1, 3), (None, [0, 1]), lengths):
        kv = filled_cache(
            shape, batch=2, past=4, tokens=tokens, dtype=dtype, start=start
        ).own[0]
        q = random(2, tokens, heads, use.size("q"), dtype=dtype, seed=0)
        more = dict(use.attrs)
        if length is not None:
            more["selection"] = torch.zeros(2, tokens, length, dtype=torch.int64)
        module.latent_attention(q, kv, kv_b, **more)


def project(module: ModuleType, use: OpUse, dtype: torch.dtype) -> None:
    """With one row, a few and many."""
    rows, width = use.size("weight", 0), use.size("x")
    coded = "bits" in use.attrs
    kinds = {"weight": torch.int8 if coded else dtype, "zeros": torch.int8}
    names = use.operands | {"weight"}
    sizes = {"bias": (rows,), "norm_bias": (width,), **use.shapes}
    given = {n: torch.ones(sizes[n], dtype=kinds.get(n, dtype)) for n in names}
    weight, norm = given.pop("weight"), torch.ones(width, dtype=dtype)
    for tokens in (1, 5, 17):
        x = random(1, tokens, width, dtype=dtype, seed=0)
        operands = [norm, weight] if "norm" in use.name else [weight]
        if use.name == "linear_add":
            operands.append(random(1, tokens, rows, dtype=dtype, seed=1))
        getattr(module, use.name)(x, *operands, **use.attrs, **given)


def attend(
    module: ModuleType,
    use: OpUse,
    dtype: torch.dtype,
    tokens: int,
    start: list[int] | None,
) -> None:
    heads, width, value_width = (int(size) for size in use.shapes["kv"])
    layer = filled_cache(
        (heads, width, value_width),
        batch=2,
        past=4,
        tokens=tokens,
        dtype=dtype,
        start=start,
    ).own[0]
    if use.name == "attention":
        q = random(2, tokens, int(use.shapes["q"][2]), width, dtype=dtype, seed=0)
        module.attention(q, layer, **use.attrs)
        return
    packed = (use.whole("heads") + 2 * heads) * width
    given: dict[str, torch.Tensor] = {}
    extras = use.operands & {"slopes", "sinks"}
    kinds = {"slopes": torch.float32, "sinks": dtype}
    given |= {name: torch.ones(use.whole("heads")).to(kinds[name]) for name in extras}
    for name in use.operands - {"prefix", *extras}:
        pairs = int(use.shapes["cos"][-1])
        table = random(2, tokens, pairs, dtype=torch.float32, seed=0)
        given[name] = (
            table if pairs and "norm" not in name else torch.ones(width).to(dtype)
        )
    if "prefix" in use.operands:
        given["prefix"] = torch.tensor([5, 6], dtype=torch.int32)
    qkv = random(2, tokens, packed, dtype=dtype, seed=0)
    module.qkv_attention(qkv, layer, **use.attrs, **given)


def says(spec: AotSpec, launched: dict[str, Any]) -> bool:
    """Return whether ``spec`` is of this launch: types, constants, options."""
    given = dict(launched)
    kernel = given.pop("kernel")
    options = (given.pop("num_warps", 4), given.pop("num_stages", None))
    options = (*options, given.pop("maxnreg", None))
    if (kernel, *options) != (
        spec.kernel,
        spec.num_warps,
        spec.num_stages,
        spec.maxnreg,
    ):
        return False
    if given.keys() != {*spec.signature, *spec.constants}:
        return False
    constants = all(given[name] == value for name, value in spec.constants.items())
    return constants and all(
        kind_of(given[name]) == kind for name, kind in spec.signature.items()
    )


def kind_of(argument: Any) -> str:
    """Return what Triton calls an argument."""
    if isinstance(argument, torch.Tensor):
        return POINTERS[argument.dtype]
    if hasattr(argument, "block_shape"):
        kind = POINTERS[argument.base.dtype].removeprefix("*")
        return f"tensordesc<{kind}{argument.block_shape}>"
    return "i32" if isinstance(argument, int) else "none"


CASES = [(model, "cuda:80") for model in MODELS]
CASES += [(name, "cuda:90") for name in ("rope", "mixed", "attention", "everything")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("model", "target"), CASES)
def test_specs_are_the_launches(
    interpreted: Interpreted,
    model: str,
    target: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = interpreted(*MODELS[model])
    monkeypatch.setattr(module, "present_target", lambda device: target, raising=False)
    found = launched(module, MODELS[model], dtype, monkeypatch)
    text = render(*MODELS[model])
    specs = {d: aot_specs(text, MODELS[model], d, target=target) for d in DTYPES}
    assert not complaints(specs[dtype], found)
    defined = {name for name in vars(module) if name.endswith("_kernel")}
    assert defined == {spec.kernel for every in specs.values() for spec in every}


PLANTED = {
    "a pointer in another's place": ("kv.key_scales,", "kv.position,"),
    "a size that is not the kernel's": ("K_BLOCK=blocks[0]", "K_BLOCK=2 * blocks[0]"),
    "a pointer that is never given": ("kv.start,", "None,"),
    "other warps": ("**tile,", "**tile | {'num_warps': 2},"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_launch_that_is_not_as_specified_is_seen(
    interpreted: Interpreted, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = attention_use(6, 2, 16, 20)
    specs = aot_specs(render(use), [use], "f32")
    before, after = PLANTED[mistake]

    def edit(text: str) -> str:
        assert before in text
        return text.replace(before, after)

    assert not complaints(specs, launched(interpreted(use), [use], "f32", monkeypatch))
    wrong = interpreted(use, edit=edit)
    assert complaints(specs, launched(wrong, [use], "f32", monkeypatch))


def launched(
    module: ModuleType,
    uses: list[OpUse],
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> list[dict[str, Any]]:
    """Return what the launchers give to kernels when they are called on tensors."""
    found: list[dict[str, Any]] = []
    for name, value in vars(module).copy().items():
        if name.endswith("_kernel"):
            monkeypatch.setattr(module, name, Recorder(value, found))
    for use in uses:
        launch(module, use, DTYPES[dtype])
    return found


def complaints(specs: list[AotSpec], found: list[dict[str, Any]]) -> list[object]:
    """Launches that no specification is of, or more than one; wrong alignment; and
    specifications that nothing launches."""
    wrong: list[object] = []
    for given in found:
        matching = [spec for spec in specs if says(spec, given)]
        if len(matching) != 1:
            wrong.append(given)
            continue
        for name in matching[0].aligned:
            value = given[name]
            place = value.data_ptr() if isinstance(value, torch.Tensor) else value
            wrong += [name] if place % 16 else []
    return wrong + [spec for spec in specs if not any(says(spec, g) for g in found)]


def test_descriptors_are_asked_for_where_the_target_has_them() -> None:
    use = attention_use(4, 2, 64, 20)
    signatures = {
        target: next(
            spec.signature
            for spec in aot_specs(render(use), [use], "bf16", target=target)
            if spec.kernel == "prefill_kernel"
        )
        for target in ("cuda:80", "cuda:90")
    }
    assert signatures["cuda:80"]["keys"] == "*bf16"
    assert signatures["cuda:90"]["keys"] == "tensordesc<bf16[1, 64, 64]>"
    assert signatures["cuda:90"]["values"] == "*bf16"  # 40 bytes a row


def test_specs_are_json() -> None:
    specs = aot_specs(render(*MODELS["mixed"]), MODELS["mixed"], "bf16")
    texts = [json.dumps(dataclasses.asdict(spec)) for spec in specs]
    assert len(set(texts)) == len(texts)


def test_a_dtype_without_kernels_is_refused() -> None:
    with pytest.raises(GlmcError, match=r"dtype 'f8'.*f32, f16, bf16"):
        aot_specs("", MODELS["rms"], "f8")
