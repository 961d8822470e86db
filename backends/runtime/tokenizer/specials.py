"""The special and the added tokens that the files beside a vocabulary name.

They stand in up to four files, and transformers' order among them is kept: where
tokenizer_config.json has `added_tokens_decoder`, the older special_tokens_map.json and
added_tokens.json do not count; where it has none, they do, and the map wins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .files import Folder, TokenizerError, token_text

NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
MAX_TOKENS = 65536
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary, its id where a file says it, and its flags."""

    text: str
    number: int | None = None
    special: bool = True
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Specials:
    """The special tokens that files name: by role, and all that the vocabulary must
    have.

    `named` is what chat templates may call, `bos_token` and its like; `where` is the
    file that ids are from.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[AddedToken, ...] = ()
    where: str = "tokenizer_config.json"

    @property
    def ids(self) -> dict[str, int]:
        """The ids that the files give."""
        return {t.text: t.number for t in self.tokens if t.number is not None}


def read_specials(folder: Folder) -> Specials:
    """Reads the special tokens of a folder; raises TokenizerError where a table is
    none."""
    config = folder.tokenizer_config
    table = config.get("added_tokens_decoder")
    merged = dict(config) if table is not None else {**config, **_map(folder)}
    extra = merged.get("extra_special_tokens") or merged.get(
        "additional_special_tokens"
    )
    named = _named(merged, extra if isinstance(extra, dict) else {})
    listed = [t for t in map(_token, extra if isinstance(extra, list) else ()) if t]
    where = "tokenizer_config.json"
    if table is not None:
        added = list(_table(table, str(folder.path / where)))
    else:
        special = {*named.values(), *(token.text for token in listed)}
        added = list(_older(folder, special))
        where = "added_tokens.json" if added else where
    own = [_token(merged.get(name)) or AddedToken(text) for name, text in named.items()]
    tokens: dict[str, AddedToken] = {}
    for token in [*added, *own, *listed]:
        tokens.setdefault(token.text, token)
    ordered = sorted(tokens.values(), key=lambda t: (t.number is None, t.number or 0))
    return Specials(named, tuple(ordered), where)


def _map(folder: Folder) -> dict[str, Any]:
    """Reads special_tokens_map.json; its lists go on those of tokenizer_config.json."""
    found = dict(folder.special_tokens_map)
    extra = found.get("extra_special_tokens")
    before = folder.tokenizer_config.get("extra_special_tokens")
    if isinstance(extra, list) and isinstance(before, list):
        found["extra_special_tokens"] = before + [t for t in extra if t not in before]
    return found


def _named(merged: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tokens with a role: the usual ones, and those that a model has
    besides."""
    others = [
        name
        for name, value in merged.items()
        if name.endswith("_token")
        and name not in NAMED_TOKENS
        and (isinstance(value, str) or _typed(value))
    ]
    values = [(name, merged.get(name)) for name in (*NAMED_TOKENS, *others)]
    texts = {name: token_text(value) for name, value in [*values, *extra.items()]}
    return {name: text for name, text in texts.items() if text is not None}


def _typed(value: object) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _token(value: object) -> AddedToken | None:
    """Reads a token as lists and roles have it: its text, or an object with its
    flags."""
    text = token_text(value)
    if text is None:
        return None
    return AddedToken(text, flags=_flags(value))


def _flags(value: object) -> dict[str, bool]:
    entry = value if isinstance(value, dict) else {}
    return {name: entry[name] for name in FLAGS if isinstance(entry.get(name), bool)}


def _table(table: object, file: str) -> Iterator[AddedToken]:
    """Reads `added_tokens_decoder` of tokenizer_config.json: a token for each id."""
    where = f"{file}: added_tokens_decoder"
    if not isinstance(table, dict) or len(table) > MAX_TOKENS:
        raise TokenizerError(f"{where} is not an object of ids; download it again.")
    found: dict[str, int] = {}
    for key, entry in table.items():
        text = token_text(entry)
        if text is None or not (key.isascii() and key.isdigit() and len(key) < 10):
            raise TokenizerError(
                f"{where} has the entry {key[:40]!r}, which is not an id with a "
                '{"content": text}; download it again.'
            )
        if found.setdefault(text, int(key)) != int(key):
            raise TokenizerError(
                f"{where} gives {text!r} two ids, {found[text]} and {int(key)}; "
                "download it again."
            )
        special = isinstance(entry, dict) and entry.get("special") is True
        yield AddedToken(text, int(key), special, _flags(entry))


def _older(folder: Folder, special: set[str]) -> Iterator[AddedToken]:
    """Reads added_tokens.json: an id for each token."""
    where = folder.path / "added_tokens.json"
    if len(folder.added_tokens) > MAX_TOKENS:
        raise TokenizerError(f"{where} has more than {MAX_TOKENS} tokens.")
    for text, number in folder.added_tokens.items():
        if token_text(text) is None or type(number) is not int or number < 0:
            raise TokenizerError(
                f"{where} has the entry {text[:40]!r}, which is not a token with its "
                "id; download it again."
            )
        known = text in special
        yield AddedToken(text, number, known, {"normalized": not known})
