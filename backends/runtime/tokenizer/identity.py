"""Find which tokenizer a folder holds: by its files, then by its config.

The published ChatGLM repositories name themselves alike, and ChatGLM2 and ChatGLM3 even
share a vocabulary file, so names and versions decide last, and where nothing decides,
the caller must.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from .files import Folder, TokenizerError, token_ids

#: What `variant` may be.
VARIANTS = ("chatglm", "chatglm2", "chatglm3", "codegeex2", "glm-4")
#: The variants that each file can belong to.
CANDIDATES = {
    "ice_text.model": ("chatglm",),
    "sentencepiece": ("chatglm2", "chatglm3", "codegeex2"),
    "tiktoken": ("glm-4",),
    "tokenizer.json": ("glm-4",),
}
_NAMES = (
    ("chatglm3", r"chatglm-?3"),
    ("chatglm2", r"chatglm-?2"),
    ("codegeex2", r"codegeex-?2"),
    ("glm-4", r"codegeex-?4|glm-?4"),
    ("chatglm", r"chatglm(-6b)?(?![0-9])"),
)


def named_variant(name: object) -> str | None:
    """Returns the variant that a repository's name tells, such as
    THUDM/chatglm3-6b-32k."""
    if not isinstance(name, str):
        return None
    last = name.rstrip("/").rpartition("/")[2].lower()
    return next((v for v, spelling in _NAMES if re.search(spelling, last)), None)


def given_variant(variant: str) -> str:
    """Returns the caller's choice, which may also be spelled as a repository is."""
    found = variant if variant in VARIANTS else named_variant(variant)
    if found is None:
        raise TokenizerError(
            f"variant {variant!r} is unknown; give one of {', '.join(VARIANTS)}."
        )
    return found


def choose_variant(folder: Folder, kind: str, wanted: str | None) -> str | None:
    """Returns the variant of a folder whose vocabulary is of `kind`, a key of
    CANDIDATES.

    None for a tokenizer.json that is not known to be of GLM-4. Raises TokenizerError
    where `wanted` or config.json speaks of another kind, or nothing decides.
    """
    candidates = CANDIDATES[kind]
    if wanted is not None:
        wanted = given_variant(wanted)
        if wanted not in candidates:
            raise TokenizerError(
                f"variant {wanted!r} is asked for, but {folder.path} holds a "
                f"vocabulary of {' or '.join(candidates)} ({kind})."
            )
        return wanted
    if kind == "tokenizer.json":
        return None
    described = configured_variants(folder.config)
    _refuse_other_model(folder, kind, described)
    left = [v for v in candidates if v in described] or list(candidates)
    if len(left) == 1:
        return left[0]
    return _hinted(folder, left)


