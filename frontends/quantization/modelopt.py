"""Read configs of NVIDIA's Model Optimizer: float8, NVFP4, MXFP8, and mixtures."""

from collections.abc import Mapping
from typing import Any

from glmc.frontends.quantization.float8 import ACTIVATIONS
from glmc.frontends.quantization.modules import Modules
from glmc.frontends.quantization.scheme import (
    UNQUANTISED,
    Config,
    Keys,
    Scheme,
    names_in,
)
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import ConfigValueError, UnsupportedQuantizationError

MODELOPT = Keys(
    valued={
        "quant_method": (None, "modelopt"),
        "has_zero_point": (None, False),
        "pre_quant_scale": (None, False),
    },
    read=frozenset(
        {"quant_algo", "exclude_modules", "ignore", "config_groups", "group_size"}
        | {"quantized_layers"}
    ),
    harmless=frozenset({"producer", "kv_cache_quant_algo", "kv_cache_scheme"}),
)
_NVFP4 = m.FloatQuantized(bits=4, group=16, powers=False, factor="weight_scale_2")
_NAMED: Mapping[str, Any] = {"suffix": "_scale", "sure": True}
_ALGORITHMS: Mapping[str, m.Storage] = {
    "FP8": m.BlockQuantized(block="matrix", **_NAMED),
    "FP8_PER_CHANNEL_PER_TOKEN": m.BlockQuantized(block="row", **_NAMED),
    "NVFP4": _NVFP4,
    # What differs is whether activations are rounded, which glmc does not do.
    "W4A16_NVFP4": _NVFP4,
    "MXFP8": m.FloatQuantized(bits=8, group=32, powers=True),
}
_MIXED = "MIXED_PRECISION"


def modelopt(config: Config) -> Scheme:
    """Read one algorithm for all linear maps, or one for each; also what
    hf_quant_config.json says."""
    algorithm = config.get("quant_algo")
    layers = config.get("quantized_layers")
    mixed = algorithm == _MIXED
    storages = _each(layers) if mixed else ((None, _storage(config, "")),)
    MODELOPT.check(config)
    if layers is not None and not mixed:
        raise ConfigValueError(
            f"quantization_config.quantized_layers goes with {_MIXED}, and quant_algo"
            f" is {show(algorithm)}; {UNQUANTISED}"
        )
    listed = (*names_in(config, "exclude_modules"), *names_in(config, "ignore"))
    return Scheme(
        storages=storages,
        skipped=Modules.of(listed),
        waived=ACTIVATIONS,
        head=True,
        routers=True,
    )


def _each(layers: object) -> tuple[tuple[Modules, m.Storage], ...]:
    """Return the modules of each algorithm that some layers are quantised with."""
    if not isinstance(layers, Mapping) or not layers:
        raise ConfigValueError(
            f"quantization_config.quantized_layers is {show(layers)}, expected an"
            " object: each quantised module, and how it is"
        )
    found: dict[m.Storage, list[str]] = {}
    for name, one in layers.items():
        where = f".quantized_layers.{name}"
        if not isinstance(one, Mapping):
            raise ConfigValueError(
                f"quantization_config{where} is {show(one)}, expected an object"
            )
        found.setdefault(_storage(one, where), []).append(name)
    return tuple((Modules.of(names), kind) for kind, names in found.items())


def _storage(config: Config, where: str) -> m.Storage:
    algorithm, group = config.get("quant_algo"), config.get("group_size")
    storage = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if storage is None:
        raise UnsupportedQuantizationError(
            f"the checkpoint is quantised with modelopt's {show(algorithm)}, supported"
            f" is {' or '.join(map(show, (*_ALGORITHMS, _MIXED)))}; {UNQUANTISED}"
        )
    own = storage.group if isinstance(storage, m.FloatQuantized) else None
    if group not in (None, own):
        raise UnsupportedQuantizationError(
            f"quantization_config{where}.group_size is {show(group)}, and"
            f" {show(algorithm)} has {show(own)}; {UNQUANTISED}"
        )
    return storage


HARMLESS = {"modelopt": tuple(sorted(MODELOPT.harmless))}
"""Keys of each method's config that say nothing of how weights are stored."""
