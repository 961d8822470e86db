"""Compile kernels in processes of their own; run as a module, by ``aot``.

Reads one JSON object from stdin: ``kernels`` (the text of kernels.py), ``own`` (ops
whose kernels are the user's), ``jobs`` (pairs of a specification and a target's name)
and ``processes``. Writes one JSON object a
line: the number of a job and what came of it.

Kernels are launched, in name, on a GPU that is not there: what Triton's launcher would
ask its compiler for on the real one is then what is compiled, and the key under which
Triton would look for the result is the key it gets.
"""

import base64
import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.resources import (
    Resources,
    UnreadableUsage,
    cuda_usage,
    hip_usage,
    instructions,
)
from glmc.backends.triton.targets import LIMITS, Target

# Neither 1, which Triton would take for a constant, nor a multiple of 16.
UNALIGNED = 17
ALIGNED = 16
DESCRIPTOR = re.compile(r"tensordesc<(?P<dtype>\w+)(?P<block>\[[\d, ]+\])>")


class Absent:
    """A driver that stands for a GPU that is not there."""

    def __init__(self, target: Any, number: int):
        self._target, self._number = target, number

    def get_current_target(self) -> Any:
        """Return Triton's description of the GPU."""
        return self._target

    def get_current_device(self) -> int:
        """Return a number for each target: Triton caches what it compiled by device."""
        return self._number

    def get_current_stream(self, device: int) -> int:
        """Return 0; nothing is launched."""
        return 0


class Pointer:
    """A tensor's stand-in, whose data is aligned as torch aligns it."""

    def __init__(self, dtype: str):
        self.dtype = dtype

    def data_ptr(self) -> int:
        """Return a multiple of 16."""
        return 0

    def ptr_range(self) -> int:
        """Return the bytes of its storage: Triton for AMD asks whether 32 bits reach
        them all."""
        return 1 << 40


def import_kernels(text: str, own: Iterable[str] = ()) -> ModuleType:
    """Import the emitted module for its kernels; launchers cannot be called.

    Its file is named ``kernels.py`` and nothing more, so that no path of this machine
    gets into a binary. Triton reads the source through ``linecache``.
    """
    package = "glmc_ahead"
    beside = ("", ".ranks", ".reference", ".tuning", ".own")
    for name in (*beside, *(f".own.{op}" for op in own)):
        sys.modules[package + name] = _stand_in(package + name)
    module = ModuleType(f"{package}.kernels")
    module.__package__ = package
    sys.modules[module.__name__] = module
    lines = text.splitlines(keepends=True)
    linecache.cache["kernels.py"] = (len(text), None, lines, "kernels.py")
    _without_torch()
    exec(compile(text, "kernels.py", "exec"), module.__dict__)
    return module


def _stand_in(name: str) -> ModuleType:
    """Return a module from which anything can be imported, and none of it be called."""
    module = ModuleType(name)
    module.__path__ = []
    module.__dict__["__getattr__"] = lambda attribute: attribute
    return module


def _without_torch() -> None:
    """Replace torch by an empty module: a compiler asks it for one name, and importing
    it takes 1.5 seconds.

    A lazy loader would not do: an import statement looks into a module that is there.
    """
    torch = _stand_in("torch")
    torch.__dict__["Tensor"] = type("Tensor", (), {})  # AMD's compiler tests for it
    sys.modules.setdefault("torch", torch)


