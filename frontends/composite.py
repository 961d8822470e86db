"""Composites: a config that holds its text model's config under a key.

``unwrap: {config: text_config, prefix: language_model.}`` in a spec says where. The
text model is what is compiled; what the composite has besides is ignored or refused
like any other key.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from glmc.frontends.spec import Unwrap, validate
from glmc.frontends.wording import show
from glmc.frontends.yaml_tree import Branch
from glmc.ir.errors import GlmcError

# What a composite says for its text model, where that is silent.
INHERITED = frozenset(
    {
        "dtype",
        "torch_dtype",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "quantization_config",
    }
)


@dataclass(frozen=True)
class TextConfig:
    """The config that a spec reads."""

    config: Mapping[str, object]
    key: str | None = None
    """Where in a composite it lies; None where it is the whole file."""

    def inherited(self, name: str, composite: Mapping[str, object]) -> bool:
        """Whether a key of the composite is one of the text model's."""
        return name in INHERITED and self.config.get(name) is composite.get(name)


def text_config(config: Mapping[str, object], tree: Branch, where: str) -> TextConfig:
    """The text model's config of a composite, or ``config`` where it is none.

    Raises:
        GlmcError: when the spec unwraps a key that is not there.
    """
    branch = tree.get("unwrap")
    if not isinstance(branch, Branch):
        return TextConfig(config)
    key = validate(Unwrap, branch, "unwrap").config
    if key is None:
        return TextConfig(config)
    inner = config.get(key)
    if not isinstance(inner, Mapping):
        raise GlmcError(
            f"{where}: {key} must hold the text model's config, found {show(inner)}"
        )
    outer = {name: config[name] for name in INHERITED if config.get(name) is not None}
    given = {name: value for name, value in inner.items() if value is not None}
    # Where the two differ the composite decides, as it is what makes the head.
    tied = {name: outer[name] for name in ("tie_word_embeddings",) if name in outer}
    return TextConfig({**inner, **outer, **given, **tied}, key)
