"""Sets of instructions that C++ is compiled for, and what a library for one is called.

The compiler reads this too, and without torch.
"""

import hashlib
from collections.abc import Mapping

#: Dtype to the type of its numbers in C++.
ELEMENTS = {"bf16": "bf16", "f16": "fp16", "f32": "float"}

_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma", "f16c")
#: Sets of instructions, the best first: those they are made of, as Linux calls them.
LEVELS: dict[str, tuple[str, ...]] = {
    "avx512bf16": (*_AVX512, "avx512_bf16", "avx512_vnni"),
    "avx512": _AVX512,
    "avx2": ("avx2", "fma", "f16c"),
    "neon": ("asimd",),
    "generic": (),
}
#: The processors of a set, as compilers call them; the others are x86-64's.
FAMILIES = {"neon": "aarch64"}


def flags(level: str, dtype: str) -> list[str]:
    """Returns the compiler's arguments for a set of instructions and a dtype."""
    element = ELEMENTS[dtype]
    wanted = () if level in FAMILIES else LEVELS[level]
    return [
        *("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
        *("-fPIC", "-shared", "-pthread", f"-DELEMENT={element}"),
        *(["-DELEMENT_BF16"] if element == "bf16" else []),
        *(f"-m{name.replace('_', '')}" for name in wanted),
    ]


def file_name(level: str, dtype: str, sources: Mapping[str, bytes]) -> str:
    """Returns the name of a library: what it is for, and what it is made from, by
    the names of files and their texts."""
    found = hashlib.sha256(" ".join(flags(level, dtype)).encode())
    for name in sorted(sources):
        found.update(name.encode() + b"\0" + sources[name])
    return f"{level}-{dtype}-{found.hexdigest()[:16]}.so"
