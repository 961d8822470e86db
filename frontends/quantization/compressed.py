"""Read configs of compressed-tensors, as llm-compressor publishes it."""

from collections.abc import Iterator, Mapping
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
        | {"actorder"}
    ),
    harmless=frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}),
)
_FORMATS = {
    "pack-quantized": "int",
    "int-quantized": "int",
    "float-quantized": "float",
    "naive-quantized": None,
}
"""Formats to the type of codes that they hold; None: either."""
_WAIVED = {
    "*.weight_shape": "the size of a matrix, which its packed codes tell",
    "*.weight_g_idx": "the groups of columns are in order, as actorder says",
    **ACTIVATIONS,
}


def compressed(config: Config) -> Scheme:
    """Read one group of modules, or several that are stored alike."""
    COMPRESSED.check(config)
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigValueError(
            f"quantization_config.config_groups is {show(groups)}, expected what is"
            " quantised, and how"
        )
    storages: list[m.Storage] = []
    targets: list[str] = []
    for name, group in groups.items():
        where = f"quantization_config.config_groups.{name}"
        if not isinstance(group, Mapping):
            raise ConfigValueError(f"{where} is {show(group)}, expected an object")
        storages.append(
            _storage(group, group.get("format") or config.get("format"), where)
        )
        targets += names_in(group, "targets")
    if any(storage != storages[0] for storage in storages):
        raise UnsupportedQuantizationError(
            "quantization_config.config_groups stores modules in different ways, which"
            f" is not supported; {UNQUANTISED}"
        )
    ordered = getattr(storages[0], "ordered", True)
    return Scheme(
        storage=storages[0],
        skipped=Modules.of(names_in(config, "ignore")),
        chosen=None if "Linear" in targets else Modules.of(targets),
        waived={k: v for k, v in _WAIVED.items() if ordered or "g_idx" not in k},
        expected=tuple(_expected(storages[0])),
        head=True,
    )


def _expected(storage: m.Storage) -> Iterator[m.Expected]:
    if isinstance(storage, m.GroupQuantized) and storage.ordered:
        key = "quantization_config.config_groups.group_0.weights.actorder=group"
        yield in_order("*.weight_g_idx", storage.group, key)


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
    return m.BlockQuantized(block=block, suffix="_scale")


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