def configured_variants(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the variants that the keys of config.json leave possible, names apart."""
    if config.get("model_type") != "chatglm":
        return VARIANTS
    first = {"inner_hidden_size", "position_encoding_2d", "max_sequence_length"}
    later = {"padded_vocab_size", "multi_query_attention", "ffn_hidden_size"}
    if first & config.keys():
        return ("chatglm",)
    if not later & config.keys():
        return VARIANTS
    rows = config.get("padded_vocab_size")
    if rows == 151552 or {"vision_config", "boi_token_id"} & config.keys():
        return ("glm-4",)
    if {"interleaved_qkv", "rotary_percent"} & config.keys():
        return ("codegeex2",)
    if rows == 65024:
        return ("chatglm2", "chatglm3", "codegeex2")
    return tuple(v for v in VARIANTS if v != "chatglm")


def _refuse_other_model(folder: Folder, kind: str, described: tuple[str, ...]) -> None:
    model_type = folder.config.get("model_type", "chatglm")
    if model_type != "chatglm":
        raise TokenizerError(
            f"{folder.path} has a config.json of model_type {str(model_type)[:40]!r}, "
            f"whose vocabulary is read from tokenizer.json, but there is only {kind}; "
            "save the tokenizer with transformers (save_pretrained) to have one."
        )
    if not set(CANDIDATES[kind]) & set(described):
        raise TokenizerError(
            f"{folder.path} holds a vocabulary of {' or '.join(CANDIDATES[kind])} "
            f"({kind}), but its config.json describes {' or '.join(described)}; take "
            "both from one repository."
        )


def _hinted(folder: Folder, left: list[str]) -> str:
    """Decides by names first, then by versions; contradicting names decide nothing."""
    config, own = folder.config, folder.tokenizer_config
    names = (config.get("_name_or_path"), own.get("name_or_path"))
    said = [v for v in map(named_variant, names) if v in left]
    if len(set(said)) == 1:
        return said[0]
    if not said:
        folder_says = named_variant(folder.name)
        if folder_says in left:
            return folder_says
        guess = _by_version(config, own)
        if guess in left:
            return guess
    raise TokenizerError(
        f"{folder.path} does not tell whether its tokenizer is of "
        f"{' or '.join(left)}: the vocabulary is the same, the special tokens are not, "
        f"and {'its names contradict each other' if said else 'no name decides'}; "
        f"choose with variant={left[0]!r} (--variant on the command line)."
    )


def _by_version(config: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    template = own.get("chat_template")
    if isinstance(template, str) and "<|assistant|>" in template:
        return "chatglm3"
    version = config.get("transformers_version")
    length = config.get("seq_length")
    if version == "4.27.1" or (length == 32768 and "rope_ratio" not in config):
        return "chatglm2"
    if version == "4.30.2" and (length == 8192 or "rope_ratio" in config):
        return "chatglm3"
    return None


def ice_offset(folder: Folder, specials: bool) -> int:
    """Returns how far the ids of ice_text.model are shifted: its number of image
    tokens.

    The published code takes 20000 where tokenizer_config.json does not say, which is
    right for the early vocabulary (150528) alone. So the config's vocabulary decides
    then, or else whether the file has its `specials`, as only the later one does.
    """
    given = folder.tokenizer_config.get("num_image_tokens")
    if given is not None:
        if type(given) is not int or not 0 <= given <= 1 << 20:
            raise TokenizerError(
                f"{folder.path / 'tokenizer_config.json'}: num_image_tokens is "
                f"{str(given)[:40]!r}, not a number of tokens; 0 and 20000 are known."
            )
        return given
    rows = folder.config.get("vocab_size")
    early = rows == 150528 if rows in (130528, 150528) else not specials
    return 20000 if early else 0


def check_ids(folder: Folder, where: str, expected: Mapping[str, int]) -> None:
    """Refuses a config.json whose own token ids are not those of the vocabulary.

    `expected` has the vocabulary's id for each key of the config, such as
    gmask_token_id; a key that the config lacks is not compared.
    """
    for key, number in expected.items():
        said = token_ids(folder.config.get(key))
        if said and number not in said:
            raise TokenizerError(
                f"{where} gives the id {number} to the token that config.json beside "
                f"it calls {key} = {', '.join(map(str, said))}; they are of different "
                f"generations{_generations(number, said[0])}, so take all files from "
                "one revision."
            )


def check_ends(folder: Folder, where: str, specials: Collection[int]) -> None:
    """Refuses a config.json whose eos ids are no special tokens here."""
    said = token_ids(folder.config.get("eos_token_id"))
    if said and not set(said) & set(specials):
        raise TokenizerError(
            f"{where} has no special token with an id that config.json beside it ends "
            f"texts with (eos_token_id = {', '.join(map(str, said))}); they are of "
            "different models or generations, so take all files from one revision."
        )


def _generations(ours: int, theirs: int) -> str:
    vocabulary = {130: "130528", 150: "150528"}
    pair = [vocabulary.get(number // 1000) for number in (ours, theirs)]
    if None in pair or pair[0] == pair[1]:
        return ""
    return f" (a {pair[0]} tokenizer, a {pair[1]} model)"
