"""Find the tensors of a model that are quantised: by the spec's section and the
config."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from glmc.frontends.language.resolver import Resolver
from glmc.frontends.quantization.scheme import UNQUANTISED, Config, Scheme
from glmc.frontends.spec import PublishedQuantization, RowQuantization, Spec
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import UnsupportedQuantizationError

METHODS: Mapping[str, str] = {
    "fp8": "float8:fp8",
    "fbgemm_fp8": "float8:fbgemm",
    "modelopt": "modelopt:modelopt",
    "gptq": "grouped:gptq",
    "gptq_marlin": "grouped:gptq",
    "awq": "grouped:awq",
    "awq_marlin": "grouped:awq",
    "compressed-tensors": "compressed:compressed",
    "mxfp4": "mx:mxfp4",
}
"""``quant_method`` of a ``quantization_config`` to the module and function reading it;
most configs have none, so they are imported when one does."""

_ROUTERS = frozenset({"router", "shared_gate", "correction"})
_FLOATS = frozenset(
    {"table", "pool_places", "ipool_places"}
    | {"conv_q", "conv_k", "conv_v", "dt_bias", "a_log", "mix_norm", "mix_skip"}
    | {"mix_rate", "mix_first", "blend_k", "blend_v", "blend_gate"}
    | {"ff_blend_up", "ff_blend_gate"}
)
"""Slots of a layer that are no matrices."""
_EXPERTS = frozenset({"xgate", "xup", "xdown"})


class Quantised:
    """The tensors a config says are quantised, and their formats.

    Raises:
        GlmcError: when it asks for a format that glmc does not read.
    """

    def __init__(self, spec: Spec, resolve: Resolver) -> None:
        self._resolve, self._layer_count = resolve, spec.layers
        self._scheme: Scheme | None = None
        self._vocabulary: m.Storage | None = None
        self._experts: m.Storage | None = None
        self._scale: str | None = None
        self._called: Mapping[str, str] = {}
        if isinstance(spec.quantization, RowQuantization):
            self._read_rows(spec.quantization, resolve)
        elif isinstance(spec.quantization, PublishedQuantization):
            self._scheme = _published(spec.quantization, resolve)
            self._scale, self._called = (
                spec.quantization.scale,
                spec.quantization.called,
            )
            self._experts = self._fp4(spec.quantization)

    def in_layer(self, slot: str, tensor: str) -> m.Storage | None:
        """Return the format of a layer's ``tensor``, a module's ``.weight``; None:
        floats."""
        scheme = self._scheme
        if scheme is None or slot in _FLOATS:
            return None
        if slot in _ROUTERS and not scheme.routers:
            return None
        if scheme.experts_only and slot not in _EXPERTS:
            return None
        if self._experts and slot in _EXPERTS:
            return self._experts
        return self._scaled(self._storage(scheme, tensor))

    def in_vocabulary(self, slot: str, tensor: str) -> m.Storage | None:
        """Return the format of embedding (slot ``embed``) and ``head``; None:
        floats."""
        if self._scheme and self._scheme.head and slot == "head":
            return self._storage(self._scheme, tensor)
        return self._vocabulary

    def waivers(self) -> Iterator[m.Waiver]:
        """Yield waivers for tensors of the format that nothing is computed with."""
        for pattern, reason in (self._scheme.waived if self._scheme else {}).items():
            yield m.Waiver(pattern=pattern, reason=reason)

    def expected(self) -> Iterator[m.Expected]:
        """Yield the values that tensors of the format are assumed to have."""
        yield from self._scheme.expected if self._scheme else ()

    def _fp4(self, spec: PublishedQuantization) -> m.Storage | None:
        """Return the format of experts that another key than the format's says; None:
        the format's own."""
        given = self._resolve.value(spec.experts) if spec.experts else None
        if given is None or given == "fp8":
            return None
        if given != "fp4":
            expected = f"must be null, fp8 or fp4; {UNQUANTISED}"
            raise self._resolve.error(
                "quantization.experts", spec.experts, expected, given
            )
        scale = spec.scale or "weight_scale_inv"
        return m.FloatQuantized(bits=4, group=32, powers=True, scale=scale)

    def _scaled(self, storage: m.Storage | None) -> m.Storage | None:
        """Give float8 blocks the name that the spec says their scales have."""
        if self._scale is None or not isinstance(storage, m.BlockQuantized):
            return storage
        if storage.suffix != m.BlockQuantized().suffix:
            return storage
        return storage.model_copy(update={"suffix": f".{self._scale}"})

    def _storage(self, scheme: Scheme, tensor: str) -> m.Storage | None:
        """Return the format of a tensor in this layer and in all that follow.

        Where a list leaves it out of some layers only it counts as quantised: such a
        weight may be stored as floats, and published lists are not always right.
        """
        # Experts of a layer are stored alike.
        module = tensor.removesuffix(".weight").replace("{x}", "0")
        for ours, theirs in self._called.items():
            if module.endswith(ours):
                module = module.removesuffix(ours) + theirs
        first = self._resolve.scope.variables.get("i")
        last = self._resolve.size("layers", self._layer_count)
        layers = range(first if isinstance(first, int) else 0, last)
        if scheme.skipped and scheme.skipped.hold_in_all(module, layers):
            return None
        own = module.replace("{i}", str(layers.start))
        found = (
            kind for among, kind in scheme.storages if not among or among.hold(own)
        )
        return next(found, None)

    def _read_rows(self, spec: RowQuantization, resolve: Resolver) -> None:
        bits = resolve.value(spec.bits)
        if bits in (None, 0) and not isinstance(bits, bool):
            return
        if bits not in (4, 8) or isinstance(bits, bool):
            expected = f"must be 0, 4 or 8; {UNQUANTISED}"
            raise resolve.error("quantization.bits", spec.bits, expected, bits)
        storage = m.RowQuantized(bits=bits)
        self._scheme = Scheme(((None, storage),), routers=True)
        if resolve.flag("quantization.embeddings", spec.embeddings):
            self._vocabulary = storage


def harmless_keys(config: Config) -> Iterator[str]:
    """Yield patterns of the keys of a known ``quantization_config`` that say nothing of
    how weights are stored, with dots between keys."""
    given = config.get("quantization_config")
    reader = METHODS.get(_method(given)) if isinstance(given, Mapping) else None
    if reader:
        keys: tuple[str, ...] = _module(reader).HARMLESS[reader.partition(":")[2]]
        yield from (f"quantization_config.{key}" for key in keys)


def _method(config: Config) -> str:
    return str(config.get("quant_method", "modelopt" if "quant_algo" in config else ""))


def _module(reader: str) -> Any:
    return import_module(f"glmc.frontends.quantization.{reader.partition(':')[0]}")


def _published(spec: PublishedQuantization, resolve: Resolver) -> Scheme | None:
    config = resolve.value(spec.config)
    if config is None:
        return None
    if not isinstance(config, Mapping):
        expected = "must be an object"
        raise resolve.error("quantization.config", spec.config, expected, config)
    method = config.get("quant_method", "modelopt" if "quant_algo" in config else None)
    reader = METHODS.get(method) if isinstance(method, str) else None
    if reader is None:
        supported = ", ".join(map(show, METHODS))
        raise UnsupportedQuantizationError(
            f"quantization_config has the method {show(method)}, supported are"
            f" {supported}; {UNQUANTISED}"
        )
    read: Callable[[Config], Scheme] = getattr(
        _module(reader), reader.partition(":")[2]
    )
    return read(config)
