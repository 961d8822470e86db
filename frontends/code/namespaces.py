"""The importable names: tables, contracts, and files beside the text."""

import math
from collections.abc import Callable
from typing import Any

import torch

from glmc.frontends.code import objects, rearranging
from glmc.frontends.code.kinds import TYPES
from glmc.frontends.code.torch_tables import DTYPES, NN_FUNCTIONAL, TORCH
from glmc.frontends.code.values import (
    Absent,
    Builtin,
    HostType,
    Module,
    Namespace,
    Opaque,
)
from glmc.frontends.code.words import words

CONTRACTS = ("nn", "stdlib", "config", "rope", "cache", "masks", "outputs",
             "activations", "models")  # fmt: skip

_TYPING = words("""
    Any Callable ClassVar Dict Final FrozenSet Generator Generic Iterable
    Iterator List Literal Mapping NamedTuple NoReturn Optional Protocol Self
    Sequence Set Tuple Type TypedDict TypeAlias TypeVar Union Unpack overload
    cast no_type_check runtime_checkable NotRequired Required Annotated
    ParamSpec
""")

_NO_OPS = words("""
    add_start_docstrings add_start_docstrings_to_model_forward auto_docstring
    add_code_sample_docstrings add_end_docstrings replace_return_docstrings
    capture_outputs merge_with_config_defaults check_model_inputs
    deprecate_kwarg use_kernel_forward_from_hub use_kernelized_func
    use_kernel_func_from_hub strict accepts_precomputed_kwargs maybe_autocast
    initialization TransformersKwargs FlashAttentionKwargs LossKwargs Unpack
    RopeParameters KwargsForCausalLM dataclass_transform select_hidden_states
    tf_logging ClassInstantier
""")

_MATH = words("""
    sqrt log log2 log10 exp floor ceil pow sin cos tan tanh isclose isnan isinf
    fabs prod gcd trunc
""")

_NO_JIT = """
    _jit_set_profiling_mode _jit_set_profiling_executor _jit_override_can_fuse_on_cpu
    _jit_override_can_fuse_on_gpu
"""

_TENSOR_TYPES = "LongTensor FloatTensor HalfTensor BoolTensor IntTensor BFloat16Tensor"

_VERSION = "2.9.0"


def _math(name: str) -> Builtin:
    function = getattr(math, name)

    def run(machine: Any, *given: Any, **named: Any) -> Any:
        if any(isinstance(value, torch.Tensor) for value in given):
            machine.from_data(name)
        if any(isinstance(v, int) and v.bit_length() > 900 for v in given):
            machine.meter.number(1 << 20)
        if name == "prod":
            given = (list(machine.iterate(given[0])),)
        return function(*given, **named)

    return Builtin(f"math.{name}", run)


def _info(name: str) -> Builtin:
    make = getattr(torch, name)
    default = () if name == "iinfo" else (torch.float32,)
    return Builtin(name, lambda machine, *given: make(*(given or default)))


def _device(machine: Any, name: Any, *index: Any) -> torch.device:
    kind = name.type if isinstance(name, torch.device) else str(name)
    if kind.partition(":")[0] not in ("cpu", "meta"):
        machine.refuse(f"the device {kind[:40]!r} is asked for; texts run on the CPU")
    return torch.device(kind)


def _tensor_type(dtype: torch.dtype | None) -> Callable[..., Any]:
    def make(machine: Any, *given: Any) -> Any:
        from glmc.frontends.code import tensors

        named = {} if dtype is None else {"dtype": dtype}
        if len(given) == 1 and isinstance(given[0], list | tuple):
            return tensors.run(machine, TORCH["tensor"], given, named)
        return tensors.run(machine, TORCH["zeros"], given, named)

    return make


def _size(machine: Any, values: Any) -> torch.Size:
    return torch.Size(list(machine.iterate(values)))


def _false(machine: Any, *given: Any, **named: Any) -> bool:
    return False


def _find_spec(machine: Any, name: str, *given: Any) -> Any:
    found = machine.importer(name)
    return None if isinstance(found, Absent) else Opaque(f"the spec of {name[:100]}")


def _opaque(prefix: str, names: str) -> dict[str, Any]:
    return {name: Opaque(f"{prefix}.{name}") for name in names.split()}


