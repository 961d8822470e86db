"""Record what the launchers of a build launch, by running them without a GPU.

The text of ``kernels.py`` is run with stand-ins for torch and triton, its launchers are
called on :mod:`sketches <glmc.backends.triton.sketch>` in the shapes of a model, and
what reaches a kernel is kept. So no argument of a kernel is written down twice.
"""

import builtins
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from glmc.backends.triton import calls
from glmc.backends.triton.sketch import DTYPES, Sketch, torch_of_sketches
from glmc.backends.triton.uses import OpUse

Constant = int | float | str | None


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
class Described:
    """A descriptor of a tensor, as the launcher makes it for the tensor memory unit."""

    base: Sketch
    shape: list[int]
    strides: list[int]
    block: list[int]


_CONSTEXPR = object()


class _Kernel:
    """A kernel that records its launches."""

    def __init__(self, fn: Callable[..., None], counts: Iterable[str]):
        self.name = fn.__name__
        self.counts = frozenset(counts)
        self.arguments = inspect.signature(fn).parameters
        self.found: list[AotSpec] = []

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self._launch

    def _launch(self, *given: Any, **named: Any) -> None:
        options = {
            name: named.pop(name, default)
            for name, default in (("num_warps", 4), ("num_stages", None))
        }
        options["maxnreg"] = named.pop("maxnreg", None)
        values = dict(zip(self.arguments, given, strict=False)) | named
        types: dict[str, str] = {}
        constants: dict[str, Constant] = {}
        aligned = []
        for name, argument in self.arguments.items():
            value = values.pop(name)
            if value is None or argument.annotation is _CONSTEXPR:
                constants[name] = value
                continue
            types[name], whole = _typed(value)
            if whole and name not in self.counts:
                aligned.append(name)
        assert not values, f"{self.name} takes no {', '.join(values)}"
        spec = AotSpec(self.name, types, constants, tuple(aligned), **options)
        if spec not in self.found:
            self.found.append(spec)


def _typed(value: Any) -> tuple[str, bool]:
    """Return Triton's type of an argument, and whether it is a multiple of 16."""
    if isinstance(value, Sketch):
        return f"*{value.dtype.name}", True
    if isinstance(value, Described):
        return f"tensordesc<{value.base.dtype.name}{value.block}>", False
    return "i32", value % 16 == 0


def launches(
    kernels: str, uses: Iterable[OpUse], dtype: str, cache: str = "", target: str = ""
) -> list[AotSpec]:
    """List every kernel as the launchers of some ops launch it, each specialisation
    once.

    Args:
        kernels: the text of kernels.py.
        uses: ops that have a launcher there, as the layers of a model use them.
        dtype: "f32", "f16" or "bf16": weights, activations and cache.
        cache: "int8" or "fp8_e4m3" where the cache is not in that dtype.
        target: the GPU, one without features of its own where it is left out.
    """
    made: list[_Kernel] = []
    module = _imported(kernels, target, made)
    for use in uses:
        calls.run(getattr(module, use.name), use, DTYPES[dtype], cache)
    return [spec for kernel in made for spec in kernel.found]


def _imported(text: str, target: str, made: list[_Kernel]) -> ModuleType:
    """Import the module of some kernels, with stand-ins for all that it imports."""
    modules = _stand_ins(target, made)

    def find(name: str, _: Any, __: Any, wanted: Any = (), level: int = 0) -> Any:
        asked = "." * level + name
        found = modules.get(asked if wanted else asked.partition(".")[0])
        if found is None and level:
            return _Anything(name)
        return found or importlib.import_module(name)

    module = ModuleType("kernels")
    # Its own, so that the real torch and triton stay what they are to all others.
    module.__dict__["__builtins__"] = vars(builtins) | {"__import__": find}
    exec(compile(text, "kernels.py", "exec"), module.__dict__)
    return module


def _stand_ins(target: str, made: list[_Kernel]) -> dict[str, ModuleType]:
    """Map module names to their stand-ins; a relative one begins with a dot."""

    def jit(fn: Any = None, do_not_specialize: Iterable[str] = ()) -> Any:
        if fn is None:
            return lambda fn: jit(fn, do_not_specialize)
        made.append(_Kernel(fn, do_not_specialize))
        return made[-1]

    language = ModuleType("triton.language")
    language.__dict__.update(constexpr=_CONSTEXPR)
    triton = ModuleType("triton")
    triton.__dict__.update(
        jit=jit,
        language=language,
        cdiv=lambda a, b: -(-a // b),
        next_power_of_2=lambda n: 1 << max(n - 1, 0).bit_length(),
    )
    descriptors = ModuleType("triton.tools.tensor_descriptor")
    descriptors.__dict__.update(TensorDescriptor=Described)
    tuning = ModuleType("tuning")
    tuning.__dict__.update(present_target=lambda device: target)
    return {
        "torch": torch_of_sketches(),
        "triton": triton,
        "triton.language": language,
        "triton.tools.tensor_descriptor": descriptors,
        ".tuning": tuning,
    }


class _Anything(ModuleType):
    """A module from which any name can be imported, and none be called."""

    def __getattr__(self, name: str) -> str:
        return name
