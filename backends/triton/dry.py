"""Record what the launchers of a build launch, by running them without a GPU.

The text of ``kernels.py`` is run with stand-ins for torch and triton, its launchers are
called on :mod:`sketches <glmc.backends.triton.sketch>` in the shapes of a model, and
what reaches a kernel is kept. So no argument of a kernel is written down twice.
"""

import builtins
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from glmc.backends.triton import calls, tiles
from glmc.backends.triton.sketch import DTYPES, Sketch, torch_of_sketches
from glmc.backends.triton.targets import CORES
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
    launch_pdl whether the launch may begin before the one before it has ended
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Constant]
    aligned: tuple[str, ...]
    num_warps: int = 4
    num_stages: int | None = None
    maxnreg: int | None = None
    launch_pdl: bool = False


@dataclass(frozen=True)
class Launched:
    """A kernel that one call of a launcher launches.

    grid    its programs, by axis
    nbytes  of the tensor behind each of its pointers
    """

    spec: AotSpec
    grid: tuple[int, ...]
    nbytes: Mapping[str, int]


@dataclass(frozen=True)
class Described:
    """A descriptor of a tensor, as the launcher makes it for the tensor memory unit."""

    base: Sketch
    shape: list[int]
    strides: list[int]
    block: list[int]


_CONSTEXPR = object()


class _Kernel:
    """A kernel that logs its launches."""

    def __init__(
        self, fn: Callable[..., None], counts: Iterable[str], log: list[Launched]
    ):
        self.name = fn.__name__
        self.counts = frozenset(counts)
        self.arguments = inspect.signature(fn).parameters
        self.log = log

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], /, *given: Any, **named: Any) -> None:
        options = {
            name: named.pop(name, default)
            for name, default in (("num_warps", 4), ("num_stages", None))
        }
        options["maxnreg"] = named.pop("maxnreg", None)
        options["launch_pdl"] = named.pop("launch_pdl", False)
        values = dict(zip(self.arguments, given, strict=False)) | named
        types: dict[str, str] = {}
        nbytes: dict[str, int] = {}
        constants: dict[str, Constant] = {}
        aligned = []
        for name, argument in self.arguments.items():
            value = values.pop(name)
            if value is None or argument.annotation is _CONSTEXPR:
                constants[name] = value
                continue
            types[name], whole = _typed(value)
            tensor = value.base if isinstance(value, Described) else value
            if isinstance(tensor, Sketch):
                nbytes[name] = tensor.numel() * tensor.element_size()
            if whole and name not in self.counts:
                aligned.append(name)
        assert not values, f"{self.name} takes no {', '.join(values)}"
        spec = AotSpec(self.name, types, constants, tuple(aligned), **options)
        self.log.append(Launched(spec, grid, nbytes))


def _typed(value: Any) -> tuple[str, bool]:
    """Return Triton's type of an argument, and whether it is a multiple of 16."""
    if isinstance(value, Sketch):
        return f"*{value.dtype.name}", True
    if isinstance(value, Described):
        return f"tensordesc<{value.base.dtype.name}{value.block}>", False
    return "i32", value % 16 == 0


class Rehearsal:
    """The launchers of a build, which can be called without a GPU.

    Args:
        kernels: the text of kernels.py.
        target: the GPU, one without features of its own where it is left out.
        cores: of the GPU, those that are usual for the target where they are left out.
    """

    def __init__(self, kernels: str, target: str = "", cores: int | None = None):
        self.kernels: list[str] = []
        """The names of its kernels, in order."""
        self._log: list[Launched] = []
        self._module = self._imported(kernels, target)
        if hasattr(self._module, "fit"):
            self._module.fit(cores or CORES.get(target, tiles.CORES))

    def call(
        self,
        use: OpUse,
        dtype: str,
        cache: str = "",
        sizes: calls.Sizes = calls.EVERY,
    ) -> list[Launched]:
        """Call the launcher of an op and return what it launched, in order.

        Args:
            use: an op that has a launcher there, as a layer of a model uses it.
            dtype: "f32", "f16" or "bf16": weights, activations and cache.
            cache: "int8" or "fp8_e4m3" where the cache is not in that dtype.
            sizes: of the calls.
        """
        before = len(self._log)
        launcher = getattr(self._module, use.name)
        calls.run(launcher, use, DTYPES[dtype], cache, sizes)
        return self._log[before:]

    def _imported(self, text: str, target: str) -> ModuleType:
        """Import the module of some kernels, with stand-ins for all that it imports."""
        modules = self._stand_ins(target)

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

    def _stand_ins(self, target: str) -> dict[str, ModuleType]:
        """Map module names to their stand-ins; a relative one begins with a dot."""

        def jit(fn: Any = None, do_not_specialize: Iterable[str] = ()) -> Any:
            if fn is None:
                return lambda fn: jit(fn, do_not_specialize)
            self.kernels.append(fn.__name__)
            return _Kernel(fn, do_not_specialize, self._log)

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
        ranks = ModuleType("ranks")
        alone = SimpleNamespace(sum=lambda x: x)
        ranks.__dict__.update(current=lambda: alone)
        return {
            "torch": torch_of_sketches(),
            "triton": triton,
            "triton.language": language,
            "triton.tools.tensor_descriptor": descriptors,
            ".tuning": tuning,
            ".ranks": ranks,
        }


def launches(
    kernels: str, uses: Iterable[OpUse], dtype: str, cache: str = "", target: str = ""
) -> list[AotSpec]:
    """List every kernel as the launchers of some ops launch it, each specialisation
    once, in the order of the kernels; see :class:`Rehearsal` for the arguments."""
    rehearsal = Rehearsal(kernels, target)
    found: dict[str, list[AotSpec]] = {name: [] for name in rehearsal.kernels}
    for use in uses:
        for launched in rehearsal.call(use, dtype, cache):
            specs = found[launched.spec.kernel]
            if launched.spec not in specs:
                specs.append(launched.spec)
    return [spec for specs in found.values() for spec in specs]


class _Anything(ModuleType):
    """A module from which any name can be imported, and none be called."""

    def __getattr__(self, name: str) -> str:
        return name
