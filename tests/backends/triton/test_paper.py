"""A GPU's limits for a kernel are told from its machine code."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from glmc.backends.triton import aot
from glmc.backends.triton.calls import sizes_of
from glmc.backends.triton.dry import AotSpec, Rehearsal
from glmc.backends.triton.paper import sass
from glmc.backends.triton.paper.flight import Flight, flight
from glmc.backends.triton.paper.pipes import Work, work
from glmc.backends.triton.paper.pointers import early, offsets, sources
from glmc.backends.triton.paper.predict import LAUNCH, Cores, Gpu, predict
from glmc.backends.triton.paper.sheet import sheet
from glmc.backends.triton.resources import Resources
from glmc.backends.triton.targets import LIMITS, Target
from glmc.backends.triton.uses import OpUse
from glmc.ir.cost import Cost
from support.kernels import attention_use, coded_use, product_use, render

HOPPER = Gpu(Cores("cuda:90", 132, 1.98, 900), 4800, 989)
PLAIN = Cost(480_000_000)


def code(body: str) -> tuple[list[sass.Instruction], list[sass.Loop]]:
    """Parse instructions that are written one a line, labels with a colon."""
    lines = []
    for at, line in enumerate(body.strip().splitlines()):
        text = line.strip()
        lines.append(text if text.endswith(":") else f"  /*{at:04x}*/  {text} ;")
    return sass.parse("\n".join(lines))


def read(body: str) -> Flight:
    """Look at the reads of a text whose loads all come from memory."""
    parsed, loops = code(body)
    loads = [one.name in ("LDG", "LDGSTS") for one in parsed]
    return flight(parsed, loops, loads, "cuda:90")


AHEAD = """
    LDG.E.128 R4, desc[UR4][R2.64]
    .L_x_0:
    LDG.E.128 R8, desc[UR4][R2.64+0x800]
    FFMA R0, R4, R1, R0
    MOV R4, R8
    @!P0 BRA `(.L_x_0)
    EXIT
    .L_x_1:
    BRA `(.L_x_1)
