"""Hold the predictions of `glmc inspect --kernels` against published figures.

`python bench/paper_method.py FOLDER` takes the tutorials of Triton's documentation,
pages (`.md`) or programs (`.py`) whose names begin 01 to 03 and 06, compiles their
kernels as glmc compiles its own, predicts them, and prints the prediction beside the
figure that the documentation shows. The kernels are not in this repository, and nothing
of a page is run but the kernels, by Triton's compiler.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glmc.backends.triton import aot
from glmc.backends.triton.dry import AotSpec, Launched
from glmc.backends.triton.paper import sheet
from glmc.backends.triton.paper.predict import Prediction, predict
from glmc.backends.triton.resources import occupancy
from glmc.backends.triton.targets import LIMITS, Target
from glmc.ir.cost import Cost
from glmc.look.devices import device
from glmc.look.paper import gpu_of

HEAD = "import triton\nimport triton.language as tl\n\n"


@dataclass(frozen=True)
class Trial:
    """A kernel on one size, and what the documentation says of it.

    figure    10^9 bytes a second, or 10^12 operations where ``cost.flops``
    pointers  argument -> Triton type and bytes of its tensor
    numbers   argument -> whether it is a multiple of 16
    choices   constants, warps and stages among which the documentation's tuner chose
    grid      programs by a choice's constants; an empty one fills the GPU once
    """

    page: str
    kernel: str
    size: int
    figure: float
    cost: Cost
    pointers: Mapping[str, tuple[str, int]]
    numbers: Mapping[str, bool]
    choices: Sequence[tuple[Mapping[str, int | str | None], int, int | None]]
    rows: Sequence[tuple[str | int, int]] = ()
    floats: Sequence[str] = field(default=())


def jitted(page: Path) -> str:
    """Return the kernels of a tutorial, without what surrounds and tunes them."""
    text = page.read_text()
    parts = [text]
    if page.suffix == ".md":
        found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        parts = [part for part in found if "@triton.jit" in part]
    return HEAD + "\n\n".join(one for part in parts for one in _kernels(part))


def _kernels(text: str) -> Iterator[str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and _is_jitted(node):
            node.decorator_list = [
                one for one in node.decorator_list if not isinstance(one, ast.Call)
            ]
            yield ast.unparse(node)


def _is_jitted(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(one) == "triton.jit" for one in node.decorator_list)


def _vectors() -> Iterator[Trial]:
    for size, figure in ((1 << 22, 1228.8), (1 << 24, 1560.4), (1 << 27, 1684.0)):
        tensor = ("*fp32", size * 4)
        yield Trial(
            *("01", "add_kernel", size, figure, Cost(size * 12)),
            pointers=dict.fromkeys(("x_ptr", "y_ptr", "output_ptr"), tensor),
            numbers={"n_elements": True},
            choices=[({"BLOCK_SIZE": 1024}, 4, None)],
            rows=[("BLOCK_SIZE", size)],
        )


def _softmaxes() -> Iterator[Trial]:
    rows = 4096
    figures = {256: 475.6, 512: 752.3, 1024: 994.0, 2048: 1281.0, 4096: 1395.7}
    for size, figure in {**figures, 8192: 1442.3}.items():
        tensor = ("*fp32", rows * size * 4)
        yield Trial(
            *("02", "softmax_kernel", size, figure, Cost(rows * size * 8)),
            pointers={"output_ptr": tensor, "input_ptr": tensor},
            numbers=dict.fromkeys(
                ("input_row_stride", "output_row_stride", "n_rows", "n_cols"), True
            ),
            choices=[({"BLOCK_SIZE": size, "num_stages": 2}, 8, None)],
        )


_TILES = (
    *((128, 256, 64, 3, 8), (64, 256, 32, 4, 4), (128, 128, 32, 4, 4)),
    *((128, 64, 32, 4, 4), (64, 128, 32, 4, 4), (128, 64, 64, 4, 4)),
)


def _products() -> Iterator[Trial]:
    for size, figure in ((1024, 99.9), (2048, 190.7), (4096, 215.8)):
        tensor = ("*fp16", size * size * 2)
        yield Trial(
            *("03", "matmul_kernel", size, figure),
            cost=Cost(size * size * 6, 2 * size**3),
            pointers=dict.fromkeys(("a_ptr", "b_ptr", "c_ptr"), tensor),
            numbers=dict.fromkeys(
                ("M", "N", "K", "stride_am", "stride_bk", "stride_cm"), True
            ),
            choices=[
                (
                    dict(
                        zip(
                            ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K"),
                            tile[:3],
                            strict=True,
                        ),
                        GROUP_SIZE_M=8,
                        ACTIVATION="",
                        **dict.fromkeys(("stride_ak", "stride_bn", "stride_cn"), 1),
                    ),
                    tile[4],
                    tile[3],
                )
                for tile in _TILES
            ],
            rows=[("BLOCK_SIZE_M", size), ("BLOCK_SIZE_N", size)],
        )


def _attentions() -> Iterator[Trial]:
    heads, width = 4 * 32, 64
    strides = [f"stride_{of}{by}" for of in "qkvo" for by in "zhm"]
    strides = [re.sub(r"_([kv])m$", r"_\1n", name) for name in strides]
    strides = ["stride_vk" if name == "stride_vn" else name for name in strides]
    ones = ("stride_qk", "stride_kk", "stride_vn", "stride_on")
    for size, figure in ((2048, 168.1), (4096, 169.8), (16384, 175.4)):
        tensor = ("*fp16", heads * size * width * 2)
        yield Trial(
            *("06", "_attn_fwd", size, figure),
            cost=Cost(4 * tensor[1], 4 * heads * size * size * width),
            pointers=dict.fromkeys(("Q", "K", "V", "Out"), tensor)
            | {"M": ("*fp32", heads * size * 4)},
            numbers=dict.fromkeys([*strides, "N_CTX"], True) | {"Z": False, "H": True},
            floats=["sm_scale"],
            choices=[
                (
                    {"HEAD_DIM": width, "BLOCK_M": m, "BLOCK_N": n, "STAGE": 1}
                    | dict.fromkeys(ones, 1),
                    4,
                    stages,
                )
                for m in (64, 128)
                for n in (32, 64)
                for stages in (3, 4)
            ],
            rows=[("BLOCK_M", size), (1, heads)],
        )


def trials() -> Iterator[Trial]:
    """List what is tried. Figures are those of the documentation, of an A100."""
    yield from _vectors()
    yield from _softmaxes()
    yield from _products()
    yield from _attentions()


def predicted(kernels: str, trial: Trial, name: str) -> Prediction:
    """Predict a trial on a device of ``glmc.look.devices``, by the fastest choice."""
    on = gpu_of(device(name, "--device"))
    chip = Target(on.cores.chip)
    specs = [_spec(kernels, trial, choice) for choice in trial.choices]
    made = aot.compile_jobs(kernels, [aot.Job(one, "f16", chip) for one in specs])
    found = []
    for compiled in made.kernels:
        spec = compiled.job.spec
        nbytes = {name: size for name, (_, size) in trial.pointers.items()}
        grid = tuple(
            -(-of // (by if isinstance(by, int) else int(str(spec.constants[by]))))
            for by, of in trial.rows
        )
        if not grid:
            taken = compiled.resources
            fits = occupancy(taken, LIMITS[chip.name]) // taken.num_warps
            grid = (fits * on.cores.count,)
        look = sheet.look(Launched(spec, grid, nbytes), made.kernels)
        found.append(predict(grid, look[0], look[1], trial.cost, on))
    return min(found, key=lambda one: one.time)


def _spec(
    kernels: str,
    trial: Trial,
    choice: tuple[Mapping[str, int | str | None], int, int | None],
) -> AotSpec:
    constants, warps, stages = choice
    types = {name: kind for name, (kind, _) in trial.pointers.items()}
    types |= dict.fromkeys(trial.numbers, "i32") | dict.fromkeys(trial.floats, "fp32")
    text = next(
        node
        for node in ast.parse(kernels).body
        if isinstance(node, ast.FunctionDef) and node.name == trial.kernel
    )
    order = [arg.arg for arg in text.args.args if arg.arg in types]
    aligned = [*trial.pointers, *(n for n, whole in trial.numbers.items() if whole)]
    return AotSpec(
        trial.kernel,
        {name: types[name] for name in order},
        constants,
        tuple(name for name in order if name in aligned),
        warps,
        stages,
    )


def main() -> None:
    """Print a line for each trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with Triton's tutorials")
    parser.add_argument("--device", default="a100", help="of the published figures")
    options = parser.parse_args()
    print("| kernel | size | predicted | published | published / predicted | limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    for trial in trials():
        page = next(iter(sorted(options.folder.glob(f"{trial.page}-*"))), None)
        if page is None:
            parser.error(f"{options.folder} has no page that begins {trial.page}-")
        seen = predicted(jitted(page), trial, options.device)
        rate = (trial.cost.flops / 1e3 or trial.cost.nbytes) / seen.time / 1e3
        unit = "TFLOP/s" if trial.cost.flops else "GB/s"
        print(
            f"| {trial.kernel} | {trial.size:,} | {rate:,.0f} {unit}"
            f" | {trial.figure:,.0f} | {trial.figure / rate:.2f} | {seen.limit} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
