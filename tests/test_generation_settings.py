"""Generation as people ask for it: tokens equal to transformers' generate."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process, stopping_criteria

from glmc import compile_model
from glmc.backends.runtime.sampling import Sampler
from support import builds, tiny
from support.variants import Variant
from support.vocabularies import tokenizer_json, write

LLAMA = Variant(
    "llama",
    "settings",
    {
        "vocab_size": 400,
        "eos_token_id": 320,
        "pad_token_id": 321,
        "bos_token_id": 322,
        "max_position_embeddings": 128,
    },
)
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer, and without a generation_config.json."""
    folder = tmp_path_factory.mktemp("settings") / "llama"
    tiny.make(LLAMA, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": CONFIG}
    return write(folder, files)


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("built") / "build"
    compile_model(checkpoint, out)
    return builds.import_build(out)


@pytest.fixture(scope="module")
def ours(package: Any, checkpoint: Path) -> Any:
    return package.load(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    found = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    return found.eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows, two of them padded, that say things again."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 300, (3, 10), generator=generator)
    ids[:, 6:] = ids[:, 2:6]
    mask = torch.ones_like(ids)
    for row, pad in ((1, 4), (2, 1)):
        ids[row, :pad], mask[row, :pad] = 321, 0
    return ids, mask


def free(ours: Any) -> list[list[int]]:
    ids, mask = rows()
    found = ours.generate(ids, mask, max_new_tokens=16, eos_token_id=())
    return [row[10:].tolist() for row in found]


def options(ours: Any) -> dict[str, dict[str, Any]]:
    """Return what is asked for, made of what the model says without it."""
    said = free(ours)
    common = sorted({token for row in said for token in row[:3]})
    second = [said[0][2:4], said[1][5:6], said[2][1:4]]
    return {
        "nothing": {},
        "repetition_penalty": {"repetition_penalty": 1.7},
        "a reward": {"repetition_penalty": 0.6},
        "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
        "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2, **FEW},
        "no_repeat_ngram_size 3": {"no_repeat_ngram_size": 3, **FEW},
        "no_repeat_ngram_size 20": {"no_repeat_ngram_size": 20},
        "suppress_tokens": {"suppress_tokens": common},
        "begin_suppress_tokens": {"begin_suppress_tokens": common},
        "bad_words_ids": {"bad_words_ids": second},
        "sequence_bias": {
            "sequence_bias": [[second[0], -9.0], [[said[1][0]], -3.0], [[7], 4.5]]
        },
        "min_new_tokens": {"eos_token_id": said[0][1], "min_new_tokens": 6},
        "min_length": {"eos_token_id": said[0][1], "min_length": 14},
        "ends": {"eos_token_id": [said[0][4], said[1][2]]},
        "forced_eos_token_id": {"forced_eos_token_id": 320},
        "decay": {
            "eos_token_id": 320,
            "exponential_decay_length_penalty": (3, 1.8),
        },
        "remove_invalid_values": {"remove_invalid_values": True},
        "renormalize_logits": {"renormalize_logits": True},
        "max_length": {"max_new_tokens": None, "max_length": 15},
        "beside others": {"num_beams": 1, "do_sample": False, "use_cache": True},
        "several": {
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 3,
            "suppress_tokens": common[:2],
            "bad_words_ids": second,
            "min_new_tokens": 9,
            "eos_token_id": [said[0][1], 320],
            "forced_eos_token_id": 320,
        },
    }


NAMES = (
    *("nothing", "repetition_penalty", "a reward", "no_repeat_ngram_size 1"),
    *("no_repeat_ngram_size 2", "no_repeat_ngram_size 3"),
    *("no_repeat_ngram_size 20", "suppress_tokens"),
    *("begin_suppress_tokens", "bad_words_ids", "sequence_bias", "min_new_tokens"),
    *("min_length", "ends", "forced_eos_token_id", "decay", "remove_invalid_values"),
    *("renormalize_logits", "max_length", "beside others", "several"),
)
#: So few tokens that what is said repeats itself.
FEW = {"suppress_tokens": [*range(4, 400)]}
#: They choose no other tokens, and must not.
IDLE = {
    *("nothing", "no_repeat_ngram_size 20", "remove_invalid_values"),
    *("renormalize_logits", "beside others"),
}


def their_tokens(theirs: Any, **given: Any) -> torch.Tensor:
    ids, mask = rows()
    whole = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 321} | given
    config = GenerationConfig(**{k: v for k, v in whole.items() if v is not None})
    found: torch.Tensor = theirs.generate(
        ids, attention_mask=mask, generation_config=config
    )
    return found


def test_the_names_are_all(ours: Any) -> None:
    assert set(NAMES) == options(ours).keys()


@pytest.mark.parametrize("name", NAMES)
def test_calls_as_transformers(ours: Any, theirs: Any, name: str) -> None:
    ids, mask = rows()
    asked = options(ours)[name]
    given = {"max_new_tokens": 16, "eos_token_id": 320, "pad_token_id": 321} | asked
    want = their_tokens(theirs, **given)
    got = ours.generate(ids, mask, **given)
    assert torch.equal(got, want)
    # Control: what was asked for changes something.
    plain = {"max_new_tokens": 16, "eos_token_id": 320, "pad_token_id": 321}
    same = torch.equal(got, ours.generate(ids, mask, **plain))
    assert same == (name in IDLE)


def test_control_texts_repeat_themselves(ours: Any) -> None:
    ids, mask = rows()
    plain = ours.generate(ids, mask, max_new_tokens=16, **FEW)
    for size in (2, 3):
        other = {"no_repeat_ngram_size": size, **FEW}
        assert not torch.equal(
            plain, ours.generate(ids, mask, max_new_tokens=16, **other)
        )


@pytest.mark.parametrize("name", NAMES)
def test_files_as_transformers(
    package: Any, checkpoint: Path, ours: Any, theirs: Any, name: str, tmp_path: Path
) -> None:
    """The same asked for by generation_config.json."""
    ids, mask = rows()
    asked = options(ours)[name]
    eos = asked.get("eos_token_id", 320)
    file = {"max_new_tokens": 16, **asked}
    folder = Path(shutil.copytree(checkpoint, tmp_path / "folder"))
    file = {k: v for k, v in file.items() if v is not None and "token_id" not in k}
    file |= {k: v for k, v in asked.items() if k.startswith("forced")}
    (folder / "generation_config.json").write_text(json.dumps(file))
    model = package.load(folder, device="cpu", dtype="float32")
    got = model.generate(ids, mask, eos_token_id=eos, pad_token_id=321)
    assert torch.equal(got, their_tokens(theirs, **{"eos_token_id": eos} | asked))
    # A call stands above its file.
    less = model.generate(ids, mask, max_new_tokens=2, eos_token_id=())
    assert less.shape[1] == 12


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ({"top_k": "x"}, "top_k='x', which must be a whole number"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0, which must be a numb"),
        ({"suppress_tokens": [1, "a"]}, "which must be a token id or a list"),
        ({"bad_words_ids": [3]}, "which must be a list of lists"),
    ],
)
def test_files_that_are_damaged(
    package: Any, checkpoint: Path, tmp_path: Path, file: Any, cause: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "folder"))
    (folder / "generation_config.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=cause):
        package.load(folder, device="cpu")


def test_numbers_of_a_file_may_be_without_bounds(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    """As Python writes them, in keys that count and in others."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "folder"))
    file = {"x": float("inf"), "top_k": 3, "sequence_bias": [[[5], -float("inf")]]}
    (folder / "generation_config.json").write_text(json.dumps(file))
    found = package.load(folder, device="cpu").generation_defaults
    assert found == {"top_k": 3, "sequence_bias": (((5,), -float("inf")),)}


CUTS: dict[str, Any] = {
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "typical_p": {"typical_p": 0.6},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.05},
    "all": {"temperature": 1.4, "top_k": 30, "top_p": 0.9, "min_p": 0.1},
    "all others": {"top_k": 40, "typical_p": 0.8, "epsilon_cutoff": 0.01},
}


@pytest.mark.parametrize("name", CUTS)
def test_probabilities_as_transformers(theirs: Any, name: str) -> None:
    """The probabilities before any token is drawn."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(64, 200, generator=generator) * 3
    asked = {"top_k": 0, "top_p": 1.0, "temperature": 1.0} | CUTS[name]
    config = GenerationConfig(do_sample=True, **asked)
    config._eos_token_tensor = None
    chain = theirs._get_logits_processor(
        generation_config=config, input_ids_seq_length=1, device="cpu"
    )
    want = chain(torch.zeros(64, 1, dtype=torch.int64), logits.clone()).softmax(-1)
    scores, ids = Sampler(**CUTS[name]).scores(logits)
    got = scores.softmax(-1)
    if ids is not None:
        got = torch.zeros_like(want).scatter(1, ids, got)
    assert torch.allclose(got, want, atol=1e-6)
    assert ((got > 0) == (want > 0)).all()
    plain = logits.softmax(-1)
    assert not torch.allclose(got, plain, atol=1e-3)


def test_a_file_that_allows_very_long_texts(
    ours: Any, package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is taken at the beginning, so it is not taken for all that is allowed."""
    ids, mask = rows()
    generation = sys.modules[f"{package.__name__}.generation"]
    monkeypatch.setattr(generation, "USUAL_MOST", 5)
    for file, allowed in (({"max_length": 1 << 39}, (1 << 39) - 10), ({}, 128)):
        monkeypatch.setattr(ours, "generation_defaults", file, raising=False)
        with pytest.warns(UserWarning, match=f"after 5 tokens, .* allows {allowed}"):
            assert ours.generate(ids, mask, eos_token_id=()).shape[1] == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            ours.generate(ids, mask, max_new_tokens=7, eos_token_id=()).shape[1] == 17
        )
        end = int(ours.generate(ids, mask, max_new_tokens=1, eos_token_id=())[0, -1])
        ours.generate(ids[:1], mask[:1], eos_token_id=end)


class TestSampling:
    def test_when_tokens_are_drawn(self, ours: Any) -> None:
        ids, mask = rows()
        greedy = ours.generate(ids, mask, max_new_tokens=9, eos_token_id=())

        def drawn(**given: Any) -> bool:
            given = {"max_new_tokens": 9, "eos_token_id": (), "seed": 1} | given
            one, two = (ours.generate(ids, mask, **given) for _ in range(2))
            assert torch.equal(one, two)
            return not torch.equal(one, greedy)

        assert drawn(do_sample=True)
        assert drawn(temperature=3.0)
        assert drawn(min_p=0.001)
        assert not drawn(do_sample=False)
        assert not drawn(temperature=0.0, top_k=9)
        assert not drawn(do_sample=True, top_k=1)

    def test_a_file_may_ask_for_it(self, ours: Any) -> None:
        ids, mask = rows()
        greedy = ours.generate(ids, mask, max_new_tokens=9, eos_token_id=())
        ours.generation_defaults = {"do_sample": True, "temperature": 5.0, "top_k": 90}
        try:
            wild = ours.generate(ids, mask, max_new_tokens=9, eos_token_id=(), seed=1)
            calm = ours.generate(
                ids, mask, max_new_tokens=9, eos_token_id=(), do_sample=False
            )
        finally:
            del ours.generation_defaults
        assert not torch.equal(wild, greedy)
        assert torch.equal(calm, greedy)

    def test_several_of_a_row(self, ours: Any) -> None:
        ids, mask = rows()
        given: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": (), "seed": 1}
        made = ours.generate(ids, mask, do_sample=True, num_return_sequences=4, **given)
        assert made.shape == (12, 19)
        assert torch.equal(made[:, :10], ids.repeat_interleave(4, 0))
        assert len({tuple(row.tolist()) for row in made[:4]}) > 1


class TestWhereItEnds:
    def test_stop_strings_as_transformers(
        self, ours: Any, theirs: Any, package: Any, checkpoint: Path
    ) -> None:
        own = package.load_tokenizer(checkpoint)
        library = transformers.AutoTokenizer.from_pretrained(checkpoint)
        text = library.decode(free(ours)[0])
        stop = text[3:6]
        ids = rows()[0][:1]
        want = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            stop_strings=[stop, "never said"],
            tokenizer=library,
        )
        for tokenizer in (own, library):
            got = ours.generate(
                ids, max_new_tokens=16, stop_strings=stop, tokenizer=tokenizer
            )
            assert torch.equal(got, want)
        assert got.shape[1] < 26

    def test_a_text_that_ends_before_its_stop_string(
        self,
        ours: Any,
        package: Any,
        checkpoint: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ids, mask = rows()
        tokenizer = package.load_tokenizer(checkpoint)
        generation = sys.modules[f"{package.__name__}.generation"]
        monkeypatch.setattr(generation, "USUAL_NEW", 5)
        given = {"stop_strings": "no such", "tokenizer": tokenizer, "eos_token_id": ()}
        with pytest.warns(UserWarning, match="3 of 3 rows end after 5 .* 'no such'"):
            assert ours.generate(ids, mask, **given).shape[1] == 15
        with pytest.warns(UserWarning, match="1 of 1 rows"):
            [*ours.generate(ids[:1], mask[:1], draft=ours, stream=True, **given)]
        said = tokenizer.decode(free(ours)[0][:3])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours.generate(ids, mask, max_new_tokens=5, **given)
            ours.generate(ids[:1], mask[:1], **given | {"stop_strings": said})

    def test_criteria_as_transformers(self, ours: Any, theirs: Any) -> None:
        ids, mask = rows()
        said = free(ours)

        class Told(stopping_criteria.StoppingCriteria):  # type: ignore[misc]
            def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> Any:
                return ids[:, -1] == said[1][3]

        criteria = StoppingCriteriaList([Told()])
        given: dict[str, Any] = {"max_new_tokens": 12, "pad_token_id": 321}
        want = theirs.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            stopping_criteria=criteria,
            **given,
        )
        got = ours.generate(ids, mask, stopping_criteria=criteria, **given)
        assert torch.equal(got, want)
        assert (got == 321).any()
        only = ours.generate(ids, mask, stopping_criteria=lambda i, _: True, **given)
        assert only.shape[1] == 11

    def test_time_is_an_end(self, ours: Any) -> None:
        ids, mask = rows()
        made = ours.generate(ids, mask, max_new_tokens=60, max_time=0.0)
        assert made.shape[1] == 11


def test_processors_of_ones_own_as_transformers(ours: Any, theirs: Any) -> None:
    ids, mask = rows()

    class Evens(logits_process.LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            assert ids.shape[1] >= 10
            return scores.masked_fill(torch.arange(400) % 2 == 1, -float("inf"))

    own = LogitsProcessorList([Evens()])
    given: dict[str, Any] = {"max_new_tokens": 12, "repetition_penalty": 1.2}
    want = theirs.generate(
        ids, attention_mask=mask, do_sample=False, logits_processor=own, **given
    )
    got = ours.generate(ids, mask, logits_processor=own, **given)
    assert torch.equal(got, want)
    assert not (got[:, 10:] % 2).any()


def test_streamers_are_shown_what_transformers_shows(ours: Any, theirs: Any) -> None:
    class Seen:
        def __init__(self) -> None:
            self.put_in: list[list[int]] = []
            self.ended = 0

        def put(self, value: torch.Tensor) -> None:
            self.put_in.append(value.flatten().tolist())

        def end(self) -> None:
            self.ended += 1

    ids = rows()[0][:1]
    seen = Seen(), Seen()
    given: dict[str, Any] = {"max_new_tokens": 7}
    theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        streamer=seen[0],
        **given,
    )
    ours.generate(ids, streamer=seen[1], **given)
    assert seen[0].put_in == seen[1].put_in
    assert seen[0].ended == seen[1].ended == 1


def test_prompts_that_are_text(ours: Any, package: Any, checkpoint: Path) -> None:
    tokenizer = package.load_tokenizer(checkpoint)
    texts = ["the weather", "你好 is good today"]
    batch = tokenizer(texts, return_tensors="pt")
    ids = ours.generate(
        batch["input_ids"], batch["attention_mask"], max_new_tokens=8, eos_token_id=()
    )
    new = ids[:, batch["input_ids"].shape[1] :]
    want = tokenizer.batch_decode(new, skip_special_tokens=True)
    given: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": ()}
    assert ours.generate(texts, tokenizer=tokenizer, **given) == want
    alone = ours.generate(texts[0], tokenizer=tokenizer, **given)
    assert isinstance(alone, str)
    pieces = ours.generate(texts[0], tokenizer=tokenizer, stream=True, **given)
    assert "".join(pieces) == alone


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"num_beams": 4}, r"does not obey num_beams=4\."),
        ({"colour": 1}, "colour=1: there is no argument of that name"),
        ({"top_k": -1}, "top_k=-1, which must be a whole number, 0 or more"),
        ({"repetition_penalty": "x"}, "which must be a number"),
        ({"stop_strings": ""}, "none of them empty"),
        ({"stop_strings": "x"}, "needs tokenizer="),
        ({"suppress_tokens": [400]}, "the token 400 is to be forced.* has 400 ids"),
        ({"num_return_sequences": 2}, "of a greedy choice are all the same"),
        ({"do_sample": False, "top_k": 3}, "do_sample=False takes the most probable"),
        ({"max_length": 10}, "max_length=10 leaves no room"),
    ],
)
def test_what_is_not_obeyed(ours: Any, given: dict[str, Any], cause: str) -> None:
    ids, mask = rows()
    with pytest.raises(ValueError, match=cause):
        ours.generate(ids, mask, **given)


@pytest.mark.parametrize("prompt", ["x", ["x"], [[1, 2]], 7, None])
def test_what_is_no_prompt(ours: Any, prompt: Any) -> None:
    with pytest.raises(ValueError, match=r"a prompt (is|that is)"):
        ours.generate(prompt)
