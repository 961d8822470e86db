"""Read special token ids, from generation_config.json where it has them."""

from collections.abc import Mapping

from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import ConfigValueError


def read_tokens(
    config: Mapping[str, object], generation: Mapping[str, object], where: str
) -> m.Tokens:
    """Read the ids at which generation begins, stops and pads.

    Raises:
        GlmcError: when an id is not a whole number (or, for eos, a list of them).
    """

    def first(key: str) -> object:
        value = generation.get(key)
        return config.get(key) if value is None else value

    eos = first("eos_token_id")
    many = eos if isinstance(eos, list) else [eos]
    ids = [_id(value, "eos_token_id", where) for value in many]
    return m.Tokens(
        bos=_id(first("bos_token_id"), "bos_token_id", where),
        eos=tuple(i for i in ids if i is not None),
        pad=_id(first("pad_token_id"), "pad_token_id", where),
    )


def _id(value: object, key: str, where: str) -> int | None:
    """Read one id. Early LLaMA configs write -1 for "there is none"."""
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigValueError(
            f"{where}: {key} must be a token id, found {show(value)}"
        )
    return value
