"""Try a spec on a checkpoint: list what it explains, and what it leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from glmc.authoring.evidence import Evidence
from glmc.compile.accounting import account, grouped
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.ir.errors import GlmcError, UnknownKeyError
from glmc.ir.lower import lower

_CLASSES = ("architectures", "auto_map")


@dataclass
class Trial:
    """The outcome of a spec's trial on a checkpoint."""

    error: str | None = None
    """The reason why the spec cannot be evaluated with this config."""
    unknown: tuple[str, ...] = ()
    """Config keys that it says nothing about."""
    assumed: Mapping[str, object] = field(default_factory=dict)
    """Defaults of the spec that stood for absent keys."""
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def tensors_fit(self) -> bool:
        """True if every tensor is there, used, and of the right shape."""
        return not (self.error or self.missing or self.wrong or self.unused)

    def complaints(self) -> list[str]:
        """List the tensors that do not fit, a line for each kind."""
        told = [self.error] if self.error else []
        told += [f"missing: {line}" for line in grouped(self.missing)]
        told += [f"unused: {line}" for line in grouped(self.unused)]
        return told + [f"wrong: {line}" for line in grouped(self.wrong)]


def attempt(path: Path, evidence: Evidence, *, any_class: bool) -> Trial:
    """Evaluate a spec with the checkpoint's config and account for its tensors.

    Args:
        path: the spec's file.
        evidence: the checkpoint.
        any_class: whatever classes the config names.
    """
    ignored = [k for k in _CLASSES if any_class and k in evidence.config]
    unknown: tuple[str, ...] = ()
    try:
        try:
            loaded = load_model(evidence.source, spec_path=path, ignore_keys=ignored)
        except UnknownKeyError as error:
            unknown = error.keys
            part = f"{evidence.text_in}."
            given = evidence.source.read_config()
            ignored += [k if k in given else f"{part}{k}" for k in unknown]
            loaded = load_model(evidence.source, spec_path=path, ignore_keys=ignored)
        return _accounted(loaded, evidence, unknown)
    except GlmcError as error:
        return Trial(error=str(error), unknown=unknown)


def _accounted(
    loaded: LoadedModel, evidence: Evidence, unknown: tuple[str, ...]
) -> Trial:
    found = account(loaded.model, lower(loaded.model), evidence.tensors)
    # A draft says what is known of a key even where its value means "off".
    off = tuple(key for key, fate in loaded.keys.items() if fate.status == "off")
    return Trial(
        unknown=unknown + off,
        assumed={k: v for k, v in loaded.assumed.items() if v not in (None, False)},
        missing=found.missing,
        wrong=[f"{name} {why}" for name, why in found.wrong.items()],
        unused=found.unused,
    )
