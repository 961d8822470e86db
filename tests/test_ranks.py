"""Builds for several ranks, run by threads, answer what a build for one does."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc.backends.runtime.ranks import Ranks
from glmc.command.cli import main
from glmc.ir.errors import NotDealtError
from glmc.ir.text import parse_program
from glmc.ir.verify import VerifyError, verify
from support import builds, hub_formats, ranked
from support.hub_formats import FORMATS
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]

KINDS = (
    "llama-gqa",  # two heads of keys: with four ranks each is held by two
    "mixtral-experts",
    "deepseek_v3-groups",  # latents, and a shared expert beside the routed ones
    "gpt_neox-parallel",  # one sum a layer for both branches
    "qwen2-tied",
    "olmo2-gqa",  # a norm over all heads
    "qwen3_next-interval",  # a recurrent mixer beside attention
    "llama-mqa",
    "falcon-7b",
    "gpt2-tied",  # biases behind the products whose columns are cut
    "bloom-alibi",
    "gpt_oss-sinks",
    "glm4_moe-air",
    "mamba2-groups",  # two groups to norm: what is normed is gathered
    "bailing_hybrid-bounded",  # with four ranks one head each
    "jamba-hybrid",  # keys of all channels: what makes them is summed
    "recurrent_gemma-griffin",  # gates of parts of the channels
    "rwkv-rescaled",  # a state whose second size is dealt out
    "xlstm-memory",
    "zamba-parts",  # each part of the channels has keys of its own
    "minimax-lightning",  # decays that no token changes, of a rank's heads
    "lfm2-gates",
    "gemma3_text-two_ropes",
    "minimax_m2-corrected",
    "stablelm-parallel",
    "longcat_flash-zero_experts",  # experts without matrices are the first rank's
    "deepseek_v4-rates",  # entries of several tokens, on every rank
    "minimax_m3_vl_text-blocks",  # each rank selects the blocks of its groups
    "step3p7-text",
    "hy_v4-selects",
    "lfm3-gates",
)


# Six heads, of values or of queries, and two groups of a product do not go to four.
FOR_TWO = {"qwen3_next-interval", "step3p7-text", "deepseek_v4-rates", "zamba-parts"}
CASES = [(name, n) for name in KINDS for n in (2, 4) if n == 2 or name not in FOR_TWO]


@pytest.mark.parametrize(("name", "ranks"), first(13, CASES))
def test_ranks_answer_what_one_does(
    name: str, ranks: int, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    _compare(checkpoint, compiled(checkpoint), tmp_path, ranks)


@pytest.mark.parametrize(
    "name", ["mixtral-experts", "gpt_oss-sinks", "longcat_flash-zero_experts"]
)
def test_whole_experts_go_to_ranks(
    name: str, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    alone = compiled(checkpoint)
    found = _compare(checkpoint, alone, tmp_path, 2, expert_parallel=True)
    assert found["bytes"] < 0.56 * _bytes(checkpoint)


@pytest.mark.parametrize(("by", "op"), [(False, "weights"), (True, "experts")])
def test_experts_without_matrices_are_the_first_ranks(
    by: bool, op: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["longcat_flash-zero_experts"]).checkpoint
    options = {"tensor_parallel": 2, "expert_parallel": by}
    build = _compiled(checkpoint, tmp_path / "build", options)
    text = (build / "ir/2-place.glmc").read_text()
    assert f"own_{op}(%experts, %weights, " in text
    everywhere = re.sub(r"(moe_experts\(%\w+, %\w+, )%own_weights", r"\1%weights", text)
    assert everywhere != text
    with pytest.raises(VerifyError, match="takes weights partial here, and it is repl"):
        verify(parse_program(everywhere))


def test_what_the_first_of_a_stage_has_is_taken_by_all() -> None:
    class Three(Ranks):
        def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [torch.tensor(4), x, torch.tensor(6)]

    assert Three.of_first(Three.__new__(Three), torch.tensor(5)).item() == 4


# Three layers, in stages of two and one; heads that are tied to the embedding; a delta
# that is handed on beside x; a mixer with a state for each row.
STAGED = ("llama-gqa", "qwen2-tied", "gpt_neox-parallel", "qwen3_next-interval")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", first(2, STAGED))
def test_stages_answer_what_one_does(
    name: str, ranks: int, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    alone = compiled(checkpoint)
    every = _compare(checkpoint, alone, tmp_path, ranks, pipeline_parallel=2)
    assert every["bytes"] < 0.8 * _bytes(checkpoint)


FORMS = (
    "packed4-zeros",
    "gptq-order",  # columns of any group, and all scales on every rank
    "int8",
    "awq",
    "float8-rows",
    "nvfp4",
)


@pytest.mark.parametrize("name", first(3, FORMS))
def test_codes_are_cut_as_they_are_stored(
    name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS[name])
    alone = _compiled(ours, tmp_path / "alone", {})
    found = _compare(ours, alone, tmp_path, 2)
    whole = sum(p.nbytes for p in builds.load(alone, ours).parameters())
    assert found["bytes"] < 0.52 * whole


def test_codes_are_not_cut_within_a_group(tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS["float8-blocks"])
    said = "each would have 32 of dimension 1 of @o_proj, whose codes are cut in"
    with pytest.raises(NotDealtError, match=said):
        _compiled(ours, tmp_path / "build", {"tensor_parallel": 2})


def test_a_layer_that_reads_another_is_in_its_stage(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["gemma4_text-shared"]).checkpoint
    with pytest.raises(NotDealtError, match=r"layer \d reads %kv of layer \d, and"):
        _compiled(checkpoint, tmp_path / "build", {"pipeline_parallel": 2})


def _compare(
    checkpoint: Path, alone: Path, folder: Path, ranks: int, **options: Any
) -> dict[str, Any]:
    want = ranked.answers(builds.load(alone, checkpoint))
    module = ranked.compiled(checkpoint, folder / "build", ranks, **options)
    every = ranked.on_threads(
        module,
        ranks,
        lambda here: ranked.answers(
            module.load(checkpoint, dtype="float32", ranks=here)
        ),
        options.get("pipeline_parallel", 1),
    )
    drawn = every[0]["drawn"]
    for got in every:
        # A draw is of all logits, which differ in their last bits from one rank's.
        ranked.same(got, {**want, "drawn": drawn})
    found: dict[str, Any] = every[0]
    return found


def _bytes(checkpoint: Path) -> int:
    files = checkpoint.glob("*.safetensors")
    return sum(t.nbytes for file in files for t in load_file(file).values())


def test_a_vocabulary_that_does_not_divide_is_padded(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    odd = ranked.odd(checkpoint, tmp_path / "odd")
    alone = _compiled(odd, tmp_path / "alone", {})
    assert _compare(odd, alone, tmp_path, 2)["logits"].shape[-1] == 61


def _compiled(source: Path, folder: Path, options: dict[str, Any]) -> Path:
    from glmc import compile_model

    return compile_model(source, folder, **options)


def test_what_one_rank_cannot_load_ends_all(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    said: list[str] = []

    def load(here: Any) -> None:
        source = checkpoint if here.rank else tmp_path / "nowhere"
        try:
            module.load(source, ranks=here)
        except ValueError as error:
            said.append(f"{here.rank}: {error}")

    ranked.on_threads(module, 2, load)
    zero, one = sorted(said)
    assert "nowhere does not exist" in zero
    assert one.startswith("1: rank 1 ends because rank 0 failed: ")
    assert "nowhere does not exist" in one


def test_the_first_rank_of_all_stages_prints(
    tiny: MakeTiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2, pipeline_parallel=2)
    command = importlib.import_module(f"{module.__name__}.ranked_command")
    monkeypatch.setattr(command, "group", lambda device: nullcontext())
    asked = ["--weights", str(checkpoint), "--prompt-ids", "3,4", "--max-new-tokens"]

    def run(here: Any) -> int:
        build = SimpleNamespace(load=partial(module.load, ranks=here))
        told: int = command.run(build, device="cpu", about="", arguments=[*asked, "3"])
        return told

    assert ranked.on_threads(module, 2, run, 2) == [0] * 4
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line.split(",")) == 3


def test_other_weights_are_told_apart(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, other / "model.safetensors")
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    with pytest.raises(ValueError, match="the checkpoint of rank 1 is another than"):
        ranked.on_threads(
            module,
            2,
            lambda here: module.load((checkpoint, other)[here.rank], ranks=here),
        )


def test_ranks_that_are_given_other_prompts_say_so(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)

    def generate(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        model.generate(torch.tensor([[3, 4 + here.rank]]), max_new_tokens=2)

    with pytest.raises(ValueError, match="the prompt of rank 1 is another"):
        ranked.on_threads(module, 2, generate)


def test_what_ends_some_ranks_only_is_refused(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)

    def generate(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        model.generate(torch.tensor([[3, 4]]), max_time=1.0)

    with pytest.raises(ValueError, match="max_time may decide otherwise"):
        ranked.on_threads(module, 2, generate)


# --- blame ----------------------------------------------------------------------------


def test_bisect_names_the_op_of_a_stage_of_several_ranks(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    build = _compiled(checkpoint, tmp_path / "build", {"tensor_parallel": 4})
    asked = ["bisect", str(build), "--weights", str(checkpoint)]
    assert main(asked) == 0
    assert "glmc verify compares it" in capsys.readouterr().out
    dump = build / "ir/2-place.glmc"
    turned = dump.read_text().replace(
        "rope(%qh, %cos, %sin, style=half)", "rope(%qh, %cos, %sin, style=interleaved)"
    )
    dump.write_text(turned)
    assert main([*asked, "--json"]) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("place", 0)
    assert culprit["op"].startswith("%qr: f32[B,T,1,16] shard(2) = rope(%qh")
