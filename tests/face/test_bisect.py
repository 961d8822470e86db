"""``glmc bisect`` names the right culprit for every seeded fault, and none for none."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.look.builds import Build
from glmc.prove import references
from glmc.prove.bisecting import Chain, Numbers, Reference, Transformers, prefixes
from glmc.prove.comparing import scenarios
from glmc.prove.culprits import Culprit
from glmc.prove.probing import Weights
from support import GOLDEN, builds, edits, mispasses, misreadings
from support.kernels import interpreter, kernels_of
from support.mispasses import MISPASSES, Mispass
from support.misprints import KERNELS, MISPRINTS, Misprint
from support.misreadings import BASES, MISREADINGS, Misreading
from support.ranges import first
from support.stages import PIPELINE, run
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]


@dataclass
class Case:
    """A tiny checkpoint, its build, and transformers as the reference."""

    checkpoint: Path
    build: Build
    weights: Weights
    reference: Transformers

    def chain(self, programs: Mapping[str, Program], **more: Any) -> Chain:
        return Chain(programs, self.weights, **more)

    @property
    def brief(self) -> Reference:
        """Four tokens: the interpreter of kernels is slow."""
        given = scenarios(self.build.model.vocab, 3, 1)[:1]
        theirs = self.reference
        return Numbers(list(references.answers(theirs.model, theirs.numbers, given)))

    def programs(self, passes: Any = PIPELINE) -> dict[str, Program]:
        stages = run(lower(self.build.model), passes=passes)
        return {stage.name: stage.program for stage in stages}


@pytest.fixture(scope="module")
def case(tiny: MakeTiny, compiled: Compile) -> Callable[[str], Case]:
    known: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in known:
            checkpoint = tiny(BY_NAME[name]).checkpoint
            build = Build(compiled(checkpoint))
            theirs = references.load_transformers(str(checkpoint), "float32", "cpu")
            prefix = build.model.optional_prefix
            given = scenarios(build.model.vocab, 9, 3)
            reference = Transformers(
                theirs, build.program.numbers, given, prefixes(prefix)
            )
            weights = Weights(checkpoint, prefix)
            known[name] = Case(checkpoint, build, weights, reference)
        return known[name]

    return get


def load(build: Path, checkpoint: Path, interpreted: bool = False) -> Any:
    """As the command does it: weights that are not used do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = builds.import_build(build)
        if interpreted:
            kernels_of(module.__name__)
        return module.load(checkpoint, device="cpu", dtype="float32", strict=False)


def ids(fault: Any) -> str:
    return str(fault.name).replace(" ", "-").replace(",", "")


def blamed(found: Culprit, stage: str, place: object, mnemonic: str) -> None:
    """The stage and place are right, and the op is named among at most three."""
    told = f"{found.stage} {found.place} {found.op} {found.suspects}: {found.why}"
    assert found.stage == stage, told
    assert found.place == place, told
    named = [found.op, *found.suspects]
    assert any(_mnemonic(line) == mnemonic for line in named), told
    assert len(named) <= 3, told


def _mnemonic(line: str) -> str:
    """``linear`` of ``%q: … = linear(…)``."""
    return line.rpartition(" = ")[2].partition("(")[0].partition(" ")[0]


@pytest.mark.parametrize("fault", first(14, MISREADINGS), ids=ids)
def test_a_misreading_is_named(fault: Misreading, case: Callable[[str], Case]) -> None:
    base = case(fault.base)
    model = fault.change(base.build.model)
    assert model != base.build.model
    found = base.chain({"lowered": lower(model)}).culprit(base.reference)
    assert found is not None
    blamed(found, "reading", fault.place, fault.ops)


@pytest.mark.parametrize("fault", first(8, MISPASSES), ids=ids)
def test_a_broken_pass_is_named(fault: Mispass, case: Callable[[str], Case]) -> None:
    base = case(fault.base)
    programs = base.programs(mispasses.pipeline(fault.broken))
    found = base.chain(programs).culprit(base.reference)
    assert found is not None
    blamed(found, fault.broken.name, fault.place, fault.ops)


