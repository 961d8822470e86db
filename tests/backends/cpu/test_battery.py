"""All kernels at once: on ARM what they are on x86, and under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from glmc.backends.runtime import native
from glmc.backends.runtime.instructions import ELEMENTS, flags
from support.cpu.kernels import HARNESS, HEADERS, Mistake, levels

CROSS = "aarch64-linux-gnu-g++"
NEAR = 1e-5
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def program(
    folder: Path, compiler: str, arguments: list[str], mistake: Mistake | None = None
) -> Path:
    """Compile the battery as a program."""
    folder.mkdir()
    for source in (*HEADERS.glob("*.h"), HARNESS, HARNESS.with_name("battery.cpp")):
        shutil.copy(source, folder)
    if mistake:
        file, text, wrong = mistake
        before = (folder / file).read_text()
        assert before.count(text) == 1
        (folder / file).write_text(before.replace(text, wrong))
    given = [one for one in arguments if one not in ("-shared", "-fPIC")]
    out = folder / "battery"
    command = [compiler, *given, str(folder / "battery.cpp"), "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def results(*command: str | Path) -> list[tuple[str, list[float]]]:
    """The numbers that it prints, by kernel."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(name, [float(one) for one in numbers]) for name, *numbers in lines]


def difference(
    ours: list[tuple[str, list[float]]], theirs: list[tuple[str, list[float]]]
) -> float:
    """The largest difference, relative to the largest number of its line."""
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    worst = 0.0
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        scale = max(1.0, *(abs(one) for one in a))
        apart = [abs(x - y) / scale for x, y in zip(a, b, strict=True)]
        assert all(one == one for one in apart), "a number is none"
        worst = max(worst, *apart)
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_arm_computes_the_same(dtype: str, tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64")
    if not emulator or not shutil.which(CROSS) or levels()[-1] != "generic":
        pytest.skip(f"needs {CROSS} and qemu-aarch64")
    if "avx2" not in levels():
        pytest.skip("is of x86 and ARM")
    # Without pairs of bf16, whose products are rounded otherwise.
    here = results(program(tmp_path / "x86", native.compiler(), flags("avx2", dtype)))
    own = [*flags("neon", dtype), "-static"]
    there = program(tmp_path / "arm", CROSS, own)
    assert difference(here, results(emulator, there)) <= NEAR
    wrong = ("recurrent.h", "told[n] * k[i]", "told[n] * q[i]")
    there = program(tmp_path / "wrong", CROSS, own, wrong)
    assert difference(here, results(emulator, there)) > NEAR


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_sanitizers_find_nothing(dtype: str, tmp_path: Path) -> None:
    own = [*flags(levels()[0], dtype), *SANITIZED]
    assert results(program(tmp_path / "right", native.compiler(), own))
    wrong = ("latent.h", "kv_b + first * rank, bias", "kv_b + first * rank * 9, bias")
    with pytest.raises(subprocess.CalledProcessError):
        results(program(tmp_path / "wrong", native.compiler(), own, wrong))