def _torch(nn: Namespace) -> Namespace:
    tensor = HostType("torch.Tensor", (torch.Tensor,), _tensor_type(None))
    names: dict[str, Any] = {
        **TORCH,
        **{name: getattr(torch, name) for name in DTYPES},
        **{
            name: HostType(f"torch.{name}", (torch.Tensor,), _tensor_type(kind))
            for name, kind in zip(
                _TENSOR_TYPES.split(),
                (torch.int64, torch.float32, torch.float16, torch.bool, torch.int32,
                 torch.bfloat16), strict=True)
        },
        **_opaque("torch", "no_grad inference_mode enable_grad autocast compile amp "
                  "set_grad_enabled dynamo _dynamo compiler profiler"),
        "Tensor": tensor,
        "dtype": HostType("torch.dtype", (torch.dtype,)),
        "device": HostType("torch.device", (torch.device,), _device),
        "Size": HostType("torch.Size", (torch.Size,), _size),
        "finfo": _info("finfo"),
        "iinfo": _info("iinfo"),
        "inf": math.inf, "pi": math.pi, "nan": math.nan, "e": math.e,
        "contiguous_format": torch.contiguous_format,
        "legacy_contiguous_format": torch.contiguous_format,
        "preserve_format": torch.preserve_format,
        "strided": torch.strided,
        "__version__": _VERSION,
        "nn": nn,
        "get_default_dtype": Builtin("dtype", lambda machine: torch.float32),
        "is_grad_enabled": Builtin("is_grad_enabled", _false),
        "is_autocast_enabled": Builtin("is_autocast_enabled", _false),
        "get_autocast_gpu_dtype": Builtin("dtype", lambda machine: torch.float32),
        "get_autocast_dtype": Builtin("dtype", lambda machine, *given: torch.float32),
        "is_tensor": Builtin("is_tensor", lambda m, v: isinstance(v, torch.Tensor)),
    }  # fmt: skip
    names["jit"] = Namespace("torch.jit", {
        **_opaque("torch.jit", "script script_if_tracing ignore unused export"),
        "is_tracing": Builtin("is_tracing", _false),
        "is_scripting": Builtin("is_scripting", _false),
    })  # fmt: skip
    available = {"is_available": Builtin("is_available", _false)}
    names["cuda"] = Namespace(
        "torch.cuda", {**available, **_opaque("torch.cuda", "amp")}
    )
    names["backends"] = Namespace("torch.backends", {})
    names["version"] = Namespace("torch.version", {"cuda": None, "hip": None})
    names["_C"] = Namespace("torch._C", _opaque("torch._C", _NO_JIT))
    names["fx"] = Namespace("torch.fx", _opaque("torch.fx", "wrap"))
    names["utils"] = Namespace("torch.utils", {
        "checkpoint": Namespace("torch.utils.checkpoint", {}),
    })  # fmt: skip
    return Namespace("torch", names)


def parameter() -> Namespace:
    """Make ``torch.nn.parameter``, which the contract of modules is built on."""
    return Namespace("torch.nn.parameter", {
        "Parameter": HostType(
            "torch.nn.Parameter", (torch.nn.Parameter,), objects.parameter
        ),
        "Buffer": Builtin("torch.nn.Buffer", objects.buffer),
    })  # fmt: skip


