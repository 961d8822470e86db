"""Load a vocabulary from a folder, with the model's expectations of its inputs."""

from dataclasses import replace
from typing import Any

from .arguments import SIDES
from .bpe import JsonCodec
from .files import (
    MAX_VOCABULARY,
    Folder,
    TokenizerError,
    token_ids,
)
from .profile import Profile
from .readers import READERS

#: The files that hold a vocabulary, the first before the others.
VOCABULARIES = ("ice_text.model", "tokenizer.json", "tokenizer.model")


def read_profile(folder: Folder, wanted: str | None, model_class: Any) -> Profile:
    """Reads the tokenizer of a folder, checked against the model's rows and ids.

    `wanted` is the variant, where the caller chose one; `model_class` is a build's
    Model, or None.
    """
    name = _vocabulary(folder)
    where = str(folder.path / name)
    profile = READERS[name](folder, where, folder.read(name, MAX_VOCABULARY), wanted)
    profile = replace(profile, **_settings(folder))
    _check_model(folder, where, profile, model_class)
    return profile


def _settings(folder: Folder) -> dict[str, Any]:
    """Reads how long a row may be, where it is cut, and whether decoded text is
    cleaned."""
    config = folder.tokenizer_config
    longest = config.get("model_max_length", config.get("max_len"))
    # Where no limit is known, transformers writes a number of 31 digits.
    known = type(longest) is int and 0 < longest <= 1 << 30
    side = config.get("truncation_side", "right")
    if side not in SIDES:
        raise TokenizerError(
            f"{folder.path / 'tokenizer_config.json'}: truncation_side is "
            f"{side!r:.40}; it is 'left' or 'right'."
        )
    return {
        "longest": longest if known else None,
        "cut_side": side,
        "clean": config.get("clean_up_tokenization_spaces") is True,
    }


def _vocabulary(folder: Folder) -> str:
    """Returns the file that holds the vocabulary, its kind, and its bytes."""
    there = [name for name in VOCABULARIES if folder.has(name)]
    if not there:
        raise TokenizerError(
            f"{folder.path} holds no tokenizer: there is none of "
            f"{', '.join(VOCABULARIES)}. Download it into the same folder; the "
            "Python files of the repository are not used."
        )
    read = [name for name in there if name in READERS]
    if not read:
        raise TokenizerError(
            f"{folder.path}: the vocabulary of this model is read from "
            f"{' or '.join(READERS)}, but there is only {there[0]}; save the tokenizer "
            "with transformers (save_pretrained) to have one."
        )
    return read[0]


def _check_model(
    folder: Folder, where: str, profile: Profile, model_class: Any
) -> None:
    """Refuses a vocabulary that is not the one of this config or this build."""
    codec, config = profile.codec, folder.config
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    rows = [config.get("padded_vocab_size"), config.get("vocab_size")]
    said = next((r for r in [*rows, inner.get("vocab_size")] if type(r) is int), None)
    built = getattr(model_class, "vocab_size", None)
    largest = (codec.words if isinstance(codec, JsonCodec) else codec.size) - 1
    for count, whose in ((said, "config.json beside it"), (built, "this model")):
        _check_rows(where, largest, count, whose)
        if profile.check_rows and count is not None:
            profile.check_rows(count, whose)
    ends = token_ids(list(getattr(model_class, "eos_token_id", ())))
    if ends and not isinstance(codec, JsonCodec) and profile.eos[0] not in ends:
        raise TokenizerError(
            f"{where} ends a text with the id {profile.eos[0]}, but this model was "
            f"compiled to stop at {', '.join(map(str, ends))}; the tokenizer is of "
            "another model or generation."
        )


def _check_rows(where: str, largest: int, rows: object, whose: str) -> None:
    """Refuses a vocabulary with more ids than the model has rows."""
    if type(rows) is int and largest >= rows:
        raise TokenizerError(
            f"{where} has ids up to {largest}, but {whose} has {rows} rows; the "
            "tokenizer is of another model or generation (ChatGLM-6B: 150528 and "
            "130528 ids), so take all files from one revision."
        )
