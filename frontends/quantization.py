"""How the weights of a model are stored: what a config says about quantisation."""

from collections.abc import Mapping

from glmc.frontends.resolver import Resolver
from glmc.frontends.spec import BlockQuantization, RowQuantization, Spec
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import (
    ConfigValueError,
    UnknownKeyError,
    UnsupportedQuantizationError,
)

_UNQUANTISED = "compile the repository of the unquantised model"

# quantization_config of float8 checkpoints: key to the values that say what glmc does.
# How activations would be rounded does not matter: glmc leaves them as they are.
_BLOCK_CONFIG: Mapping[str, tuple[object, ...]] = {
    "quant_method": ("fp8",),
    "fmt": (None, "e4m3", "float8_e4m3fn"),
    "activation_scheme": (None, "dynamic"),
    "scale_fmt": (None, "float"),
    "weight_per_tensor": (None, False),
    "act_per_tensor": (None, False),
    "dequantize": (None, False, True),
    "modules_to_convert": (None,),
}
_READ = frozenset({"weight_block_size", "modules_to_not_convert"})


class Quantised:
    """Which tensors a config says are quantised, and how.

    Raises:
        GlmcError: when it asks for a format that glmc does not read.
    """

    def __init__(self, spec: Spec, resolve: Resolver) -> None:
        self._resolve, self._layer_count = resolve, spec.layers
        self._layers: m.Storage | None = None
        self.vocabulary: m.Storage | None = None
        """How embedding and head are stored; None: as floats."""
        self._skipped: frozenset[str] = frozenset()
        if isinstance(spec.quantization, RowQuantization):
            self._read_rows(spec.quantization, resolve)
        elif isinstance(spec.quantization, BlockQuantization):
            self._read_blocks(spec.quantization, resolve)

    def in_layer(self, tensor: str) -> m.Storage | None:
        """How a layer's ``tensor``, a module's ``.weight``, is stored; None: floats."""
        skipped = self._skipped and self._skips(tensor.removesuffix(".weight"))
        return None if skipped else self._layers

    def _skips(self, module: str) -> bool:
        """Whether ``module`` is left out in this layer and in all that follow.

        Where a list leaves it out of some layers only, or by a wildcard, it counts as
        quantised: such a weight may be stored as floats (see ``DequantBlocks``), and
        published lists are not always right.
        """
        first = self._resolve.scope.variables.get("i")
        last = self._resolve.size("layers", self._layer_count)
        module = module.replace("{x}", "0")  # experts of a layer are stored alike
        layers = range(first if isinstance(first, int) else 0, last)
        return all(self._names(module.replace("{i}", str(i))) for i in layers)

    def _names(self, module: str) -> bool:
        """transformers' rule: the list has a path up to the module, or its end."""
        path = module.split(".")
        starts = {".".join(path[:n]) for n in range(1, len(path) + 1)}
        ends = {module[at:] for at in range(len(module))}
        return not self._skipped.isdisjoint(starts | ends)

    def _read_rows(self, spec: RowQuantization, resolve: Resolver) -> None:
        bits = resolve.value(spec.bits)
        if bits in (None, 0) and not isinstance(bits, bool):
            return
        if bits not in (4, 8) or isinstance(bits, bool):
            expected = f"must be 0, 4 or 8; {_UNQUANTISED}"
            raise resolve.error("quantization.bits", spec.bits, expected, bits)
        self._layers = m.RowQuantized(bits=bits)
        if resolve.flag("quantization.embeddings", spec.embeddings):
            self.vocabulary = self._layers

    def _read_blocks(self, spec: BlockQuantization, resolve: Resolver) -> None:
        config = resolve.value(spec.config)
        if config is None:
            return
        if not isinstance(config, Mapping):
            expected = "must be an object"
            raise resolve.error("quantization.config", spec.config, expected, config)
        _check_block_config(config)
        self._layers = m.BlockQuantized(block=_block(config))
        self._skipped = _skipped(config)


def _check_block_config(config: Mapping[str, object]) -> None:
    method = config.get("quant_method", config.get("quant_algo"))
    if method != "fp8":
        raise UnsupportedQuantizationError(
            f"quantization_config has the method {show(method)}, supported is 'fp8';"
            f" {_UNQUANTISED}"
        )
    for key, value in config.items():
        if key in _READ:
            continue
        known = _BLOCK_CONFIG.get(key)
        if known is None:
            raise UnknownKeyError(
                f"quantization_config.{show(key)} is {show(value)}, and glmc does not"
                " know what it says about the weights. If it has no effect on them,"
                f" compile with --ignore-key quantization_config.{key}"
            )
        if not any(value is one or value == one for one in known):
            supported = " or ".join(map(show, known))
            raise UnsupportedQuantizationError(
                f"quantization_config.{key} is {show(value)}, supported is {supported};"
                f" {_UNQUANTISED}"
            )


def _block(config: Mapping[str, object]) -> tuple[int, int]:
    value = config.get("weight_block_size")
    sizes = value if isinstance(value, list | tuple) else []
    whole = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool)]
    if len(sizes) != 2 or len(whole) != 2 or not all(0 < n < 1 << 20 for n in whole):
        raise UnsupportedQuantizationError(
            f"quantization_config.weight_block_size is {show(value)}, expected the two"
            " sizes of a block, as in [128, 128]; scales per tensor are not supported"
        )
    return whole[0], whole[1]


def _skipped(config: Mapping[str, object]) -> frozenset[str]:
    value = config.get("modules_to_not_convert")
    names = [] if value is None else value
    if not isinstance(names, list | tuple):
        raise ConfigValueError(
            f"quantization_config.modules_to_not_convert is {show(value)}, expected a"
            " list of module names"
        )
    return frozenset(name for name in names if isinstance(name, str) and name)