def fill(found: dict[str, Any], contract: Callable[[str], Module]) -> None:
    """Put everything that can be imported by name into ``found``.

    It is filled from the bottom: contracts import what is there already.
    """
    functional = Namespace("torch.nn.functional", dict(NN_FUNCTIONAL))
    nn = Namespace("torch.nn", {
        "functional": functional, "parameter": parameter(),
        "init": Opaque("torch.nn.init"), "utils": Namespace("torch.nn.utils", {}),
    })  # fmt: skip
    top = _torch(nn)
    found |= {"torch": top, "torch.nn": nn, "torch.nn.functional": functional}
    found["torch.nn.parameter"] = nn.names["parameter"]
    found["torch.nn.init"] = nn.names["init"]
    found["math"] = Namespace("math", {
        **{name: _math(name) for name in _MATH},
        "pi": math.pi, "inf": math.inf, "e": math.e, "nan": math.nan,
    })  # fmt: skip
    found |= {
        f"torch.{name}": top.names[name] for name in ("jit", "cuda", "utils", "fx")
    }
    found["torch.utils.checkpoint"] = top.names["utils"].names["checkpoint"]
    nn.names.update(_public(contract("nn")))
    nn.names["utils"].names["skip_init"] = nn.names.pop("skip_init")
    found["torch.nn.utils"] = nn.names["utils"]
    top.names["autograd"] = Namespace("torch.autograd", {
        "Function": nn.names.pop("Function"),
        **_opaque("torch.autograd", "set_grad_enabled no_grad profiler"),
    })  # fmt: skip
    found["torch.autograd"] = top.names["autograd"]
    found["numpy"] = Namespace("numpy", dict(found["math"].names))
    normal = Namespace("torch.distributions", {"Normal": nn.names.pop("Normal")})
    normal.names["normal"] = normal
    top.names["distributions"] = found["torch.distributions"] = normal
    nn.names["modules"] = Namespace("torch.nn.modules", dict(nn.names))
    found |= _standard(_public(contract("stdlib")))
    found["transformers"] = _transformers(contract)


def _public(module: Module) -> dict[str, Any]:
    hidden = ("torch", "F", "math", "copy", "auto_class", *objects.CONTRACT_ONLY)
    return {name: v for name, v in module.names.items() if name not in hidden}


def _standard(names: dict[str, Any]) -> dict[str, Any]:
    typing = Namespace("typing", {n: Opaque(f"typing.{n}") for n in _TYPING}
                       | {"TYPE_CHECKING": False})  # fmt: skip
    cached = HostType("cached_property", ())
    rows: dict[str, dict[str, Any]] = {
        "functools": {
            **_opaque("functools", "wraps lru_cache cache total_ordering"),
            "partial": names["partial"],
            "reduce": names["reduce"],
            "cached_property": cached,
        },
        "itertools": {
            n: names[n] for n in ("chain", "product", "accumulate", "pairwise")
        },
        "collections": {
            "OrderedDict": TYPES["dict"],
            "defaultdict": names["defaultdict"],
            **_opaque("collections", "abc"),
        },
        "dataclasses": {
            "dataclass": Builtin("dataclass", objects.dataclass_of),
            "field": names["field"],
        },
        "copy": {
            "deepcopy": Builtin("deepcopy", objects.deepcopy),
            "copy": Builtin("copy", objects.shallow),
        },
        "types": {"SimpleNamespace": names["SimpleNamespace"]},
        "abc": _opaque("abc", "ABC ABCMeta abstractmethod"),
        "enum": _opaque("enum", "Enum IntEnum auto"),
        "contextlib": _opaque("contextlib", "nullcontext contextmanager suppress"),
        "warnings": _opaque("warnings", "warn filterwarnings simplefilter"),
        "numbers": {"Number": HostType("Number", (int, float))},
        "os": {"environ": {}, "getenv": Builtin("getenv", lambda m, k, d=None: d)},
        "sys": {"version_info": (3, 11, 0), "platform": "linux"},
        "packaging.version": {"parse": names["parse"], "Version": names["Version"]},
        "packaging": {},
        "importlib": {},
        "importlib.util": {"find_spec": Builtin("find_spec", _find_spec)},
        "einops": {
            "rearrange": Builtin("rearrange", rearranging.rearrange),
            "repeat": Builtin("repeat", rearranging.repeat),
        },
        "inspect": {},
        "huggingface_hub.dataclasses": _opaque("huggingface_hub", "strict"),
        "logging": _opaque("logging", "getLogger get_logger warning info basicConfig"),
    }
    found: dict[str, Any] = {n: Namespace(n, inner) for n, inner in rows.items()}
    found["typing"] = found["typing_extensions"] = typing
    found["collections.abc"] = typing
    found["packaging"].names["version"] = found["packaging.version"]
    found["importlib"].names["util"] = found["importlib.util"]
    return found


def _transformers(contract: Callable[[str], Module]) -> Namespace:
    """Make one namespace for all of transformers: its names do not repeat."""
    names: dict[str, Any] = {n: Opaque(f"transformers.{n}") for n in _NO_OPS}
    for name in CONTRACTS[2:]:
        names |= _public(contract(name))
    return Namespace("transformers", names)
