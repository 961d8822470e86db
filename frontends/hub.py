"""The hub: fetch what describes a model, and nothing that could run."""

from pathlib import Path

from glmc.ir.errors import GlmcError

_OPTIONAL = (
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def fetch_description(hub_id: str, revision: str | None = None) -> Path:
    """The folder, in the hub's own cache, with the config of ``hub_id``.

    Raises:
        GlmcError: when the repository, the revision, the config or the network is not
            there.
    """
    config = _fetch(hub_id, "config.json", revision)
    if config is None:
        raise GlmcError(f"the hub repository {hub_id} has no config.json")
    for name in _OPTIONAL:
        _fetch(hub_id, name, revision)
    return config.parent


def _fetch(hub_id: str, name: str, revision: str | None) -> Path | None:
    """One file; None where the repository has no such file."""
    # Imported here: compiling a local folder must not pay for an HTTP client.
    from huggingface_hub import (
        _CACHED_NO_EXIST,
        hf_hub_download,
        try_to_load_from_cache,
    )
    from huggingface_hub import errors as hub

    at = f"{hub_id} at revision {revision}" if revision else hub_id
    try:
        return Path(hf_hub_download(hub_id, name, revision=revision))
    except hub.LocalEntryNotFoundError as error:
        cached = try_to_load_from_cache(hub_id, name, revision=revision)
        if cached is _CACHED_NO_EXIST:  # the hub said so when it could be asked
            return None
        raise GlmcError(
            f"{at}: the hub cannot be reached and {name} is not in the cache"
            f" ({_cause(error)})"
        ) from None
    except hub.EntryNotFoundError:
        return None
    except hub.GatedRepoError:
        raise GlmcError(
            f"{at} is gated: accept its terms on the hub and log in (`hf auth login`)"
        ) from None
    except hub.RepositoryNotFoundError:
        raise GlmcError(
            f"{at}: there is no such file or folder here and no such repository on the"
            " hub (or it is private and you are not logged in)"
        ) from None
    except hub.RevisionNotFoundError:
        raise GlmcError(f"{hub_id} has no revision {revision!r}") from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, OSError, ValueError) as error:
        raise GlmcError(f"{at}: fetching {name} failed: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
