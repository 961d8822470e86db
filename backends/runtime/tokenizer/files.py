"""The files of a tokenizer: found, bounded, checked; nothing of them is run."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

from ..hub import HubError, Repository, is_hub_id

#: All that is read of a repository, and what a hub id is asked for.
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "ice_text.model",
    "tokenizer.json",
    "tokenizer.model",
)
#: The folder of chat templates besides the default one.
TEMPLATES = "additional_chat_templates"
#: Published files stay below a fifth of these.
MAX_VOCABULARY = 128 << 20
MAX_JSON = 16 << 20
MAX_TEMPLATE = 256 << 10


class TokenizerError(ValueError):
    """A tokenizer's files are damaged, unknown or do not belong together."""


class Folder:
    """The tokenizer files of one folder.

    `name` is the hub id or the folder's own name. Only files of fixed names are read;
    in the hub's cache they are links, so a name decides, not what it points to.
    """

    def __init__(self, path: Path, name: str):
        self.path = path
        self.name = name
        self.config = self._json("config.json")
        self.tokenizer_config = self._json("tokenizer_config.json")
        self.generation_config = self._json("generation_config.json")
        self.special_tokens_map = self._json("special_tokens_map.json")
        self.added_tokens = self._json("added_tokens.json")

    def has(self, name: str) -> bool:
        """Returns whether the folder has a regular file of this name."""
        return (self.path / name).is_file()

    def names(self, inner: str, ending: str) -> list[str]:
        """Returns the names of the files right in the folder `inner` that end so,
        sorted.

        Names are letters, digits, `.`, `_` and `-`; others are passed over.
        """
        try:
            found = [file.name for file in (self.path / inner).iterdir()]
        except OSError:
            return []
        spelling = re.compile(r"\w[\w.-]{0,63}" + re.escape(ending), re.ASCII)
        named = sorted(name for name in found if spelling.fullmatch(name))
        return [name for name in named if self.has(f"{inner}/{name}")]

    def read(self, name: str, limit: int = MAX_VOCABULARY) -> bytes:
        """Returns the bytes of a file that exists and is not larger than `limit`."""
        file = self.path / name
        try:
            with file.open("rb") as opened:
                data = opened.read(limit + 1)
        except OSError as error:
            raise TokenizerError(
                f"{file} cannot be read ({error.strerror}); download it again."
            ) from error
        if len(data) > limit:
            raise TokenizerError(
                f"{file} is larger than {limit >> 10} KiB, which no such file is; it "
                "is not read."
            )
        if data.startswith(b"version https://git-lfs"):
            raise TokenizerError(
                f"{file} is a Git LFS pointer, not the file itself; run "
                "`git lfs pull` in its folder."
            )
        return data

    def text(self, name: str, limit: int) -> str:
        """Returns a file's UTF-8 text."""
        try:
            return self.read(name, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"{self.path / name} is no UTF-8 text ({error}); download it again."
            ) from error

    def _json(self, name: str) -> dict[str, Any]:
        if not self.has(name):
            return {}
        try:
            found = json.loads(self.text(name, MAX_JSON))
        except (json.JSONDecodeError, RecursionError) as error:
            raise TokenizerError(
                f"{self.path / name} is no JSON ({error}); download it again."
            ) from error
        if not isinstance(found, dict):
            raise TokenizerError(
                f"{self.path / name} holds a {type(found).__name__}, not an object of "
                "keys; download it again."
            )
        return found


def find_folder(source: str | Path, **hub: Any) -> Folder:
    """Finds the tokenizer files of a folder or a hub id (never its code or weights).

    `hub` is what `hub.Repository` takes.
    """
    path = Path(source)
    if path.is_dir():
        return Folder(path, path.resolve().name)
    if path.is_file():
        raise TokenizerError(f"{source} is a file; give the folder that holds it.")
    if not is_hub_id(str(source)):
        raise TokenizerError(
            f"{source} does not exist; give a folder that holds a tokenizer, or a hub "
            "id such as THUDM/chatglm3-6b."
        )
    return Folder(_download(Repository(str(source), **hub)), str(source))


def _download(repository: Repository) -> Path:
    try:
        found = [file for file in map(repository.fetch, FILES) if file is not None]
        for name in repository.names(TEMPLATES, ".jinja"):
            repository.fetch(f"{TEMPLATES}/{name}")
        if not found:
            raise HubError(repository.lacking(f"tokenizer (any of {', '.join(FILES)})"))
    except HubError as error:
        raise TokenizerError(str(error)) from error
    return found[0].parent


def optional(module: str, purpose: str, package: str = "glmc[tokenizers]") -> Any:
    """Imports a package that only some tokenizers need."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TokenizerError(
            f"the package {module} is needed {purpose} and cannot be imported "
            f"({error}); install it with `pip install {module}`"
            + ("." if package == module else f" or `pip install '{package}'`.")
        ) from error


def token_text(value: object) -> str | None:
    """Returns the text of a token as tokenizer_config.json has it: a string or an
    object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and 0 < len(value) <= 256 else None


def token_ids(value: object) -> tuple[int, ...]:
    """Returns the ids of a config value that is one id, several, or none."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values[:64] if type(v) is int and v >= 0)
