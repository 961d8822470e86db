"""``glmc verify``: equal is 0, a difference is 1 and found where it begins, else 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc.command.cli import main
from glmc.prove import references
from glmc.prove.comparing import difference
from support import GOLDEN, edits
from support.variants import BY_NAME, Tiny, Variant

Compile = Callable[[Path], Path]
MakeTiny = Callable[[Variant], Tiny]
HALVED, SKIPPING = "longcat_flash-biases", "mllama-text"
NUMBERS = GOLDEN / "chatglm3" / "golden.safetensors"


def verify(
    capsys: pytest.CaptureFixture[str], build: Path, weights: Path, *more: object
) -> tuple[int, dict[str, Any]]:
    """(exit code, facts) of a verification on the CPU."""
    command = [
        "verify",
        build,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--json",
        *more,
    ]
    code = main([str(part) for part in command])
    return code, json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 2
    message = capsys.readouterr().err
    assert message.startswith("glmc: ")
    assert message.count("\n") == 2, "a sentence, and where there is more"
    return message


def test_golden_numbers(compiled: Compile, capsys: pytest.CaptureFixture[str]) -> None:
    folder = GOLDEN / "chatglm3"
    code, facts = verify(capsys, compiled(folder), folder, "--against", NUMBERS)
    assert (code, facts["equal"]) == (0, True)
    phases = ["padded prompt", "single prompt", "single decode"]
    assert list(facts["differences"]) == phases
    assert 0 < facts["worst"]["difference"] < 1e-5


@pytest.mark.parametrize("name", ["llama-gqa", "llama-dynamic", "gpt2-tied"])
def test_every_layer_against_transformers(
    name: str, tiny: MakeTiny, compiled: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tiny(BY_NAME[name])
    code, facts = verify(capsys, compiled(case.checkpoint), case.checkpoint)
    assert (code, facts["against"]) == (0, "transformers")
    rows = facts["differences"]["padded decode"]
    assert list(rows) == ["layer 0", "layer 1", "layer 2", "logits"]
    assert all(0 < value < 1e-5 for value in rows.values())


@pytest.mark.parametrize(("name", "layers"), [(HALVED, [1, 3]), (SKIPPING, [0, 1, 2])])
def test_layers_of_another_number_than_those_of_transformers(
    name: str,
    layers: list[int],
    tiny: MakeTiny,
    compiled: Compile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One layer there and two here end with the second; a skipped one is none.

    The numbers that are saved say which layers they are of.
    """
    case, numbers = tiny(BY_NAME[name]), tmp_path / "numbers.safetensors"
    build = compiled(case.checkpoint)
    code, facts = verify(capsys, build, case.checkpoint, "--save", numbers)
    assert code == 0
    rows = facts["differences"]["padded decode"]
    assert list(rows) == [*(f"layer {layer}" for layer in layers), "logits"]
    assert all(0 < value < 1e-5 for value in rows.values())
    code, again = verify(capsys, build, case.checkpoint, "--against", numbers)
    assert (code, again["differences"]) == (0, facts["differences"])


def test_control_layers_that_do_not_correspond_differ(
    tiny: MakeTiny,
    compiled: Compile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first half of a layer is not that layer."""
    layers_of = references.layers_of

    def halves(model: Any, numbers: Any) -> Any:
        return {at - 1: layer for at, layer in layers_of(model, numbers).items()}

    monkeypatch.setattr(references, "layers_of", halves)
    case = tiny(BY_NAME[HALVED])
    code, facts = verify(capsys, compiled(case.checkpoint), case.checkpoint)
    assert code == 1
    assert facts["differences"]["single prompt"]["layer 0"] > 1e-2
    assert facts["differences"]["single prompt"]["logits"] < 1e-5


def test_a_difference_is_found_where_it_begins(
    tiny: MakeTiny,
    compiled: Compile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Saved numbers stand for transformers; a wrong weight shows from its layer."""
    case = tiny(BY_NAME["llama-gqa"])
    build, kept = compiled(case.checkpoint), tmp_path / "kept.safetensors"
    assert verify(capsys, build, case.checkpoint, "--save", kept)[0] == 0
    assert verify(capsys, build, case.checkpoint, "--against", kept)[0] == 0

    from support import tiny as tinies

    tensors = tinies.tensors_of(case.checkpoint)
    tensors["model.layers.1.mlp.up_proj.weight"][3] *= 1.5
    wrong = edits.write_config(tmp_path / "wrong", edits.read_config(case.checkpoint))
    save_file(tensors, wrong / "model.safetensors")
    code, facts = verify(capsys, build, wrong, "--against", kept)
    assert (code, facts["equal"]) == (1, False)
    rows = facts["differences"]["single prompt"]
    assert rows["layer 0"] <= facts["tolerance"] < rows["layer 1"]

    command = [
        "verify",
        build,
        "--weights",
        wrong,
        "--against",
        kept,
        "--device",
        "cpu",
    ]
    assert main([str(part) for part in command]) == 1
    text = capsys.readouterr().out
    assert "from layer 1 on" in text
    assert len({len(line) for line in text.splitlines()[:5]}) == 1, "a straight table"


def test_control_a_wrong_line_of_the_model_shows(
    compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = GOLDEN / "chatglm3"
    wrong = edits.with_source(
        compiled(folder),
        tmp_path / "build",
        "model.py",
        "theta=10000.0",
        "theta=9900.0",
    )
    assert verify(capsys, wrong, folder, "--against", NUMBERS)[0] == 1


def test_half_precision_has_a_tolerance_of_its_own(
    tiny: MakeTiny, compiled: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    build = compiled(case.checkpoint)
    half = ("--dtype", "bfloat16")
    assert verify(capsys, build, case.checkpoint, *half)[0] == 0
    assert verify(capsys, build, case.checkpoint, *half, "--tolerance", "1e-3")[0] == 1


def test_mistakes_are_told_in_a_sentence(
    compiled: Compile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = GOLDEN / "chatglm3"
    command = ["verify", compiled(folder), "--weights", folder]
    assert "never runs code that comes with" in refusal(capsys, *command)
    text = refusal(capsys, *command, "--against", folder / "config.json")
    assert "neither the word transformers" in text
    empty = tmp_path / "empty.safetensors"
    save_file({"logits": torch.zeros(1)}, empty)
    assert "NAME.input_ids" in refusal(capsys, *command, "--against", empty)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install transformers" in refusal(capsys, *command)


def test_another_number_of_layers_is_no_comparison(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    out = tmp_path / "two"
    command = ["compile", case.checkpoint, "-o", out, "--set", "num_hidden_layers=2"]
    assert main([str(part) for part in command]) == 0
    text = refusal(capsys, "verify", out, "--weights", case.checkpoint)
    assert "does not fit" in text or "has 2 layers" in text


def test_the_measure() -> None:
    """Independent of scale, strict about shapes and nan."""
    one = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert difference(one, one) == 0
    apart = difference(one * 1.01, one)
    assert 1e-3 < apart < 1e-2
    assert difference(one * 1010, one * 1000) == pytest.approx(apart, rel=1e-4)
    assert difference(one[:2], one) == float("inf")
    assert difference(one * float("nan"), one) == float("inf")
    assert difference(one[:0], one[:0]) == 0
