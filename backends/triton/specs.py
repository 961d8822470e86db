"""Ahead-of-time specifications: what each launcher will ask the compiler for.

They mirror the launchers of the templates; a test compares the two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from glmc.backends.triton import structure, tiles
from glmc.backends.triton.structure import HeadShape, Prologue
from glmc.backends.triton.uses import OpUse

Constant = int | float | str | None

POINTERS = {"f32": "*fp32", "f16": "*fp16", "bf16": "*bf16"}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True)
class AotSpec:
    """One kernel as one launcher launches it. Every field is JSON.

    signature  argument -> Triton type ("*bf16", "i32"), without the constants
    constants  compile-time argument -> value; a pointer that is not given is None
    aligned    arguments that are multiples of 16 (bytes or elements)
    num_stages None where the launcher leaves it to Triton
    maxnreg    registers of a thread at most, None where that is the compiler's choice;
               for NVIDIA only
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Constant]
    aligned: tuple[str, ...]
    num_warps: int = 4
    num_stages: int | None = None
    maxnreg: int | None = None


@dataclass(frozen=True)
class Kept:
    """How the cache is kept and read.

    dtype      "int8" or "fp8_e4m3", or "" for the model's
    described  whether prefill reads it by descriptors, where rows allow for that
    """

    dtype: str = ""
    described: bool = False


PLAIN = Kept()


@dataclass
class Arguments:
    """The arguments of a kernel, gathered in the order of its launch."""

    dtype: str
    signature: dict[str, str] = field(default_factory=dict)
    aligned: list[str] = field(default_factory=list)

    def pointers(self, *names: str, dtype: str | None = None) -> "Arguments":
        kind = dtype or POINTERS[self.dtype]
        self.signature |= dict.fromkeys(names, kind)
        self.aligned += names
        return self

    def described(self, slots: int, **widths: int) -> "Arguments":
        """Makes those of some pointers descriptors whose rows are whole 16 bytes."""
        kind = POINTERS[self.dtype].removeprefix("*")
        for name, width in widths.items():
            if width * BYTES[self.dtype] % 16 == 0:
                block = f"[1, {slots}, {tiles.dot_block(width)}]"
                self.signature[name] = f"tensordesc<{kind}{block}>"
                self.aligned.remove(name)
        return self

    def strides(self, **sizes: int) -> "Arguments":
        self.signature |= dict.fromkeys(sizes, "i32")
        self.aligned += [name for name, size in sizes.items() if size % 16 == 0]
        return self

    def counts(self, *names: str) -> "Arguments":
        self.signature |= dict.fromkeys(names, "i32")
        return self

    def spec(
        self,
        kernel: str,
        constants: Mapping[str, Constant],
        warps: int = 4,
        stages: int | None = None,
        registers: int | None = None,
    ) -> AotSpec:
        options = (tuple(self.aligned), warps, stages, registers)
        return AotSpec(kernel, self.signature, constants, *options)


