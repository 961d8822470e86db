"""Read configs of compressed-tensors, as llm-compressor publishes it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmc.frontends.quantization.float8 import ACTIVATIONS
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
from glmc.ir.errors import ConfigValueError, UnsupportedQuantizationError

COMPRESSED = Keys(
    valued={
        "quant_method": (None, "compressed-tensors"),
        "quantization_status": (None, "compressed", "frozen"),
        "sparsity_config": (None, {}),
        "transform_config": (None, {}),
    },
    read=frozenset({"config_groups", "format", "ignore"}),
    harmless=frozenset({"global_compression_ratio", "kv_cache_scheme", "version"}),
)
COMPRESSED_WEIGHTS = Keys(
    valued={"dynamic": (None, False)},
    read=frozenset(
        {"num_bits", "type", "strategy", "symmetric", "group_size", "block_structure"}
        | {"actorder", "scale_dtype"}
    ),
    harmless=frozenset({"observer", "observer_kwargs", "zp_dtype"}),
)
_FORMATS = {
    "pack-quantized": "int",
    "int-quantized": "int",
    "float-quantized": "float",
    "naive-quantized": None,
    "nvfp4-pack-quantized": "float",
    "mxfp4-pack-quantized": "float",
    "mxfp8-quantized": "float",
}
"""Formats to the type of codes that they hold; None: either."""
_SMALL: Mapping[str, tuple[m.FloatQuantized, str, str]] = {
    "nvfp4-pack-quantized": (
        m.FloatQuantized(
            bits=4,
            group=16,
            powers=False,
            codes="weight_packed",
            factor="weight_global_scale",
            divided=True,
        ),
        "tensor_group",
        "torch.float8_e4m3fn",
    ),
    "mxfp4-pack-quantized": (
        m.FloatQuantized(bits=4, group=32, powers=True, codes="weight_packed"),
        "group",
        "torch.uint8",
    ),
    "mxfp8-quantized": (
        m.FloatQuantized(bits=8, group=32, powers=True),
        "group",
        "torch.uint8",
    ),
}
"""Formats of small floats to their storage, the strategy that they go with, and the
dtype of their scales."""
_WAIVED = {
    "*.weight_shape": "the size of a matrix, which its packed codes tell",
    "*.input_global_scale": ACTIVATIONS["*.input_scale"],
    "*.weight_g_idx": "the groups of columns are in order, as actorder says",
    **ACTIVATIONS,
}


def compressed(config: Config) -> Scheme:
    """Read groups of modules, each stored in one way.

    Groups by name or expression come before those of all linear maps.
    """
    COMPRESSED.check(config)
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigValueError(
            f"quantization_config.config_groups is {show(groups)}, expected what is"
            " quantised, and how"
        )
    storages: list[tuple[Modules | None, m.Storage]] = []
    for name, group in groups.items():
        where = f"quantization_config.config_groups.{name}"
        if not isinstance(group, Mapping):
            raise ConfigValueError(f"{where} is {show(group)}, expected an object")
        storage = _storage(group, group.get("format") or config.get("format"), where)
        targets = names_in(group, "targets")
        storages.append((None if "Linear" in targets else Modules.of(targets), storage))
    _refuse_two_for_all(storages)
    storages.sort(key=lambda one: one[0] is None)
    grouped = [s for _, s in storages if isinstance(s, m.GroupQuantized)]
    ordered = all(storage.ordered for storage in grouped)
    return Scheme(
        storages=tuple(storages),
        skipped=Modules.of(names_in(config, "ignore")),
        waived={k: v for k, v in _WAIVED.items() if ordered or "g_idx" not in k},
        expected=tuple(_expected(grouped)),
        head=True,
    )


def _refuse_two_for_all(storages: Sequence[tuple[Modules | None, m.Storage]]) -> None:
    if len({storage for modules, storage in storages if modules is None}) > 1:
        raise UnsupportedQuantizationError(
            "quantization_config.config_groups stores all linear maps in two different"
            f" ways; {UNQUANTISED}"
        )


def _expected(grouped: Sequence[m.GroupQuantized]) -> Iterator[m.Expected]:
    """Yield the expected order of columns, where all groups of modules have one."""
    if len(groups := {storage.group for storage in grouped}) == 1 and all(
        storage.ordered for storage in grouped
    ):
        key = "quantization_config.config_groups.group_0.weights.actorder=group"
        yield in_order("*.weight_g_idx", groups.pop(), key)


def _storage(group: Config, form: object, where: str) -> m.Storage:
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        raise UnsupportedQuantizationError(
            f"{where}.weights is {show(weights)}, expected an object"
        )
    kind, bits = weights.get("type"), weights.get("num_bits")
    known = isinstance(form, str) and form in _FORMATS
    if not known or _FORMATS[str(form)] not in (None, kind):
        raise UnsupportedQuantizationError(
            f"{where} has the format {show(form)} of {show(kind)} codes, supported is"
            f" {' or '.join(map(show, _FORMATS))}; {UNQUANTISED}"
        )
    COMPRESSED_WEIGHTS.check(weights, f"{where}.weights")
    if form in _SMALL:
        return _small(weights, where, str(form))
    match kind, bits, form:
        case "float", 8, _:
            return _float8(weights, where)
        case "int", 4 | 8, "pack-quantized":
            return _integers(weights, where, packing="packed", bits=bits)
        case "int", 8, _:
            return _integers(weights, where, packing="plain", bits=8)
    raise UnsupportedQuantizationError(
        f"{where} has {show(kind)} codes of {show(bits)} bits in {show(form)},"
        f" supported are integers of 4 or 8 bits and floats of 8; {UNQUANTISED}"
    )


def _float8(weights: Config, where: str) -> m.Storage:
    block: Any = {"tensor": "matrix", "channel": "row"}.get(
        str(weights.get("strategy"))
    )
    if weights.get("strategy") == "block":
        block = weights.get("block_structure")
    sizes = block if isinstance(block, list | tuple) else []
    if sizes and len(sizes) == 2 and all(type(n) is int and n > 0 for n in sizes):
        block = (sizes[0], sizes[1])
    elif not isinstance(block, str):
        raise _strategy(weights, where, "tensor, channel or block")
    return m.BlockQuantized(block=block, suffix="_scale", sure=True)


def _small(weights: Config, where: str, form: str) -> m.Storage:
    """Read NVFP4 or an MX format, of which a config may say nothing else."""
    storage, strategy, dtype = _SMALL[form]
    told = {
        "num_bits": (storage.bits,),
        "group_size": (storage.group,),
        "strategy": (strategy,),
        "symmetric": (None, True),
        "scale_dtype": (None, dtype),
    }
    for key, known in told.items():
        if weights.get(key) not in known:
            raise UnsupportedQuantizationError(
                f"{where}.weights.{key} is {show(weights.get(key))}, and {form} has"
                f" {show(known[-1])}; {UNQUANTISED}"
            )
    return storage


def _integers(weights: Config, where: str, **how: Any) -> m.Storage:
    group: int | None = None
    match weights.get("strategy"):
        case "group":
            group = whole(weights, "group_size", 1)
        case "channel":
            pass
        case _:
            raise _strategy(weights, where, "group or channel")
    return m.GroupQuantized(
        group=group,
        zeros=not flag(weights, "symmetric", True),
        ordered=weights.get("actorder") not in ("group", "dynamic"),
        **how,
    )


def _strategy(
    weights: Config, where: str, supported: str
) -> UnsupportedQuantizationError:
    found = show(weights.get("strategy"))
    return UnsupportedQuantizationError(
        f"{where}.weights.strategy is {found}, supported is {supported}; {UNQUANTISED}"
    )


_GROUP = "config_groups.*"
HARMLESS = {
    "compressed": (
        *sorted(COMPRESSED.harmless),
        *(f"{_GROUP}.{name}_activations*" for name in ("input", "output")),
        *(f"{_GROUP}.weights.{key}*" for key in sorted(COMPRESSED_WEIGHTS.harmless)),
    )
}
"""Keys of each method's config that say nothing of how weights are stored."""
