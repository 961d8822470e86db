"""Put a user's own kernel in place of an op's: read, checked, and added to the build.

The file is the user's code and is run, in a process of its own, to compare it with the
reference. A file that lies with the model is never run.
"""

import ast
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glmc.ir.errors import GlmcError, KernelRefusedError, OptionValueError
from glmc.ir.model import Model
from glmc.ir.text import print_model

PACKAGE = "own"
SECONDS = 300
ABOUT = '"""Kernels of your own, as they were given to glmc compile --kernel."""\n'


@dataclass(frozen=True)
class OwnKernel:
    """A file that defines a function named like the op, with its launcher's arguments.

    text  the file; it goes into the build as it is
    """

    op: str
    file: Path
    text: str

    @property
    def path(self) -> str:
        """Its place in a build."""
        return f"{PACKAGE}/{self.op}.py"

    def refusal(self, reason: str) -> GlmcError:
        """Return the error that says why it cannot be used."""
        return KernelRefusedError(
            f"--kernel {self.op}={self.file}: {reason}. Nothing was written. The file"
            f" must define {self.op}(...) as the reference does; see docs/kernels.md."
        )


def read_kernels(
    given: Iterable[str], folder: Path, known: Iterable[str]
) -> tuple[OwnKernel, ...]:
    """Read the kernels of ``--kernel OP=FILE``, as far as reading can check them.

    Args:
        given: texts of the form OP=FILE.
        folder: where the model lies: a file from there is refused.
        known: the ops of the model that may be replaced.

    Raises:
        GlmcError: for an op that is not in the model, one that is given twice, and a
            file that cannot be read, came with the model, or lacks the function.
    """
    known, found = sorted(known), dict[str, OwnKernel]()
    for text in given:
        op, _, file = text.partition("=")
        if not file or op not in known or op in found:
            wrong = "is given twice" if op in found else "is not OP=FILE"
            raise OptionValueError(
                f"--kernel {text}: {wrong}, where OP is one of the ops of this model:"
                f" {', '.join(known)}."
            )
        found[op] = _read(op, Path(file), folder)
    return tuple(found.values())


def _read(op: str, file: Path, folder: Path) -> OwnKernel:
    empty = OwnKernel(op, file, "")
    homes = {folder.absolute(), folder.resolve()}
    places = (file.absolute(), file.resolve())
    if any(place.is_relative_to(home) for place in places for home in homes):
        raise empty.refusal(
            f"the file lies in the model's folder {folder}, and code that came with a"
            " model is never run; keep your own elsewhere"
        )
    try:
        text = file.read_text("utf-8")
        tree = ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise empty.refusal(f"cannot be read: {error}") from None
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if op not in functions:
        raise empty.refusal(f"defines no function {op}")
    return OwnKernel(op, file, text)


def check_kernel(
    own: OwnKernel, small: Model, target: str, disable: Iterable[str]
) -> float:
    """Compare a kernel with the reference, on every call that a small model makes.

    Args:
        own: the kernel; it runs under Triton's interpreter, on the CPU.
        small: a shrunken model, in the dtype to check in.
        target: the name of the target whose passes run.
        disable: passes that are left out.

    Returns:
        The largest difference, relative to the largest value where that is above 1.

    Raises:
        GlmcError: with the reason, when it must not be used.
    """
    import subprocess  # most compiles have no kernels of their own

    request = {
        "op": own.op,
        "file": str(own.file.resolve()),
        "model": print_model(small),
        "target": target,
        "disable": list(disable),
    }
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "glmc.backends.torch.check_kernel"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "1"},
        )
    except subprocess.TimeoutExpired:
        raise own.refusal(f"was not done after {SECONDS} seconds") from None
    if run.returncode:
        last = run.stderr.strip().rpartition("\n")[2] or "without a word"
        raise own.refusal(f"ended the process that checked it: {last}")
    answer = json.loads(run.stdout)
    if "error" in answer:
        raise own.refusal(answer["error"])
    return float(answer["worst"])


def own_files(kernels: Iterable[OwnKernel]) -> dict[str, str | bytes]:
    """Map the paths of user kernels in a build to their text."""
    found: dict[str, str | bytes] = {own.path: own.text for own in kernels}
    return found | {f"{PACKAGE}/__init__.py": ABOUT} if found else found