PRINTED = [
    *first(5, [fault for fault in MISPRINTS if fault.file != KERNELS]),
    *first(2, [fault for fault in MISPRINTS if fault.file == KERNELS]),
]


@pytest.mark.parametrize("fault", PRINTED, ids=ids)
def test_a_wrong_line_of_the_build_is_named(
    fault: Misprint, case: Callable[[str], Case], tmp_path: Path
) -> None:
    base = case(fault.base)
    path = base.build.path
    wrong = edits.with_source(
        path, tmp_path / "build", fault.file, fault.old, fault.new
    )
    interpreted = fault.file == KERNELS
    chain = base.chain(
        {"last": base.build.program},
        load=lambda: load(wrong, base.checkpoint, interpreted),
        ops=("reference", "kernels") if interpreted else ("reference",),
    )
    with interpreter() if interpreted else nullcontext():
        found = chain.culprit(base.brief if interpreted else base.reference)
    assert found is not None
    blamed(found, fault.file, fault.place, fault.ops)


@pytest.mark.parametrize("name", first(4, [*BASES]))
def test_where_nothing_is_wrong_nobody_is_named(
    name: str, case: Callable[[str], Case]
) -> None:
    base = case(name)
    chain = base.chain(
        base.programs(), load=lambda: load(base.build.path, base.checkpoint)
    )
    assert chain.culprit(base.reference) is None


def test_there_are_enough_faults() -> None:
    assert len(MISREADINGS) + len(MISPASSES) + len(MISPRINTS) >= 50


def test_numbers_alone_tell_the_stage(compiled: Compile, tmp_path: Path) -> None:
    """Without values within, a misreading has no op; a pass still has one."""
    build = Build(compiled(GOLDEN / "chatglm3"))
    numbers = Numbers(references.read_golden(GOLDEN / "chatglm3/golden.safetensors"))
    weights = Weights(GOLDEN / "chatglm3", build.model.optional_prefix)
    wrong = lower(misreadings.mlp(act="gelu")(build.model))
    found = Chain({"lowered": wrong}, weights).culprit(numbers)
    assert found is not None
    assert (found.stage, found.op) == ("reading", "")
    broken = mispasses.pipeline(mispasses.swapped(mispasses.ACT, "fn=$fn", "fn=relu"))
    stages = run(lower(build.model), passes=broken)
    programs = {stage.name: stage.program for stage in stages}
    found = Chain(programs, weights).culprit(numbers)
    assert found is not None
    blamed(found, "act-mul", 0, "act_mul")


def test_the_command(
    compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = GOLDEN / "chatglm3"
    command = [
        "--weights",
        str(folder),
        "--against",
        str(folder / "golden.safetensors"),
    ]
    right = compiled(folder)
    assert main(["bisect", str(right), *command]) == 0
    assert "no difference" in capsys.readouterr().out
    wrong = tmp_path / "wrong"
    shutil.copytree(right, wrong)
    dump = wrong / "ir" / "13-qkv-attention.glmc"
    dump.write_text(dump.read_text().replace("style=interleaved", "style=half"))
    assert main(["bisect", str(wrong), *command, "--json"]) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("qkv-attention", 0)
    assert main(["bisect", str(wrong), *command]) == 1
    text = capsys.readouterr().out
    assert "culprit  qkv-attention: the pass qkv-attention changed the result" in text
    assert "op       %ctx: f32[B,T,64] = qkv_attention(" in text


def test_a_misreading_leads_to_the_spec(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spec that says something wrong: the line that says it is shown."""
    spec = tmp_path / "wrong.yaml"
    match = "match:\n  model_type: [llama]\n  architectures: [LlamaForCausalLM]\n"
    rope = "ops:\n  attn:\n    rope: {style: interleaved}\n"
    spec.write_text(f"extends: llama\n{match}{rope}")
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    command = ["compile", checkpoint, "-o", tmp_path / "build", "--spec", spec]
    assert main([str(part) for part in command]) == 0
    command = ["bisect", tmp_path / "build", "--weights", checkpoint]
    assert main([str(part) for part in command]) == 1
    text = capsys.readouterr().out
    assert "culprit  reading" in text
    assert "wrong.yaml:7 ops.attn.rope.style: interleaved" in text
