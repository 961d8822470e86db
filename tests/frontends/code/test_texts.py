"""Texts give the logits of the code that Python would run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.frontends.code.oracle import TextModel
from glmc.frontends.code.room import roomy
from glmc.frontends.code.text import Text
from glmc.ir.errors import TextFailedError, TextUnreadableError, TextWeightsError
from support import reference, texts
from support.tiny import tensors_of
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
TOLERANCE = 5e-5
QUICK = ("llama-biases", "gpt2-tied", "gemma2-capped", "falcon-40b", "mixtral-experts",
         "bloom-alibi", "qwen2-window", "deepseek_v2-groups")  # fmt: skip


def published(checkpoint: Path, attention: str = "eager") -> tuple[Any, Text]:
    """transformers' model of a checkpoint, and the text of its class."""
    model = reference.load(checkpoint, attention)
    cls = type(model)
    file = Path(sys.modules[cls.__module__].__file__ or "")
    found = {
        path.stem: path.read_text(encoding="utf-8")
        for path in file.parent.glob("*.py")
        if path.stem.startswith(("modeling_", "configuration_"))
    }
    return model, Text(found, file.stem, cls.__name__)


def read(
    text: Text, checkpoint: Path, tensors: Mapping[str, torch.Tensor]
) -> TextModel:
    config = json.loads((checkpoint / "config.json").read_text())
    model = TextModel(text, config)
    model.load(tensors)
    return model


@pytest.mark.parametrize("name", QUICK)
def test_a_text_of_transformers(name: str, tiny: MakeTiny) -> None:
    """A prompt, cached decoding, a left-padded batch."""
    case = tiny(BY_NAME[name])
    model, text = published(case.checkpoint)
    expected = reference.read(case.reference)
    weights = model.state_dict()

    def differences() -> list[float]:
        ids = expected["ids"]
        decode = reference.cached(read(text, case.checkpoint, weights), ids)
        found = [
            (decode[:, reference.PROMPT :] - expected["decode"]).abs().max().item()
        ]
        whole = read(text, case.checkpoint, weights)(input_ids=ids).logits
        found.append((whole - expected["prompt"]).abs().max().item())
        mask, positions = expected["padded.mask"], expected["padded.positions"]
        own = read(text, case.checkpoint, weights)
        padded = reference.cached(own, expected["padded.ids"], mask, positions)
        real = mask == 1
        return [*found, (padded - expected["padded"])[real].abs().max().item()]

    assert max(roomy(differences)) <= TOLERANCE


@pytest.fixture
def llama(tiny: MakeTiny) -> Tiny:
    return tiny(BY_NAME["llama-gqa"])


def plain(
    case: Tiny, folder: Path, *changes: tuple[str, str], **config: Any
) -> tuple[Text, dict[str, Any], dict[str, torch.Tensor]]:
    """The text of Plain, a config and weights of a tiny Llama."""
    own = texts.repository(case.checkpoint, folder, texts.plain(*changes))
    text = Text(
        texts.plain(*changes),
        "modeling_plain",
        "PlainForCausalLM",
        "configuration_plain",
        "PlainConfig",
    )
    given = json.loads((own / "config.json").read_text()) | config
    return text, given, tensors_of(case.checkpoint)


def logits(case: Tiny, folder: Path, *changes: tuple[str, str], **config: Any) -> Any:
    text, given, tensors = plain(case, folder, *changes, **config)

    def run() -> torch.Tensor:
        model = TextModel(text, given)
        model.load(tensors)
        return reference.cached(model, reference.read(case.reference)["ids"])

    return roomy(run)


def test_a_text_as_repositories_publish_it(llama: Tiny, tmp_path: Path) -> None:
    expected = reference.read(llama.reference)
    got = logits(llama, tmp_path)
    assert (got[:, reference.PROMPT :] - expected["decode"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/ math.sqrt(self.head_dim)", "/ math.sqrt(self.head_dim + 1)"),
        ("torch.cat((-x2, x1), dim=-1)", "torch.cat((x2, -x1), dim=-1)"),
        ("self.act_fn(self.gate_proj(x)) * self.up_proj(x)",
         "self.act_fn(self.up_proj(x)) * self.gate_proj(x)"),
        ("variance + self.eps", "variance + 2 * self.eps"),
        ("return self.weight * x", "return (1 + self.weight) * x"),
        ("hidden = k > q", "hidden = k >= q + 2"),
    ],
)  # fmt: skip
def test_control_a_changed_text_gives_other_logits(
    old: str, new: str, llama: Tiny, tmp_path: Path
) -> None:
    expected = reference.read(llama.reference)
    got = logits(llama, tmp_path, (old, new))
    assert (got[:, reference.PROMPT :] - expected["decode"]).abs().max() > 1e-3


def test_what_a_run_shows(llama: Tiny, tmp_path: Path) -> None:
    """Keys that were read, decisions, numbers from tensors, lengths: and where."""
    text, given, tensors = plain(llama, tmp_path)

    def run() -> Any:
        model = TextModel(text, given)
        model.load(tensors)
        model(input_ids=torch.ones(1, 7, dtype=torch.long))
        return model.records

    records = roomy(run)
    assert {"hidden_size", "rope_theta", "hidden_act", "rms_norm_eps"} <= set(
        records.keys
    )
    assert "pretraining_tp" not in records.keys
    lines = texts.MODELING.splitlines()
    read_at = {lines[line - 1] for file, line in records.keys["hidden_act"]
               if file == "modeling_plain.py"}  # fmt: skip
    assert read_at == {"        self.act_fn = ACT2FN[config.hidden_act]"}
    decided = {lines[line - 1].strip() for _, line, _ in records.decisions}
    assert "if window is not None:" in decided
    assert any(how == "int" for how in records.data.values())
    compared = {lines[line - 1].strip() for _, line, _ in records.compared}
    assert "if length > self.length:" in compared


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "extra is left over"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(3)}),
            "model.norm.weight has the shape [3], not [64]",
        ),
    ],
)
def test_weights_that_are_not_the_texts(
    change: Callable[[dict[str, torch.Tensor]], Any],
    says: str,
    llama: Tiny,
    tmp_path: Path,
) -> None:
    text, given, tensors = plain(llama, tmp_path)
    change(tensors)
    with pytest.raises(TextWeightsError, match="disagree") as caught:
        roomy(lambda: TextModel(text, given).load(tensors))
    assert says in str(caught.value)


def test_a_tied_head_needs_no_tensor_of_its_own(llama: Tiny, tmp_path: Path) -> None:
    text, given, tensors = plain(llama, tmp_path, tie_word_embeddings=True)
    del tensors["lm_head.weight"]
    roomy(lambda: TextModel(text, given).load(tensors))


def test_the_texts_own_error_has_a_line(llama: Tiny, tmp_path: Path) -> None:
    text, given, _ = plain(llama, tmp_path, num_attention_heads=5)
    with pytest.raises(TextFailedError) as caught:
        roomy(lambda: TextModel(text, given))
    line = next(
        at
        for at, one in enumerate(texts.MODELING.splitlines(), 1)
        if "is not divisible by" in one
    )
    assert f"modeling_plain.py:{line}: the text raised ValueError: 64 is not" in str(
        caught.value
    )


def test_a_class_that_is_not_there(llama: Tiny, tmp_path: Path) -> None:
    text, given, _ = plain(llama, tmp_path)
    other = Text(text.texts, text.file, "PlainForEverything")
    with pytest.raises(TextUnreadableError, match="has no class PlainForEverything"):
        roomy(lambda: TextModel(other, given))