"""


def test_a_loop_ends_where_it_branches_back() -> None:
    parsed, loops = code(AHEAD)
    assert [(loop.first, loop.last) for loop in loops] == [(1, 4)]
    assert [one.opcode for one in parsed[:2]] == ["LDG.E.128", "LDG.E.128"]
    assert parsed[4].guard == "@!P0"


def test_only_innermost_loops_count() -> None:
    _, loops = code(
        """
        .L_x_0:
        MOV R1, R2
        .L_x_1:
        LDG.E R4, desc[UR4][R2.64]
        @P0 BRA `(.L_x_1)
        @P1 BRA `(.L_x_0)
        EXIT
        """
    )
    assert [(loop.first, loop.last) for loop in loops] == [(1, 2)]


def test_wide_results_are_several_registers() -> None:
    parsed, _ = code("LDG.E.128 R4, desc[UR4][R2.64]\nSTG.E.64 desc[UR4][R2.64], R8")
    assert parsed[0].writes == {4, 5, 6, 7}
    assert parsed[1].writes == frozenset()
    assert parsed[1].reads >= {2, 8}


def test_what_is_loaded_ahead_is_under_way_with_what_is_used() -> None:
    assert read(AHEAD).under_way == 32


def test_a_use_before_the_next_load_is_seen() -> None:
    """The mistake that prefetching avoids: the loop waits, and then asks."""
    late = AHEAD.replace("FFMA R0, R4, R1, R0", "").replace(
        ".L_x_0:", ".L_x_0:\n    FFMA R0, R4, R1, R0"
    )
    assert read(late).under_way == 16


def test_copies_are_under_way_until_their_group_is_waited_for() -> None:
    body = """
        LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64]
        LDGDEPBAR
        .L_x_0:
        LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64]
        LDGDEPBAR
        DEPBAR.LE SB0, {left}
        @!P0 BRA `(.L_x_0)
        EXIT
    """
    assert read(body.format(left="0x2")).under_way == 48
    assert read(body.format(left="0x1")).under_way == 32
    assert read(body.format(left="0x0")).under_way == 32


def test_loads_are_counted_by_their_width() -> None:
    found = read("LDG.E.128 R4, desc[UR4][R2.64]\nLDG.E.U16 R8, desc[UR4][R2.64]\nEXIT")
    assert found.widths == {128: 1, 16: 1}
    assert found.loaded == 18


def test_what_stays_in_a_cache_is_not_counted() -> None:
    parsed, loops = code(AHEAD)
    assert flight(parsed, loops, [False] * len(parsed), "cuda:90").under_way == 0


def test_addresses_are_followed_to_their_pointers() -> None:
    parsed, _ = code(
        """
        ULDC.64 UR6, c[0x0][0x218]
        LDC.64 R2, c[0x0][0x210]
        IMAD.WIDE R8, R0, 0x2, R2
        IADD3 R10, P0, R0, UR6, RZ
        LDG.E.128 R4, desc[UR4][R8.64]
        LDG.E.128 R12, desc[UR4][R10.64]
        IMAD.WIDE R8, R4, 0x2, R6
        LDG.E R16, desc[UR4][R8.64]
        """
    )
    pointers = offsets({"x": "*bf16", "weight": "*bf16"}, 90)
    assert pointers == {0x210: "x", 0x218: "weight"}
    assert sources(parsed, pointers)[4:] == [{"x"}, {"weight"}, set(), set()]


def taken(registers: int, warps: int) -> Resources:
    return Resources(registers, 0, 0, warps)


def reads(
    under_way: int, instructions: int = 100, loaded: int = 64, products: int = 0
) -> Flight:
    work = Work(instructions, products)
    return Flight(under_way, loaded, {128: loaded // 16}, instructions, work, False)


def test_what_fits_is_read_at_full_bandwidth() -> None:
    # 132 cores, each with 4 programs of 4 warps: 4 * 128 * 64 = 32,768 bytes.
    seen = predict((528,), taken(64, 4), reads(64), PLAIN, HOPPER)
    assert (seen.waves, seen.under_way, seen.tail) == (1, 32_768, 0)
    assert seen.enough == 1
    assert seen.time == pytest.approx(100 + LAUNCH)
    assert seen.limit == "read"


def test_too_little_under_way_takes_longer() -> None:
    seen = predict((528,), taken(64, 4), reads(16), PLAIN, HOPPER)
    assert seen.enough == pytest.approx(8192 / (4.8e12 * 900e-9 / 132))
    assert seen.limit == "under way"
    assert seen.time == pytest.approx(100 / seen.enough + LAUNCH)


def test_little_is_under_way_where_there_is_little() -> None:
    few = round(0.9 * HOPPER.needed * 132)
    assert predict((528,), taken(64, 4), reads(16), Cost(few), HOPPER).limit == (
        "few bytes"
    )


def test_a_last_wave_of_few_programs_takes_long() -> None:
    # 8 programs fit a core: 1056 in the first wave, and one is left over.
    nbytes = 1057 * 65_536
    seen = predict((1057,), taken(64, 4), reads(64), Cost(nbytes), HOPPER)
    assert (seen.waves, seen.limit) == (2, "tail")
    full = 1056 * 65_536 / 4.8e6
    alone = 65_536 / (4 * 32 * 64) * 0.9
    assert seen.time == pytest.approx(full + alone + LAUNCH)
    whole = predict((1056,), taken(64, 4), reads(64), Cost(nbytes), HOPPER)
    assert (whole.waves, whole.tail) == (1, 0)


def test_many_instructions_a_byte_are_a_limit() -> None:
    seen = predict((528,), taken(64, 4), reads(64, 1000), PLAIN, HOPPER)
    a_cycle = 4.8e12 / 132 / 1.98e9
    assert seen.issue == pytest.approx(a_cycle * 1000 / (64 * 32) / 4)
    assert seen.limit == "issue"


def test_a_launch_that_moves_little_is_a_launch() -> None:
    seen = predict((1,), taken(32, 1), reads(16), Cost(64), HOPPER)
    assert seen.limit == "launch"


def test_a_busy_pipe_takes_more_than_its_instructions() -> None:
    parsed, _ = code("LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT\nFADD R1, R2, R3\nMOV R4, R5")
    assert work(parsed, "cuda:90") == Work(3, 0)
    assert work(parsed * 2 + parsed[:1] * 4, "cuda:90") == Work(12, 0)
    special, _ = code("MUFU.EX2 R1, R2\nMOV R4, R5")
    assert work(special, "cuda:90").cycles == 8
    assert work(parsed[1:2] * 8, "cuda:80").cycles == 16
    assert work(parsed[1:2] * 8, "cuda:90").cycles == 8


@pytest.mark.parametrize(
    ("opcode", "operations"),
    [
        ("HMMA.16816.F32.BF16", 2 * 16 * 8 * 16),
        ("HMMA.1688.F32", 2 * 16 * 8 * 8),
        ("IMMA.16832.S8.S8", 2 * 16 * 8 * 32),
        # One instruction of four warps.
        ("HGMMA.64x128x16.F32.BF16", 2 * 64 * 128 * 16 // 4),
        ("FFMA", 0),
    ],
)
def test_products_of_tensor_cores_are_counted(opcode: str, operations: int) -> None:
    parsed, _ = code(f"{opcode} R4, R8, R12, R4")
    assert work(parsed, "cuda:90").products == operations


def test_products_are_a_limit_with_what_is_issued_around_them() -> None:
    cost, kernel = Cost(4800, 989 * 10**8), taken(64, 4)
    seen = predict((528,), kernel, reads(64, 100, 64, 409_600), cost, HOPPER)
    issued = 989e8 / 409_600 * 100 / (132 * 1.98e3 * 4)
    assert seen.time == pytest.approx(100 + issued + LAUNCH)
    assert seen.limit == "tensor"
    # 133 programs: one core does two of them.
    seen = predict((133,), kernel, reads(64, 0, 64, 4096), cost, HOPPER)
    assert seen.time == pytest.approx(100 * 264 / 133 + LAUNCH)
    assert seen.tail == pytest.approx(1 - 133 / 264)


KERNEL = """
import torch
import triton
import triton.language as tl


@triton.jit
def copy_kernel(small, count, big, out, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    gain = tl.load(small + tl.arange(0, N))
    tl.store(out + at, tl.load(big + at, mask=at < count, other=0.0) * gain)
"""
SIGNATURE: Mapping[str, str] = {
    "small": "*fp32",
    "count": "i32",
    "big": "*fp32",
    "out": "*fp32",
}


def followed(target: str) -> set[str]:
    """Compile the kernel, and say what its loads read."""
    aligned = ("small", "big", "out")
    spec = AotSpec("copy_kernel", SIGNATURE, {"N": 1024}, aligned)
    job = aot.Job(spec, "f32", Target(target))
    made = aot.compile_jobs(KERNEL, [job]).kernels[0]
    parsed, _ = sass.parse(sass.disassemble(made.binary))
    names = sources(parsed, offsets(SIGNATURE, int(Target(target).arch)))
    loads = [of for one, of in zip(parsed, names, strict=True) if one.name == "LDG"]
    assert loads
    assert all(len(of) == 1 for of in loads)
    return {name for of in loads for name in of}


@pytest.mark.parametrize(
    "target",
    [
        "cuda:90",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in LIMITS
            if name.startswith("cuda") and name != "cuda:90"
        ),
    ],
)
def test_arguments_lie_where_the_compiler_puts_them(target: str) -> None:
    assert followed(target) == {"small", "big"}


def test_a_call_is_launched_in_its_sizes() -> None:
    use = product_use("linear", 512, 256)
    rehearsal = Rehearsal(render(use), "cuda:90")
    (one,) = rehearsal.call(use, "bf16", sizes=sizes_of(1, 1, 100))
    (few,) = rehearsal.call(use, "bf16", sizes=sizes_of(4, 2, 100))
    assert "gemv" in one.spec.kernel
    assert "skinny" in few.spec.kernel
    assert one.nbytes["weight"] == 512 * 256 * 2
    assert few.nbytes["x"] == 8 * 256 * 2
    assert one.grid == (256, 1)


def fitted(use: OpUse, cores: int, sequence: int = 1) -> AotSpec:
    """Return the first launch of decode of one row on a GPU with so many cores."""
    rehearsal = Rehearsal(render(use), "cuda:90", cores)
    return rehearsal.call(use, "bf16", sizes=sizes_of(1, 1, sequence))[0].spec


@pytest.mark.parametrize(
    ("cores", "rows", "registers"),
    [(132, 4, 255), (131, 8, 200), (105, 4, 255), (66, 8, 255)],
)
def test_tiles_are_chosen_by_the_cores_that_there_are(
    cores: int, rows: int, registers: int
) -> None:
    """4,224 outputs fill 132 cores once; what fewer have of them is a fuller wave."""
    spec = fitted(coded_use("rms_norm_linear", 8, 4224, 64), cores)
    assert (spec.constants["ROWS"], spec.maxnreg) == (rows, registers)


@pytest.mark.parametrize(
    ("cores", "parts"), [(132, 32), (148, 32), (58, 16), (304, 64), (1000, 64), (8, 8)]
)
def test_a_cache_is_cut_by_the_cores_that_there_are(cores: int, parts: int) -> None:
    use = attention_use(8, 8, 64)
    assert fitted(use, cores, 100).constants["SPLITS"] == parts


def test_a_sheet_has_a_line_for_each_launch() -> None:
    use = product_use("linear", 512, 256)
    sizes = sizes_of(1, 1, 100)
    (line,) = sheet(render(use), [(use, Cost(262_144))], "bf16", sizes, HOPPER)
    assert line.launched.spec.kernel == "linear_gemv_kernel"
    assert line.reads.loaded > 0
    assert set(line.reads.widths) == {128}
    assert line.predicted.time > LAUNCH


def test_without_triton_there_is_no_disassembler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sass, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="triton"):
        sass.disassemble(b"")


PRODUCTS = (
    product_use("linear_add", 4096, 4096),
    product_use("rms_norm_linear", 4608, 4096, "bias"),
    coded_use("linear_add", 4, 4096, 4096, "zeros", group=128),
    coded_use("rms_norm_linear", 8, 4096, 4096),
)
PARAMETERS = {"weight", "scales", "zeros", "norm", "bias"}


def read_early(text: str, use: OpUse, target: str = "cuda:90") -> set[str] | None:
    """Compile the kernel of one row, and say what it reads before it waits."""
    (one,) = Rehearsal(text, target).call(use, "bf16", sizes=sizes_of(1, 1, 1))
    assert one.spec.launch_pdl == (target == "cuda:90")
    job = aot.Job(one.spec, "bf16", Target(target))
    made = aot.compile_jobs(text, [job]).kernels[0]
    parsed, _ = sass.parse(sass.disassemble(made.binary))
    names = offsets(one.spec.signature, int(Target(target).arch))
    if one.spec.launch_pdl:
        assert "PREEXIT" in [instruction.name for instruction in parsed]
    return early(parsed, names)


@pytest.mark.parametrize(
    "use",
    [PRODUCTS[1], *(pytest.param(use, marks=pytest.mark.slow) for use in PRODUCTS)],
    ids=lambda use: f"{use.name}-{use.attrs.get('bits', 'floats')}",
)
def test_a_launch_that_begins_early_reads_only_weights(use: OpUse) -> None:
    assert read_early(render(use), use) == {"weight"}


@pytest.mark.slow
def test_older_targets_do_not_begin_early() -> None:
    assert read_early(render(PRODUCTS[0]), PRODUCTS[0], "cuda:80") is None


def test_control_an_early_read_is_seen() -> None:
    """The norm's statistics before the wait read what the launch before is writing."""
    use = PRODUCTS[1]
    text = render(use)
    wait, measure = "    _await_launch(PDL)\n", "    scale = _measure("
    kernel = text.index("def rms_norm_linear_gemv_kernel(")
    at, end = (
        text.index(wait, kernel),
        text.index(")\n", text.index(measure, kernel)) + 2,
    )
    late = text[:at] + text[at + len(wait) : end] + wait + text[end:]
    found = read_early(late, use)
    assert found is not None
    assert "x" in found
    assert not found <= PARAMETERS
