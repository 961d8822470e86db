"""Read configs of weight-only checkpoints in groups of a row's columns: GPTQ and
AWQ."""

from collections.abc import Iterator
from typing import Literal

from glmc.frontends.quantization.modules import Modules
from glmc.frontends.quantization.scheme import (
    UNQUANTISED,
    Config,
    Keys,
    Scheme,
    flag,
    in_order,
    names_in,
    whole,
)
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import UnsupportedQuantizationError

GPTQ = Keys(
    valued={
        "quant_method": ("gptq", "gptq_marlin"),
        "format": (None, "gptq", "gptq_v2"),
        "is_marlin_format": (None, False),
        "lm_head": (None, False),
        "pack_dtype": (None, "int32"),
    },
    read=frozenset({"bits", "group_size", "desc_act", "checkpoint_format", "dynamic"}),
    # How the codes were found, and with which kernels others multiply by them.
    harmless=frozenset(
        {"sym", "damp_percent", "damp_auto_increment", "true_sequential"}
        | {"static_groups", "mse", "meta", "quantizer", "model_name_or_path"}
        | {"model_file_base_name", "tokenizer", "dataset", "use_cuda_fp16"}
        | {"model_seqlen", "block_name_to_quantize", "batch_size", "pad_token_id"}
        | {"module_name_preceding_first_block", "use_exllama", "disable_exllama"}
        | {"max_input_length", "exllama_config", "cache_block_outputs", "backend"}
        | {"modules_in_block_to_quantize", "inside_layer_modules", "desc"}
        | {"act_group_aware"}
    ),
)
AWQ = Keys(
    valued={
        "quant_method": ("awq", "awq_marlin"),
        "bits": (4,),
        "w_bit": (None, 4),
        "zero_point": (True,),
        "version": ("gemm", "GEMM"),
    },
    read=frozenset({"group_size", "modules_to_not_convert"}),
    harmless=frozenset(
        {"backend", "do_fuse", "exllama_config", "fuse_max_seq_len", "q_group_size"}
        | {"modules_to_fuse"}
    ),
)
_NO_BIAS = "GPTQ's writers give a bias of zeros to linear maps that have none"
_IN_ORDER = "the groups of columns are in order, as desc_act says"


def gptq(config: Config) -> Scheme:
    """Read ``qweight``, ``qzeros`` and ``scales``, and ``g_idx`` where groups are
    mixed."""
    GPTQ.check(config)
    ordered = not flag(config, "desc_act", False)
    waived = {"*.bias": _NO_BIAS} | ({"*.g_idx": _IN_ORDER} if ordered else {})
    storage = m.GroupQuantized(
        packing=_version(config),
        bits=_bits(config),
        group=_group(config),
        zeros=True,
        ordered=ordered,
    )
    return Scheme(
        storages=((None, storage),),
        skipped=Modules.of(_left_out(config)),
        waived=waived,
        expected=tuple(_expected(config, ordered)),
    )


def _expected(config: Config, ordered: bool) -> Iterator[m.Expected]:
    """Yield the expected biases, order of columns, and with ``sym`` zero points."""
    yield m.Expected(
        pattern="*.bias",
        kind="all",
        value=0.0,
        otherwise="is not zero, and this model adds no such bias",
    )
    if ordered:
        yield in_order("*.g_idx", _group(config), "quantization_config.desc_act=true")
    if config.get("sym") is True:
        old = _version(config) == "gptq"
        code = (1 << (_bits(config) - 1)) - old
        word = int.from_bytes(bytes([code if _bits(config) == 8 else code * 17] * 4))
        other = "gptq_v2" if old else "gptq"
        yield m.Expected(
            pattern="*.qzeros",
            kind="all",
            value=float(word - (word >> 31 << 32)),
            otherwise="holds other zero points than symmetric codes have in the format"
            f" {'gptq' if old else 'gptq_v2'}; if they are of {other}, compile the"
            f" model again with --set quantization_config.checkpoint_format={other}",
            bound=True,
        )


def awq(config: Config) -> Scheme:
    """Read ``qweight``, ``qzeros`` and ``scales`` in AutoAWQ's order."""
    AWQ.check(config)
    group = _group(config)
    storage = m.GroupQuantized(packing="awq", bits=4, group=group, zeros=True)
    return Scheme(
        storages=((None, storage),),
        skipped=Modules.of(names_in(config, "modules_to_not_convert")),
    )


def _bits(config: Config) -> Literal[4, 8]:
    match config.get("bits"):
        case 4:
            return 4
        case 8:
            return 8
    raise UnsupportedQuantizationError(
        f"quantization_config.bits is {show(config.get('bits'))}, supported is 4 or 8;"
        f" {UNQUANTISED}"
    )


def _group(config: Config) -> int | None:
    """Return the number of columns that share a scale; None: all of a row's (-1)."""
    return None if config.get("group_size") == -1 else whole(config, "group_size", 1)


def _version(config: Config) -> Literal["gptq", "gptq_v2"]:
    named = config.get("checkpoint_format") or config.get("format")
    match named:
        case None | "gptq":
            return "gptq"
        case "gptq_v2":
            return "gptq_v2"
    raise UnsupportedQuantizationError(
        f"quantization_config.checkpoint_format is {show(named)}, supported is 'gptq'"
        f" or 'gptq_v2'; {UNQUANTISED}"
    )


def _left_out(config: Config) -> list[str]:
    """List the modules that GPTQModel's ``dynamic`` leaves out: ``{"-:pattern":
    {}}``."""
    dynamic = config.get("dynamic") or {}
    keys = list(dynamic) if isinstance(dynamic, dict) else [show(dynamic)]
    for key in keys:
        if not key.startswith("-:"):
            raise UnsupportedQuantizationError(
                f"quantization_config.dynamic has {show(key)}: modules quantised in"
                f" ways of their own are not supported; {UNQUANTISED}"
            )
    return [f"re:{key[2:]}" for key in keys]


HARMLESS = {
    "gptq": tuple(sorted(GPTQ.harmless)),
    "awq": tuple(sorted(AWQ.harmless)),
}
"""Keys of each method's config that say nothing of how weights are stored."""
