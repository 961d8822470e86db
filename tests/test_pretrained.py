"""A build as a model of transformers answers, generates and trains as theirs does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process, stopping_criteria

from glmc import compile_model
from glmc.backends.runtime.accepted import Asked
from support import GOLDEN, builds, edits, tiny
from support import encoders as enc
from support.variants import BY_NAME, Variant

LLAMA = Variant(
    "llama",
    "pretrained",
    {
        "vocab_size": 400,
        "eos_token_id": 320,
        "pad_token_id": 321,
        "bos_token_id": 322,
        "max_position_embeddings": 128,
    },
)
NEAR = 5e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "llama"
    tiny.make(LLAMA, folder)
    return folder


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("built") / "build"
    return builds.import_build(compile_model(checkpoint, out))


@pytest.fixture
def ours(package: Any, checkpoint: Path) -> Any:
    return package.hf.from_pretrained(checkpoint, dtype="float32")


@pytest.fixture
def theirs(checkpoint: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def batch() -> dict[str, torch.Tensor]:
    """Two rows, one of them padded; labels only where a real token comes before."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 300, (2, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prompt() -> dict[str, torch.Tensor]:
    whole = batch()
    return {name: whole[name] for name in ("input_ids", "attention_mask")}


def worst(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> float:
    return float((a - b).detach()[mask.bool()].abs().max())


ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams drawn": {"num_beams": 2, "do_sample": True},
    "drawn": {"do_sample": True, "top_p": 0.9, "temperature": 0.7},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False},
    "penalised": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "prefill in chunks": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("asked", ASKED)
def test_generates_the_same(asked: str, ours: Any, theirs: Any) -> None:
    found = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        found.append(model.generate(**prompt(), max_new_tokens=9, **ASKED[asked]))
    assert found[0].tolist() == found[1].tolist()


def test_processors_criteria_and_streamers(ours: Any, theirs: Any) -> None:
    class Streamer(list):  # type: ignore[type-arg]
        def put(self, value: torch.Tensor) -> None:
            self.append(value.tolist())

        def end(self) -> None:
            self.append("end")

    said = []
    for model in (ours, theirs):
        streamer = Streamer()
        got = model.generate(
            prompt()["input_ids"][1:],
            max_new_tokens=9,
            logits_processor=LogitsProcessorList(
                [logits_process.SuppressTokensLogitsProcessor([*range(200)])]
            ),
            stopping_criteria=StoppingCriteriaList(
                [stopping_criteria.MaxLengthCriteria(max_length=15)]
            ),
            streamer=streamer,
        )
        said.append((got.tolist(), streamer))
    assert said[0] == said[1]
    assert len(said[0][0][0]) == 15


def test_assisted_decoding_in_both_roles(ours: Any, theirs: Any) -> None:
    ids = prompt()["input_ids"][1:]
    alone = theirs.generate(ids, max_new_tokens=20).tolist()
    for main, helper in ((ours, theirs), (theirs, ours), (ours, ours)):
        got = main.generate(ids, max_new_tokens=20, assistant_model=helper)
        assert got.tolist() == alone
    looked_up = ours.generate(ids, max_new_tokens=20, prompt_lookup_num_tokens=3)
    assert looked_up.tolist() == alone


@pytest.mark.parametrize(
    ("given", "gpu", "device"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("sequential", True, "cuda"),
        ({"": "auto"}, False, "cpu"),
        (1, False, "cuda:1"),
        ({"": 0, "model.layers.0": "cpu"}, True, "cpu"),
        ("disk", True, "cpu"),
        (None, True, "cpu"),
    ],
)
def test_the_device_to_load_on(
    given: Any, gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert Asked(device_map=given).first_device == device


def test_loss_states_and_embeddings(ours: Any, theirs: Any) -> None:
    given = batch()
    mask = given["attention_mask"]
    got = ours(**given, output_hidden_states=True)
    expected = theirs(**given, output_hidden_states=True)
    assert abs(got.loss.item() - expected.loss.item()) < NEAR
    assert worst(got.logits, expected.logits, mask) < NEAR
    assert len(got.hidden_states) == len(expected.hidden_states)
    for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert worst(a, b, mask) < NEAR
    looked_up = theirs.get_input_embeddings()(given["input_ids"])
    assert torch.equal(ours.get_input_embeddings()(given["input_ids"]), looked_up)
    by_vectors = ours(inputs_embeds=looked_up, attention_mask=mask)
    assert torch.equal(by_vectors.logits, got.logits)
    layers = ours.model.get_submodule("layers").children()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in layers)
    asked: list[int] = []
    ours.model.register_forward_pre_hook(
        lambda _, given, named: asked.append(named["logits_to_keep"]), with_kwargs=True
    )
    last = ours(**prompt(), logits_to_keep=1, return_dict=False)
    assert asked == [1], "others are not computed"
    assert isinstance(last, tuple)
    assert last[0].shape[1] == 1
    assert torch.allclose(last[0], ours(**prompt()).logits[:, -1:], atol=NEAR)