def norm(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """rms_norm, layer_norm and their forms with a residual addition before."""
    width = use.size("weight")
    block = tiles.power_of_two(width)
    added = use.name.startswith("add_")
    constants: dict[str, Constant] = {"E": width, "EPS": use.real("eps")}
    constants["BLOCK"] = block
    family = structure.RMS_OPS if use.name in structure.RMS_OPS else structure.LAYER_OPS
    if structure.offset(uses, family) == "some":
        constants["UNIT_OFFSET"] = use.flag("unit_offset")
    pointers = ["x", "y", "weight"] if added else ["x", "weight"]
    if use.name in structure.RMS_OPS:
        if structure.weight_in(uses) == "mixed":
            constants["WEIGHT_IN"] = use.text("weight_in", "input")
    elif "bias" in use.operands:
        pointers.append("bias")
    elif any("bias" in u.operands for u in structure.named(uses, *structure.LAYER_OPS)):
        constants["bias"] = None
    arguments = Arguments(dtype).pointers(*pointers, *["total"][: int(added)], "out")
    arguments.strides(**{f"{name}_row": width for name in ("x", "y")[: 1 + int(added)]})
    return [arguments.spec(f"{use.name}_kernel", constants, tiles.row_warps(block))]


def pointwise(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """activation and act_mul."""
    operand = "x" if use.name == "activation" else "gate_up"
    packed = use.size(operand)
    constants: dict[str, Constant] = {
        "F": packed if operand == "x" else packed // 2,
        "BLOCK": tiles.POINTWISE["block"],
    }
    if len(structure.functions(uses)) > 1:
        constants["FN"] = use.text("fn")
    arguments = Arguments(dtype).pointers(operand, "out")
    arguments.strides(**{f"{operand}_row": packed})
    return [arguments.spec(f"{use.name}_kernel", constants, tiles.POINTWISE["warps"])]


def quantized_gemm(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """The product of codes with many rows."""
    bits = use.whole("bits")
    width = use.size("weight") * 8 // bits
    run = math.gcd(width * bits // 32, 16)
    sizes = {"IN": width, "OUT": use.size("weight", 0), "BITS": bits, "RUN": run}
    shared: dict[str, Constant] = {**sizes}
    products = structure.named(uses, "quantized_gemm")
    if structure.grouped(products):
        groups = use.size("scale") if len(use.shapes["scale"]) > 1 else 1
        parts = max(1, run * 32 // bits * groups // width)
        shared |= {"GROUP": width // groups, "PARTS": parts}
    given = [name for name in ("zeros", "bias") if name in use.operands]
    for name in ("zeros", "bias"):
        if name not in given and any(name in other.operands for other in products):
            shared[name] = None

    arguments = Arguments(dtype).pointers("x").pointers("codes", dtype="*i32")
    arguments.pointers("scale")
    for name in given:
        arguments.pointers(name, dtype="*i8" if name == "zeros" else None)
    arguments.pointers("out").strides(x_row=width).counts("M")
    return [tiled(arguments, "quantized_gemm_kernel", shared, tiles.GEMM[BYTES[dtype]])]


def qkv_attention(
    use: OpUse, uses: list[OpUse], dtype: str, cache: Kept = PLAIN
) -> list[AotSpec]:
    """Of a prompt the prologue, and attention over what it stored; all of it for one
    token. With and without left padding."""
    specs = [_prologue(use, uses, dtype, cache)]
    for padded in (False, True):
        specs.append(_prefill(use, uses, dtype, cache, padded))
        specs.append(_qkv_decode(use, uses, dtype, cache, padded))
    return specs


def attention(
    use: OpUse, uses: list[OpUse], dtype: str, cache: Kept = PLAIN
) -> list[AotSpec]:
    """Prefill and decode, with and without left padding."""
    return [
        make(use, uses, dtype, cache, padded)
        for padded in (False, True)
        for make in (_prefill, _decode)
    ]


def _cache(arguments: Arguments, cache: Kept) -> dict[str, Constant]:
    """Keys and values: in the dtype of the model, as float8, or as int8 with scales."""
    kind = {"int8": "*i8", "fp8_e4m3": "*u8"}.get(cache.dtype)
    arguments.pointers("keys", "values", dtype=kind)
    if cache.dtype == "int8":
        arguments.pointers("key_scales", "value_scales", dtype="*fp32")
        return {}
    return {"key_scales": None, "value_scales": None}


def _turned(
    use: OpUse, arguments: Arguments, shape: HeadShape, block: int
) -> dict[str, Constant]:
    """What the heads of packed q | k | v are normalised and turned by."""
    constants: dict[str, Constant] = {
        "HEADS": shape.heads,
        "KV_HEADS": shape.kv_heads,
        "D": shape.k_dim,
        "BLOCK": block,
    }
    kind = Prologue.of(use)
    if kind.rope:
        arguments.pointers("cos", "sin", dtype="*fp32")
        constants["ROTARY"] = 2 * use.size("cos")
    if kind.norm:
        arguments.pointers("q_norm", "k_norm")
        constants["EPS"] = use.real("eps", 0.0)
    arguments.strides(qkv_batch=_packed(shape))
    return constants


def _packed(shape: HeadShape) -> int:
    """Elements of a token of q | k | v."""
    return (shape.heads + 2 * shape.kv_heads) * shape.k_dim


def _prologue(use: OpUse, uses: list[OpUse], dtype: str, cache: Kept) -> AotSpec:
    """q | k | v to where attention reads them."""
    shape, kinds = HeadShape.of(use), structure.prologues(uses)
    arguments = Arguments(dtype).pointers("qkv", "q")
    arguments.pointers("position", dtype="*i32")
    constants = _cache(arguments, cache)
    constants |= _turned(use, arguments, shape, tiles.power_of_two(shape.k_dim))
    arguments.strides(qkv_token=_packed(shape)).counts("T", "capacity")
    kernel = f"{Prologue.of(use).name(kinds, 'prologue')}_kernel"
    return arguments.spec(kernel, constants, tiles.PROLOGUE_WARPS)


def _qkv_decode(
    use: OpUse, uses: list[OpUse], dtype: str, cache: Kept, padded: bool
) -> AotSpec:
    """One token from q | k | v to its context."""
    shape, kinds = HeadShape.of(use), structure.prologues(uses)
    plan = structure.attention_plan(uses)
    arguments = Arguments(dtype).pointers("qkv")
    constants = _options(use, plan) | _cache(arguments, cache)
    constants |= _turned(use, arguments, shape, tiles.dot_block(shape.k_dim))
    constants |= _split(arguments, plan)
    optional = _Optional.of(use, plan, dtype).padded(padded)
    constants |= optional.add(arguments, "start", *plan.vectors)
    kernel = f"{Prologue.of(use).name(kinds, 'decode')}_kernel"
    return tiled(arguments, kernel, constants, plan.decode[BYTES[dtype]])


def _split(arguments: Arguments, plan: structure.AttentionPlan) -> dict[str, Constant]:
    """What decode needs to attend to parts of the cache and to join them."""
    arguments.pointers("position", "arrived", dtype="*i32")
    arguments.pointers("parts", "weights", dtype="*fp32")
    arguments.pointers("out").counts("capacity")
    return {"SPLITS": plan.splits, "FAN": tiles.FAN}


def _options(use: OpUse, plan: structure.AttentionPlan) -> dict[str, Constant]:
    """The constants that follow from the attributes."""
    values: dict[str, Constant] = {
        "SCALE": use.real("scale"),
        "WINDOW": use.window(),
        "LEARNED": use.whole("learned", 0),
        "CHUNK": use.optional_whole("chunk"),
        "CAP": use.optional("softcap"),
    }
    return {option.constant: values[option.constant] for option in plan.options}


@dataclass(frozen=True)
class _Optional:
    """Pointers that launches of attention may leave out: name to type, or None."""

    pointers: Mapping[str, str | None]

    @classmethod
    def of(cls, use: OpUse, plan: structure.AttentionPlan, dtype: str) -> "_Optional":
        """Those that the kernels of a model have; None where this layer has none."""
        kinds = {"prefix": "*i32", "slopes": "*fp32", "sinks": POINTERS[dtype]}
        return cls(
            {
                name: kinds[name] if name in use.operands else None
                for name in plan.pointers
            }
        )

    def padded(self, padded: bool) -> "_Optional":
        """With the slots where rows begin, which only padded batches have."""
        return _Optional({"start": "*i32" if padded else None, **self.pointers})

    def add(self, arguments: Arguments, *names: str) -> dict[str, Constant]:
        """Declare some of them; what is left out is a constant."""
        asked = {name: self.pointers[name] for name in names if name in self.pointers}
        for name, kind in asked.items():
            if kind:
                arguments.pointers(name, dtype=kind)
        return {name: None for name, kind in asked.items() if kind is None}


def full_attention(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """Attention of all tokens, with and without padding."""
    shape, plan = HeadShape.of(use), structure.attention_plan(uses)
    constants: dict[str, Constant] = {"SCALE": use.real("scale"), **_sizes(shape)}
    # q, k and v are views of one product or not: what divides either stride of a token.
    row = math.gcd(shape.heads * shape.k_dim, shape.kv_heads * shape.k_dim)
    row = math.gcd(row, shape.kv_heads * shape.v_dim)
    specs = []
    for padded in (False, True):
        arguments = Arguments(dtype).pointers("q", "k", "v")
        if padded:
            arguments.pointers("mask", dtype="*i1")
        arguments.pointers("out")
        for name, width in (("q", shape.k_dim), ("k", shape.k_dim), ("v", shape.v_dim)):
            strides = {f"{name}_batch": row, f"{name}_token": row}
            arguments.strides(**strides, **{f"{name}_head": width})
        arguments.counts("T")
        given = constants | ({} if padded else {"mask": None})
        tile = plan.prefill[BYTES[dtype]]
        specs.append(tiled(arguments, "full_attention_kernel", given, tile))
    return specs


def _sizes(shape: HeadShape) -> dict[str, Constant]:
    """The constants that follow from the heads."""
    return {
        "HEADS": shape.heads,
        "KV_HEADS": shape.kv_heads,
        "K_DIM": shape.k_dim,
        "V_DIM": shape.v_dim,
        "K_BLOCK": tiles.dot_block(shape.k_dim),
        "V_BLOCK": tiles.dot_block(shape.v_dim),
    }


def _prefill(
    use: OpUse, uses: list[OpUse], dtype: str, cache: Kept, padded: bool
) -> AotSpec:
    shape, plan = HeadShape.of(use), structure.attention_plan(uses)
    tile = plan.prefill[BYTES[dtype]]
    arguments = Arguments(dtype).pointers("q", "out")
    constants = _options(use, plan) | _sizes(shape) | _cache(arguments, cache)
    if cache.described and not cache.dtype:
        arguments.described(tile["SLOTS"], keys=shape.k_dim, values=shape.v_dim)
    optional = _Optional.of(use, plan, dtype).padded(padded)
    constants |= optional.add(arguments, "start", *plan.pointers)
    row = shape.heads * shape.k_dim
    arguments.strides(q_batch=row, q_token=row, q_head=shape.k_dim)
    arguments.counts("T", "past", "capacity")
    return tiled(arguments, "prefill_kernel", constants, tile)


def _decode(
    use: OpUse, uses: list[OpUse], dtype: str, cache: Kept, padded: bool
) -> AotSpec:
    shape, plan = HeadShape.of(use), structure.attention_plan(uses)
    arguments = Arguments(dtype).pointers("q")
    constants = _options(use, plan) | _sizes(shape) | _cache(arguments, cache)
    constants |= _split(arguments, plan)
    optional = _Optional.of(use, plan, dtype).padded(padded)
    constants |= optional.add(arguments, "start", *plan.vectors)
    arguments.strides(q_batch=shape.heads * shape.k_dim, q_head=shape.k_dim)
    return tiled(arguments, "decode_kernel", constants, plan.decode[BYTES[dtype]])


def tiled(
    arguments: Arguments,
    kernel: str,
    constants: dict[str, Constant],
    tile: tiles.Tile,
) -> AotSpec:
    launch = dict(tile)
    warps, stages = launch.pop("num_warps"), launch.pop("num_stages", None)
    registers = launch.pop("maxnreg", None)
    return arguments.spec(kernel, constants | launch, warps, stages, registers)
