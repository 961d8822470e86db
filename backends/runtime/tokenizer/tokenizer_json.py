"""The reader of tokenizer.json."""

from .bpe import JsonCodec
from .files import Folder, TokenizerError, token_ids
from .profile import Profile
from .specials import Specials, read_specials


def read_json(folder: Folder, where: str, data: bytes, wanted: str | None) -> Profile:
    """Returns the tokenizer of a model whose kind has no variants."""
    if wanted is not None:
        raise TokenizerError(
            f"variant {wanted!r} is asked for, but tokenizers of this model have no "
            "variants; leave it out."
        )
    return json_profile(folder, *json_codec(folder, where, data))


def json_codec(folder: Folder, where: str, data: bytes) -> tuple[JsonCodec, Specials]:
    """Returns the vocabulary, and the special tokens that the files beside it name."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{where} is no UTF-8 text ({error}); download it again."
        ) from error
    specials = read_specials(folder)
    return JsonCodec(text, where, specials), specials


def json_profile(
    folder: Folder, codec: JsonCodec, specials: Specials, ends: tuple[int, ...] = ()
) -> Profile:
    """Returns the profile that the files give a vocabulary; `ends` are its end tokens
    where they name none."""
    eos = _json_eos(folder, codec, specials) or ends
    pad = _json_id(codec, specials, "pad_token") or token_ids(
        folder.config.get("pad_token_id")
    )
    encoder = folder.config.get("model_type") == "bert"
    return Profile(
        codec,
        None,
        eos,
        pad=next(iter([*pad, *eos]), 0),
        side="right" if encoder else "left",
        typed=encoder,
    )


def _json_eos(folder: Folder, codec: JsonCodec, specials: Specials) -> tuple[int, ...]:
    """Returns the tokenizer's own end token first, then those that end an answer."""
    configs = (folder.generation_config, folder.config)
    found = [token_ids(config.get("eos_token_id")) for config in configs]
    own = _json_id(codec, specials, "eos_token")
    ends = next(filter(None, found), ())
    return tuple(dict.fromkeys([*own, *ends]))


def _json_id(codec: JsonCodec, specials: Specials, name: str) -> tuple[int, ...]:
    text = specials.named.get(name)
    number = None if text is None else codec.tokenizer.token_to_id(text)
    return () if number is None else (int(number),)
