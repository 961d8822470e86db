"""Trainer and PEFT train a build's model as they train transformers', and what was
trained goes back to where it was published."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

TEXTS = ["the weather is fine", "a model of a model", "numbers: 1 2 3 4 5 6 7"] * 4


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The texts as ids, all of them labels."""

    def __init__(self, tokenizer: Any):
        self.rows = [tokenizer(text)["input_ids"] for text in TEXTS]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"input_ids": self.rows[at], "labels": self.rows[at]}


def trainer(model: Any, tokenizer: Any, folder: Path, **more: Any) -> Trainer:
    """Six steps of two rows, without shuffling."""
    options = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "seed": 1,
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
    }
    known = TrainingArguments.__dataclass_fields__
    kept = {k: v for k, v in {**options, **more}.items() if k in known}
    # On the right: a token that stands after padding has nothing to be told from.
    right = copy.deepcopy(tokenizer)
    right.padding_side = "right"
    collate = transformers.DataCollatorForSeq2Seq(right)
    return Trainer(
        model=model,
        args=TrainingArguments(**kept),
        train_dataset=Rows(tokenizer),
        data_collator=collate,
        processing_class=tokenizer,
    )


def losses(trained: Trainer) -> list[float]:
    return [one["loss"] for one in trained.state.log_history if "loss" in one]


def test_trainer_trains_alike(
    ours: Any, theirs: Any, tokenizer: Any, package: Any, tmp_path: Path
) -> None:
    found = []
    for name, model in (("ours", ours), ("theirs", theirs)):
        run = trainer(model, tokenizer, tmp_path / name)
        run.train()
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], abs=2e-2)
    assert found[0][-1] < found[0][0] / 2
    package.save(ours, tmp_path / "tuned")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    ids = tokenizer("the weather", return_tensors="pt")["input_ids"]
    ours.eval()
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, ours(ids).logits, atol=1e-4)


def test_trainer_goes_on_from_its_checkpoint(
    package: Any, checkpoint: Path, tokenizer: Any, tmp_path: Path
) -> None:
    def fresh() -> Any:
        return package.hf.from_pretrained(checkpoint, dtype="float32")

    whole = trainer(fresh(), tokenizer, tmp_path / "whole")
    whole.train()
    saved = tmp_path / "whole/checkpoint-3"
    assert (saved / "model.safetensors").is_file()
    resumed = trainer(fresh(), tokenizer, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(saved))
    assert losses(resumed)[-3:] == pytest.approx(losses(whole)[-3:], rel=1e-4)


def test_trainer_with_gradient_checkpointing(
    ours: Any, tokenizer: Any, package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    found = []
    for enabled in (False, True):
        model = package.hf.from_pretrained(checkpoint, dtype="float32")
        run = trainer(
            model, tokenizer, tmp_path / str(enabled), gradient_checkpointing=enabled
        )
        run.train()
        assert model.gradient_checkpointing is enabled
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def adapted(model: Any) -> Any:
    config = peft.LoraConfig(
        r=4,
        target_modules=[],
        target_parameters=["qkv", "o_proj", "gate_up", "down_proj"],
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def test_lora_trains_merges_and_saves_back(
    ours: Any, tokenizer: Any, package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    model = adapted(ours)
    ids = tokenizer("the weather", return_tensors="pt")["input_ids"]
    before = model(input_ids=ids).logits.detach()
    run = trainer(model, tokenizer, tmp_path / "run", save_strategy="no")
    run.train()
    assert losses(run)[-1] < losses(run)[0]
    model.eval()
    tuned = model(input_ids=ids).logits.detach()
    assert float((tuned - before).abs().max()) > 1e-2
    drawn = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    with pytest.raises(ValueError, match="merge_and_unload"):
        package.save(model, tmp_path / "unmerged")
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    package.save(merged, tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged"
    ).eval()
    assert torch.allclose(again(ids).logits, tuned, atol=1e-4)
    assert (
        again.generate(ids, max_new_tokens=5, do_sample=False).tolist()
        == drawn.tolist()
    )
    # And the adapter, put onto the weights anew, is the same model.
    fresh = package.hf.from_pretrained(checkpoint, dtype="float32")
    loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    assert torch.allclose(loaded(input_ids=ids).logits, tuned, atol=1e-5)


def test_modules_that_are_not_there_are_told(ours: Any) -> None:
    with pytest.raises(ValueError, match="q_proj"):
        peft.get_peft_model(ours, peft.LoraConfig(target_modules=["q_proj"]))


def test_accelerate_prepares(ours: Any, theirs: Any, tokenizer: Any) -> None:
    import accelerate

    batch = tokenizer(TEXTS[:1], return_tensors="pt")
    found = []
    for model in (ours, theirs):
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        model, optimizer = accelerator.prepare(model.train(), optimizer)
        for _ in range(3):
            loss = model(**batch, labels=batch["input_ids"]).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        found.append(loss.item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)