@pytest.mark.parametrize(
    "name", ["qwen3_next-interval", "gemma2-capped", "gpt2-tied", "qwen3_moe-step"]
)
def test_trains_alike_with_and_without_checkpointing(name: str, tmp_path: Path) -> None:
    tiny.make(BY_NAME[name], tmp_path / "checkpoint")
    package = builds.import_build(
        compile_model(tmp_path / "checkpoint", tmp_path / "build")
    )
    ours = package.hf.from_pretrained(tmp_path / "checkpoint", dtype="float32").train()
    theirs = tiny.auto_class(ours.config).from_pretrained(
        tmp_path / "checkpoint", dtype=torch.float32, attn_implementation="eager"
    )
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    theirs(input_ids=ids, labels=ids).loss.backward()
    total = squares(theirs)
    norms, found = [], []
    for checkpointed in (False, True):
        if checkpointed:
            ours.activation_checkpointing_enable()
        ours.zero_grad()
        ours(input_ids=ids, labels=ids).loss.backward()
        norms.append(squares(ours))
        weights = ours.named_parameters()
        found.append({n: p.grad for n, p in weights if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for path, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][path], atol=1e-6), path
    assert norms == pytest.approx([total, total], rel=1e-3)


def squares(model: Any) -> float:
    """The sum of squares of all gradients, however weights are cut into parameters."""
    found = (one.grad for one in model.parameters() if one.grad is not None)
    return sum(float(gradient.square().sum()) for gradient in found)


def test_a_checkpointed_layer_is_computed_again(
    ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(ours.model.layers[0])
    forward, calls = kind.forward, []

    def counted(self: Any, *given: Any) -> Any:
        calls.append(self)
        return forward(self, *given)

    monkeypatch.setattr(kind, "forward", counted)
    ours.train()
    layers = ours.config.num_hidden_layers
    for times in (1, 2):
        calls.clear()
        ours(**batch()).loss.backward()
        assert len(calls) == times * layers
        ours.activation_checkpointing_enable()
    assert "forward" not in vars(ours.model.layers[0])
    with pytest.raises(ValueError, match="use_reentrant=True loses"):
        ours.gradient_checkpointing_enable({"use_reentrant": True})


def test_a_cache_of_transformers_goes_on(ours: Any, theirs: Any) -> None:
    ids = prompt()["input_ids"]
    whole = theirs(ids).logits
    cache = DynamicCache()
    ours(ids[:, :6], past_key_values=cache)
    assert cache.get_seq_length() == 6
    more = ours(ids[:, 6:], past_key_values=cache)
    assert more.past_key_values is cache
    assert float((more.logits - whole[:, 6:]).detach().abs().max()) < NEAR
    cache.crop(-4)
    again = ours(ids[:, 6:], past_key_values=cache)
    assert torch.equal(again.logits, more.logits)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    assert cache.batch_size == 2
    cache.reorder_cache(torch.tensor([1, 0]))
    token = torch.tensor([[7], [9]])
    swapped = theirs(torch.cat([ids, token], 1)).logits[:, -1]
    got = ours(token, past_key_values=cache).logits[:, -1]
    assert float((got - swapped).detach().abs().max()) < NEAR
    with pytest.raises(ValueError, match="number of tokens to remove as a negative"):
        cache.crop(3)
    filled = theirs(ids).past_key_values
    with pytest.raises(ValueError, match="that this build did not begin"):
        ours(token, past_key_values=filled)


def test_a_text_that_a_longrope_turns_otherwise(tmp_path: Path) -> None:
    variant = BY_NAME["llama-longrope"]
    tiny.make(variant, tmp_path / "checkpoint")
    package = builds.import_build(
        compile_model(tmp_path / "checkpoint", tmp_path / "build")
    )
    ours = package.hf.from_pretrained(tmp_path / "checkpoint", dtype="float32")
    (limit,) = ours.model.turns_at
    ids = torch.randint(
        3, 60, (1, limit - 3), generator=torch.Generator().manual_seed(1)
    )
    expected = ours.model.generate(ids, max_new_tokens=12, eos_token_id=())
    got = ours.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert got.tolist() == expected.tolist()


def test_positions_that_do_not_count_tokens(tmp_path: Path) -> None:
    build = compile_model(GOLDEN / "chatglm", tmp_path / "build")
    package = builds.import_build(build)
    ours = package.hf.from_pretrained(GOLDEN / "chatglm", dtype="float32")
    assert ours.config.num_hidden_layers == len(ours.model.layers)
    ids = torch.tensor([[5, 17, 9, 42, 11, 137, 140]])
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = ours.model.generate(ids, max_new_tokens=6, temperature=0).tolist()
    assert ours.generate(ids, **asked).tolist() == expected
    padded = torch.nn.functional.pad(ids, (2, 0))
    mask = (padded > 0).long()
    got = ours.generate(padded, attention_mask=mask, **asked)
    assert got[:, 2:].tolist() == expected
    vectors = ours.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="finds its positions in the ids"):
        ours(inputs_embeds=vectors)


