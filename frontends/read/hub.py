"""The hub: fetch what describes a model, and nothing that could run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from glmc.backends.runtime.patience import AnswerError, patiently
from glmc.ir.errors import (
    GlmcError,
    HubAnswerError,
    HubRefusedError,
    HubUnreachableError,
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

_BESIDE = ("generation_config.json", "hf_quant_config.json")


@dataclass(frozen=True)
class Hub:
    """The hub to ask, and the revision to ask for."""

    revision: str | None = None
    """A branch, tag or commit; None: the repository's main branch."""
    endpoint: str | None = None
    """A mirror's address; None: ``HF_ENDPOINT``, or the hub itself."""
    offline: bool = False
    """Take everything from the cache; ``HF_HUB_OFFLINE`` does the same."""
    timeout: float | None = None
    """Seconds of silence after which a server is given up; None: 30."""


def is_hub_id(text: str) -> bool:
    """Tell whether ``text`` is of the form ORG/NAME and does not look like a path."""
    is_path = text.startswith((".", "/", "~")) or text.endswith(".json")
    return not is_path and _HUB_ID.fullmatch(text) is not None


def is_offline(hub: Hub) -> bool:
    """Tell whether the user or the environment forbids the network."""
    from huggingface_hub import constants

    return hub.offline or constants.HF_HUB_OFFLINE


def fetch_description(hub_id: str, hub: Hub) -> Path:
    """Fetch the config of ``hub_id``; return its folder in the hub's own cache.

    Raises:
        GlmcError: when the repository, the revision, the config or the network is not
            there.
    """
    config = fetch(hub_id, "config.json", hub)
    if config is None:
        if not is_offline(hub):
            raise HubRefusedError(
                f"the hub repository {_at(hub_id, hub)} has no config.json"
            )
        raise HubUnreachableError(
            f"config.json of {_at(hub_id, hub)} is not in the cache, and offline mode"
            " is on; run the same command once without --offline and HF_HUB_OFFLINE"
        )
    for name in _BESIDE:
        fetch(hub_id, name, hub)
    return config.parent


def fetch(hub_id: str, name: str, hub: Hub) -> Path | None:
    """Fetch one file; return its path in the hub's cache, None where the repository has
    none.

    Offline, what is not in the cache does not exist: a cache that another program
    filled does not know what it was not asked for.

    Raises:
        GlmcError: says what of repository, revision and network is missing.
    """
    # Imported here: compiling a local folder must not pay for an HTTP client.
    from huggingface_hub import (
        _CACHED_NO_EXIST,
        hf_hub_download,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with speaking(hub_id, name, hub):
        try:
            download = partial(
                hf_hub_download,
                hub_id,
                name,
                revision=hub.revision,
                endpoint=hub.endpoint,
                local_files_only=hub.offline,
            )
            found = patiently(download, hub.timeout)
        except LocalEntryNotFoundError as error:
            cached = try_to_load_from_cache(hub_id, name, revision=hub.revision)
            if cached is _CACHED_NO_EXIST or is_offline(hub):
                return None
            raise HubUnreachableError(
                f"the hub cannot be reached and {name} of {_at(hub_id, hub)} is not in"
                f" the cache ({_cause(error)}). Check the network, name a mirror with"
                " --endpoint, or use what was downloaded before with --offline"
            ) from None
        except EntryNotFoundError:
            return None
    return Path(found)


@contextmanager
def speaking(hub_id: str, name: str, hub: Hub) -> Iterator[None]:
    """Turn what the client may raise while it fetches ``name`` into sentences."""
    from huggingface_hub import errors

    at = _at(hub_id, hub)
    try:
        yield
    except GlmcError:
        raise
    except errors.GatedRepoError:
        reason = (
            f"{at} is gated: accept its terms on the hub and log in (`hf auth login`)"
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f"{at}: there is no such file or folder here and no such repository on the"
            " hub (or it is private and you are not logged in)"
        )
    except errors.RevisionNotFoundError:
        reason = f"{hub_id} has no revision {hub.revision!r}"
    except AnswerError as error:
        raise HubAnswerError(f"{at}: {error}. Use another mirror.") from None
    except TimeoutError as error:
        raise HubUnreachableError(
            f"{at}: fetching {name} was given up, as {error}. Check the network, name"
            " another mirror with --endpoint, or wait longer with --timeout SECONDS"
        ) from None
    except Exception as error:  # its HTTP library has errors of its own
        reason = f"{at}: fetching {name} failed: {_cause(error)}"
        raise HubUnreachableError(reason) from None
    else:
        return
    raise HubRefusedError(reason)


def _at(hub_id: str, hub: Hub) -> str:
    return f"{hub_id} at revision {hub.revision}" if hub.revision else hub_id


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
