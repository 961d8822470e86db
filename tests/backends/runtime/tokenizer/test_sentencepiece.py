"""ice_text.model and tokenizer.model, against sentencepiece itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.pieces import pieces
from support.vocabularies import (
    BLANKS,
    ICE_SPECIALS,
    Files,
    ice_model,
    sentencepiece_model,
    write,
)

TEXTS = ["你好", "the weather  is good", "今天\n好 🌍", " lead", "x = {}\t#", "�"]
MESSAGES = [{"role": "user", "content": "你好"}]


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)  # type: ignore[no-untyped-call, unused-ignore]


def load(folder: Path, files: Files, variant: str | None = None) -> Tokenizer:
    return load_tokenizer(write(folder, files), variant=variant)


@pytest.fixture
def ice(tmp_path: Path) -> Tokenizer:
    return load(
        tmp_path,
        {"ice_text.model": ice_model(), "tokenizer_config.json": {}},
    )


@pytest.fixture
def early(tmp_path: Path) -> Tokenizer:
    return load(tmp_path, {"ice_text.model": ice_model(early=True)})


@pytest.fixture(params=["chatglm2", "chatglm3", "codegeex2"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return load(tmp_path, {"tokenizer.model": sentencepiece_model()}, request.param)


class TestTokenizerModel:
    @pytest.mark.parametrize("text", TEXTS)
    def test_text_as_sentencepiece(self, plain: Tokenizer, text: str) -> None:
        expected = processor(sentencepiece_model()).encode(text)
        assert plain.encode(text, add_special_tokens=False) == expected
        assert plain.decode(expected) == text

    def test_specials_follow_the_last_piece(self, plain: Tokenizer) -> None:
        words = processor(sentencepiece_model()).vocab_size()
        names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
        if plain.variant == "chatglm3":
            names += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
        found = plain.special_tokens
        assert [found[n] for n in names] == list(range(words, words + len(names)))
        assert plain.vocab_size == words + len(names)
        assert (plain.eos_token_id, plain.pad_token_id) == (2, 0)

    def test_prefix_and_pair(self, plain: Tokenizer) -> None:
        sp = processor(sentencepiece_model())
        around = [plain.special_tokens["[gMASK]"], plain.special_tokens["sop"]]
        assert plain.encode("你好") == around + sp.encode("你好")
        paired = plain.encode("你好", "good")
        assert paired == around + sp.encode("你好") + sp.encode("good") + [2]

    def test_names_in_text_are_text(self, plain: Tokenizer) -> None:
        text = "isopod [gMASK] <|user|> </s>"
        ids = plain.encode(text, add_special_tokens=False)
        assert not set(ids) & set(plain.special_tokens.values())
        assert plain.decode(ids) == text

    def test_names_are_called_where_allowed(self, tmp_path: Path) -> None:
        files: Files = {"tokenizer.model": sentencepiece_model()}
        found = load(tmp_path, files, "chatglm3")
        ids = found.encode(
            "<|user|>good", add_special_tokens=False, encode_special_tokens=True
        )
        good = processor(sentencepiece_model()).encode("good")
        assert ids == [found.special_tokens["<|user|>"], *good]
        assert found.decode(ids) == "<|user|>good"
        assert found.decode(ids, skip_special_tokens=True) == "good"

    def test_rows_without_a_word_have_no_text(self, plain: Tokenizer) -> None:
        good = plain.encode("good", add_special_tokens=False)
        assert plain.decode([*good, plain.vocab_size, 65023]) == "good"

    def test_a_batch_is_padded_on_the_left(self, plain: Tokenizer) -> None:
        batch = plain(["你好 the weather", "x"], return_tensors="pt")
        assert batch.input_ids.dtype == torch.int64
        gap = int((batch["attention_mask"][1] == 0).sum())
        assert gap > 0
        assert batch.input_ids[1, :gap].tolist() == [0] * gap
        assert batch.input_ids[1, gap:].tolist() == plain.encode("x")
        assert batch.position_ids[1].tolist() == [0] * gap + list(
            range(len(plain.encode("x")))
        )
        names = ["input_ids", "attention_mask", "position_ids"]
        assert list(batch.to("cpu")) == names
        assert len({batch[name].shape for name in names}) == 1


class TestIceText:
    def test_lines_tabs_and_blanks_are_pieces(self, ice: Tokenizer) -> None:
        sp = processor(ice_model())
        text = "def main():\n\treturn" + " " * 83 + "1  2 3"
        spelled = "def main():<n><|tab|>return<|blank_80|><|blank_3|>1<|blank_2|>2 3"
        ids = ice.encode(text, add_special_tokens=False)
        assert ids == sp.encode(spelled)
        assert sp.piece_to_id("<|blank_80|>") in ids
        assert ice.decode(ids) == text

    @pytest.mark.parametrize("spaces", [1, 2, 79, 80, 81, 82, 160, 163])
    def test_runs_of_blanks(self, ice: Tokenizer, spaces: int) -> None:
        """As replacing 80 blanks first, then 79, and so on."""
        text = expected = "a" + " " * spaces + "b"
        for k in range(80, 1, -1):
            expected = expected.replace(" " * k, f"<|blank_{k}|>")
        ids = ice.encode(text, add_special_tokens=False)
        assert ids == processor(ice_model()).encode(expected)
        assert ice.decode(ids) == text

    def test_a_prompt_ends_in_gmask_sop(self, ice: Tokenizer) -> None:
        sp = processor(ice_model())
        end = [sp.piece_to_id("[gMASK]"), sp.piece_to_id("<sop>")]
        assert ice.encode("你好") == sp.encode("你好") + end
        pair = ice.encode("你好", "good")
        answer = [*sp.encode("good"), sp.piece_to_id("<eop>")]
        assert pair == sp.encode("你好") + end + answer
        assert ice.eos_token_ids == (sp.piece_to_id("<eop>"),)
        assert ice.pad_token_id == 3

    def test_positions_have_two_rows(self, ice: Tokenizer) -> None:
        batch = ice(["你好 good today", "x"], return_tensors="pt")
        total = batch.input_ids.shape[1]
        assert batch.position_ids.shape == (2, 2, total)
        assert batch.position_ids.dtype == torch.int64
        anchor = total - 2  # the gMASK of the longer row
        assert batch.position_ids[0].tolist() == [
            [*range(total - 1), anchor],
            [0] * (total - 1) + [1],
        ]
        short = len(ice.encode("x"))
        gap = [0] * (total - short)
        assert batch.position_ids[1].tolist() == [
            [*gap, *range(short - 1), short - 2],
            [*gap, *[0] * (short - 1), 1],
        ]
        assert batch.input_ids[1, : total - short].tolist() == [3] * (total - short)

    def test_positions_in_an_answer(self, ice: Tokenizer) -> None:
        """§3.7: `t t gMASK sop a a eop` is at 0 1 2 2 2 2 2 and 0 0 0 1 2 3 4."""
        batch = ice("你好", "good")
        context = len(ice.encode("你好")) - 1
        answer = len(batch.input_ids) - context
        assert batch.position_ids == [
            [*range(context), *[context - 1] * answer],
            [*[0] * context, *range(1, answer + 1)],
        ]

    def test_mask_places_where_there_is_no_gmask(self, ice: Tokenizer) -> None:
        text = "good[MASK]today<sop>"
        batch = ice(text, add_special_tokens=False, encode_special_tokens=True)
        at = batch.input_ids.index(ice.special_tokens["[MASK]"])
        assert batch.position_ids[0][-1] == at
        both = ice(text, encode_special_tokens=True)
        at = both.input_ids.index(ice.special_tokens["[gMASK]"])
        assert both.position_ids[0][-1] == at
        assert "position_ids" not in ice("good", add_special_tokens=False)

    @pytest.mark.parametrize("as_text", [False, True])
    def test_names_in_text_are_text(self, tmp_path: Path, as_text: bool) -> None:
        """Whatever type the file gives its special pieces."""
        model = ice_model(specials_as_text=as_text)
        found = load(tmp_path, {"ice_text.model": model})
        ids = found.encode("good [gMASK] <sop>", add_special_tokens=False)
        assert not set(ids) & set(found.special_tokens.values())
        called = found.encode("good[gMASK]", encode_special_tokens=True)
        assert found.special_tokens["[gMASK]"] in called[:-2]

    def test_control_such_a_file_makes_specials_from_text(self) -> None:
        sp = processor(ice_model(specials_as_text=True))
        assert sp.piece_to_id("[gMASK]") in sp.encode("good [gMASK]")


class TestEarlyIceText:
    def test_pieces_are_added_in_the_published_order(self, early: Tokenizer) -> None:
        words = processor(ice_model(early=True)).vocab_size()
        found = early.special_tokens
        at = [found[name] - 20000 for name in ICE_SPECIALS]
        assert at == list(range(words, words + 8))
        assert early.vocab_size == 20000 + words + 8 + 1 + len(BLANKS) + 256
        assert early.pad_token_id == 20003

    def test_text_is_shifted(self, early: Tokenizer) -> None:
        sp = processor(ice_model(early=True))
        expected = [20000 + i for i in sp.encode("the weather is 你好")]
        ids = early.encode("the weather is 你好", add_special_tokens=False)
        assert ids == expected

    def test_added_pieces_are_used(self, early: Tokenizer) -> None:
        first = early.special_tokens["<dBLOCK>"] + 1
        ids = early.encode("a\t    b", add_special_tokens=False)
        assert {first, first + 1 + 4 - 2} <= set(ids)  # <|tab|>, <|blank_4|>
        text = "\U0001f30d"
        ids = early.encode(text, add_special_tokens=False)
        byte0 = early.vocab_size - 256
        assert ids[-4:] == [byte0 + b for b in text.encode()]
        assert early.decode(ids) == text


def test_pieces_are_those_of_sentencepiece() -> None:
    sp = processor(sentencepiece_model())
    found = [p.text.decode() for p in pieces(sentencepiece_model(), "here")]
    assert found == [sp.id_to_piece(i) for i in range(sp.vocab_size())]


@pytest.mark.parametrize("keep", [0, 1, 7, 500, -3])
def test_damaged_files_are_refused(tmp_path: Path, keep: int) -> None:
    for name, model in (
        ("tokenizer.model", sentencepiece_model()),
        ("ice_text.model", ice_model()),
    ):
        folder = write(tmp_path / name, {name: model[:keep]})
        with pytest.raises(TokenizerError, match=rf"{name}.*(damaged|lacks|no piece)"):
            load_tokenizer(
                folder, variant="chatglm2" if name == "tokenizer.model" else None
            )
