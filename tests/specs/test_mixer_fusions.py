"""A mixer's scan and what stands around it become one op that means the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.backends.torch.execute import compare
from glmc.backends.triton.passes import mixers
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.passes.rewrite import Fusion, Rule
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_program
from support.configs import FAMILIES
from support.loading import Load
from support.stages import run

TOLERANCE = 1e-4
NORMED = ("qwen3_next", "olmo_hybrid", "kimi_linear", "bailing_hybrid")
SUMMED = ("mamba2", "bamba", "nemotron_h", "falcon_h1")


def stages(load: Load, family: str) -> dict[str, Program]:
    model = shrink(load(FAMILIES[family]).model)
    return {stage.name: stage.program for stage in run(lower(model))}


def mnemonics(program: Program) -> set[str]:
    return {op.mnemonic for block in program.blocks for op in block.ops}


@pytest.mark.parametrize("family", [*NORMED, *SUMMED])
def test_a_mixer_becomes_one_op(load: Load, family: str) -> None:
    found = stages(load, family)
    ops = mnemonics(found["mix-norm"])
    assert "mix" in ops
    left = {"scan", "short_conv", "step_size", "decay", "add_skip", "l2_normalize"}
    assert not ops & left
    assert ("gated_norm" in ops) == (family in ("mamba2", "bamba", "nemotron_h"))
    programs = [found[name] for name in ("lowered", "mix", "mix-norm")]
    assert max(compare(programs)) <= TOLERANCE
    for program in found.values():
        assert parse_program(print_program(program)) == program


CHANNELS = {"mamba": 1, "jamba": 1, "zamba": 1, "recurrent_gemma": 0, "rwkv": 0}


@pytest.mark.parametrize("family", CHANNELS)
def test_a_scan_of_channels_steps_and_gates(load: Load, family: str) -> None:
    found = stages(load, family)
    scans = [
        op
        for block in found["scan-gate"].blocks
        for op in block.ops
        if op.mnemonic in ("selective_scan", "lru_scan", "wkv_scan")
    ]
    assert scans
    for op in scans:
        given = {field for field, _, _ in op.operands()}
        assert "opened" in given
        assert ("bias" in given) == bool(CHANNELS[family])
    names = ("lowered", "merge-selected", "step-scan", "scan-gate")
    programs = [found[name] for name in names]
    assert max(compare(programs)) <= TOLERANCE


def broken(fusion: Fusion, old: str, new: str) -> Fusion:
    rules = tuple(
        Rule(match=rule.match, replace=rule.replace.replace(old, new))
        for rule in fusion.rules
    )
    assert rules != fusion.rules
    return replace(fusion, rules=rules)


@pytest.mark.parametrize(
    ("family", "fusion", "old", "new"),
    [
        ("qwen3_next", mixers.MIX, "l2_eps=$l2_eps", "l2_eps=0.5"),
        ("qwen3_next", mixers.MIX, "%q, %k,", "%k, %q,"),
        ("qwen3_next", mixers.MIX, "dt_bias=@dt_bias,", ""),
        ("qwen3_next", mixers.MIX, "scale=$scale", "scale=1.0"),
        ("olmo_hybrid", mixers.MIX, "factor=$factor", "factor=0.5"),
        ("bailing_hybrid", mixers.MIX, "floor=$floor", "floor=-1.0"),
        ("mamba2", mixers.MIX, "steps=true", "steps=false"),
        ("mamba2", mixers.MIX, "skip=@skip,", ""),
        ("mamba2", mixers.MIX, "bias_k=@bias_k", "bias_k=@bias_q"),
        ("kimi_linear", mixers.MIX_NORM, "gate=$gate", "gate=silu"),
        ("qwen3_next", mixers.MIX_NORM, "order=$order", "order=gate_first"),
        ("mamba", mixers.MERGE_SELECTED, "cat(@a, @b, @c)", "cat(@a, @c, @b)"),
        ("mamba", mixers.STEP_SCAN, ", bias=@bias", ""),
        ("jamba", mixers.SCAN_GATE, ", opened=%opened", ""),
        ("recurrent_gemma", mixers.SCAN_GATE, "%i, %r", "%r, %i"),
        ("rwkv", mixers.SCAN_GATE, "@rate, @first", "@first, @rate"),
    ],
)
def test_a_wrong_replacement_shows(
    load: Load, family: str, fusion: Fusion, old: str, new: str
) -> None:
    found = stages(load, family)
    names = list(found)
    before = found[names[names.index(fusion.name) - 1]]
    after, entries = broken(fusion, old, new).run(before)
    assert any(entry.status == "applied" for entry in entries)
    assert list(compare([before, after]))[1] > 10 * TOLERANCE