def test_an_encoder(tmp_path: Path) -> None:
    for name in ("gelu", "roberta-masked-lm", "bert-classes", "xlm-roberta-classes"):
        case = enc.BY_NAME[name]
        folder = tmp_path / name
        enc.make(case, folder)
        build = compile_model(folder, tmp_path / f"{name}-build", **case.options)
        ours = builds.import_build(build).hf.from_pretrained(folder, dtype="float32")
        theirs = getattr(transformers, case.cls).from_pretrained(folder).eval()
        ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[0, 6:] = 0
        given = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
        if "masked" in name:
            given["labels"] = ids
        if "classes" in name:
            one = theirs.config.num_labels == 1
            given["labels"] = torch.tensor([0.3, 0.7] if one else [3, 1])
        got, expected = ours(**given), theirs(**given)
        for key in expected:
            for a, b in zip(_tensors(got[key]), _tensors(expected[key]), strict=True):
                where = mask if a.shape[:2] == mask.shape else torch.ones(a.shape[:1])
                assert a.ndim == 0 or worst(a, b, where) < NEAR, key
        assert not ours.can_generate()


def _tensors(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_saves_and_takes_back(ours: Any, checkpoint: Path, tmp_path: Path) -> None:
    """As Trainer does it: into a folder with other files, and from a state dict."""
    with torch.no_grad():
        for weight in ours.parameters():
            weight.mul_(1.5)
    (tmp_path / "optimizer.pt").write_text("kept")
    ours.save_pretrained(tmp_path, state_dict=ours.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        "optimizer.pt",
    ]
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with torch.no_grad():
        for weight in ours.parameters():
            weight.zero_()
    saved = load_file(tmp_path / "model.safetensors")
    names = list(saved)
    halves = [names[::2], names[1::2]]
    missing = ours.load_state_dict({n: saved[n] for n in halves[0]}, strict=False)
    assert missing.missing_keys
    missing = ours.load_state_dict({n: saved[n] for n in halves[1]}, strict=False)
    assert not missing.missing_keys
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = prompt()["input_ids"]
    assert float((again(ids).logits - ours(ids).logits).detach().abs().max()) < NEAR
    with pytest.raises(ValueError, match="is where the weights were loaded from"):
        ours.save_pretrained(checkpoint)


def test_around_a_loaded_model(package: Any, checkpoint: Path, tmp_path: Path) -> None:
    loaded = package.load(checkpoint, dtype="float32")
    wrapped = package.hf.around(loaded)
    assert wrapped.model is loaded
    ids = prompt()["input_ids"]
    assert torch.equal(wrapped(ids).logits, loaded(ids).logits)
    other = transformers.AutoConfig.from_pretrained(checkpoint, num_hidden_layers=7)
    with pytest.raises(ValueError, match="num_hidden_layers is 7, compiled was"):
        package.hf.around(loaded, config=other)
    with pytest.raises(ValueError, match="is not the model of this build"):
        package.hf.around(torch.nn.Linear(2, 2))


def test_a_checkpoint_of_another_config(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    config = {**edits.read_config(checkpoint), "rms_norm_eps": 0.5}
    edits.write_config(tmp_path, config)
    (tmp_path / "model.safetensors").write_bytes(
        (checkpoint / "model.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"rms_norm_eps is 0\.5, compiled was"):
        package.hf.from_pretrained(tmp_path)


REFUSED: dict[str, dict[str, Any]] = {
    "attn_implementation='flash_attention_2'": {
        "attn_implementation": "flash_attention_2"
    },
    "quantization_config=": {"quantization_config": {"load_in_4bit": True}},
    "takes no colour=": {"colour": "red"},
    "computes on 0, 1": {"device_map": {"model.layers.0": 0, "": 1}},
}


@pytest.mark.parametrize("told", REFUSED)
def test_options_of_loading_that_are_refused(
    told: str, package: Any, checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        package.hf.from_pretrained(checkpoint, **REFUSED[told])


def test_calls_that_are_refused(ours: Any) -> None:
    ids = prompt()["input_ids"]
    with pytest.raises(ValueError, match="keep no weights of attention"):
        ours(ids, output_attentions=True)
    with pytest.raises(ValueError, match="does not obey token_type_ids"):
        ours(ids, token_type_ids=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        ours()
    with pytest.raises(ValueError, match="cache_implementation='static'"):
        ours.generate(ids, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match="has the vocabulary that it was compiled"):
        ours.resize_token_embeddings(1000)
    assert ours.resize_token_embeddings(400) is ours.get_input_embeddings()
