"""Read how many classes a config gives to a sequence."""

from collections.abc import Mapping

from glmc.ir.errors import ConfigValueError

_SCORES = "ForSequenceClassification"
_UNSAID = 2
"""As transformers has it where a config says nothing."""


def read_classes(config: Mapping[str, object]) -> int | None:
    """Return the number of classes; None where the published class gives none.

    Raises:
        GlmcError: when the config says no number of them.
    """
    names = config.get("architectures")
    listed = names if isinstance(names, list) else []
    if not any(isinstance(name, str) and name.endswith(_SCORES) for name in listed):
        return None
    labels, count = config.get("id2label"), config.get("num_labels")
    if count is None and isinstance(labels, Mapping):
        count = len(labels)
    if count is None:
        return _UNSAID
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigValueError(f"num_labels must be a number above 0, found {count!r}")
    return count