def compile_spec(module: ModuleType, spec: AotSpec, target: Target) -> dict[str, Any]:
    """Compile ``spec.kernel`` of an imported ``module``; nothing is loaded or run.

    Returns:
        ``key`` (Triton's), ``metadata`` (JSON that Triton reads back), ``binary``
        (base64) and ``resources``.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    number = list(LIMITS).index(target.name)
    gpu = GPUTarget(target.backend, target.arch, target.limits.threads)
    driver.set_active(Absent(gpu, number))
    given = {name: _sample(spec, name) for name in spec.signature}
    launch: dict[str, int | bool] = {"num_warps": spec.num_warps}
    if spec.num_stages is not None:
        launch["num_stages"] = spec.num_stages
    if spec.maxnreg is not None and target.backend == "cuda":
        launch["maxnreg"] = spec.maxnreg
    if spec.launch_pdl:
        launch["launch_pdl"] = True
    fn = getattr(module, spec.kernel)
    built = fn.warmup(grid=(1,), **given, **spec.constants, **launch)
    binary: bytes = built.asm[target.binary]
    return {
        "key": built.hash,
        "metadata": _metadata(built.metadata),
        "binary": base64.b64encode(binary).decode(),
        "resources": asdict(_resources(spec.kernel, built, binary, target)),
    }


def _sample(spec: AotSpec, name: str) -> Any:
    kind = spec.signature[name]
    if found := DESCRIPTOR.fullmatch(kind):
        return _described(found["dtype"], json.loads(found["block"]))
    if kind.startswith("*"):
        return Pointer(kind.removeprefix("*"))
    return ALIGNED if name in spec.aligned else UNALIGNED


def _described(dtype: str, block: list[int]) -> Any:
    """Return a stand-in for a tensor descriptor, of which only the type is asked
    for."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    sample = TensorDescriptor.__new__(TensorDescriptor)
    sample.base, sample.block_shape = Pointer(dtype), block
    return sample


def _metadata(metadata: Any) -> str:
    """Return the metadata that Triton reads back beside a binary, without the paths of
    this machine."""
    facts = metadata._asdict() | {"extern_libs": []}
    facts["target"] = vars(facts["target"])
    return json.dumps(facts, sort_keys=True, default=list)


def _resources(kernel: str, built: Any, binary: bytes, target: Target) -> Resources:
    text = built.asm["ptx" if target.backend == "cuda" else "amdgcn"]
    if target.backend == "cuda":
        registers, spills = cuda_usage(kernel, _usage(binary))
    else:
        registers, spills = hip_usage(text)
    return Resources(
        registers=registers,
        spills=spills,
        shared=built.metadata.shared,
        num_warps=built.metadata.num_warps,
        instructions=instructions(target.backend, text),
    )


def _usage(cubin: bytes) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), "-res-usage", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout


def _leave_lines_out() -> None:
    """Leave line numbers out of binaries: they come with the paths of this machine.

    Set in Python and not in the environment, so that Triton's keys stay what they are:
    what the kernels do is the same.
    """
    from triton import knobs

    knobs.propagate_env = False
    knobs.compilation.disable_line_info = True


_module: ModuleType | None = None


def _attempt(number: int, spec: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Do one job, in a process of the pool. A compiler may fail in any way it likes."""
    assert _module is not None
    try:
        return {
            "job": number,
            **compile_spec(_module, AotSpec(**spec), Target(target)),
        }
    except UnreadableUsage as error:
        reason = str(error)
    except subprocess.CalledProcessError as error:
        reason = f"{error}: {error.stderr}"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    return {"job": number, "error": reason}


def _work(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    global _module
    _module = import_kernels(request["kernels"], request["own"])
    # Children begin with everything imported; Triton starts no threads.
    pool = ProcessPoolExecutor(request["processes"], get_context("fork"))
    with pool:
        jobs = [
            pool.submit(_attempt, number, spec, target)
            for number, (spec, target) in enumerate(request["jobs"])
        ]
        for job in as_completed(jobs):
            yield job.result()


def main() -> None:
    """Read one request from stdin and write the answers."""
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print is no answer
    import triton
    from triton.runtime.cache import triton_key

    triton_key()  # reads all of Triton: once, and not in each process of the pool
    _leave_lines_out()
    print(json.dumps({"triton": triton.__version__}), file=answers, flush=True)
    for answer in _work(request):
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
