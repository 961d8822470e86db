"""Fetch the files of a hub repository that are needed, and never its code.

Files lie in the hub's own cache; a download that was interrupted goes on where it
stopped. Needs the package huggingface_hub, and only when something is fetched.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from .patience import AnswerError, patiently

#: What is fetched at all, whatever else a repository or an index names.
ENDINGS = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")
#: Shards that are fetched at a time.
WORKERS = 4


class HubError(ValueError):
    """A file or repository that the hub does not give, and what to do about it."""


def is_hub_id(text: str) -> bool:
    """Tells whether a text that is no folder can be the name of a repository."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text, re.ASCII) is not None


@dataclass(frozen=True)
class Repository:
    """A repository on the hub, or on a mirror of it.

    `revision` is a branch, tag or commit; `endpoint` the address of a mirror, by
    default HF_ENDPOINT; `offline` takes everything from the cache, as HF_HUB_OFFLINE
    does. With `progress=False` there are no bars on stderr. A server that is silent for
    `timeout` seconds is given up (30).
    """

    hub_id: str
    revision: str | None = None
    endpoint: str | None = None
    offline: bool = False
    progress: bool | None = None
    timeout: float | None = None

    def fetch(self, name: str) -> Path | None:
        """Fetches a file into the cache; None where the repository has none of that
        name.

        Offline, what is not in the cache does not exist: a cache that another program
        filled does not know what it was not asked for. Raises HubError where the file
        cannot be had.
        """
        if PurePosixPath(name).suffix not in ENDINGS:
            raise HubError(f"{self.hub_id}/{name} is no data file; it is not fetched.")
        with self._speaking(name) as hub, _bars(hub, self.progress):
            try:
                return self._download(hub, name)
            except hub.errors.LocalEntryNotFoundError as error:
                known = hub.try_to_load_from_cache(
                    self.hub_id, name, revision=self.revision
                )
                if known is hub.file_download._CACHED_NO_EXIST or self._offline(hub):
                    return None
                raise HubError(
                    f"the hub cannot be reached and {name} of {self} is not in the "
                    f"cache ({_cause(error)}); check the network, name a mirror with "
                    "endpoint=, or use what was downloaded before with offline=True."
                ) from error
            except hub.errors.EntryNotFoundError:
                return None

    def fetch_all(self, names: Sequence[str], beside: Path) -> Path:
        """Fetches all of these files, of the commit that `beside` is of; returns their
        folder."""
        commit = self.of(beside)
        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(commit.fetch, name) for name in names]
            try:
                absent = [
                    name
                    for name, job in zip(names, jobs, strict=True)
                    if job.result() is None
                ]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if absent:
            more = f" and {len(absent) - 4} more" if absent[4:] else ""
            raise HubError(self.lacking(", ".join(absent[:4]) + more))
        return beside.parent

    def names(self, folder: str, ending: str) -> list[str]:
        """Returns the names of the files right in a folder that end so; offline, of
        none.

        A mirror that cannot list a folder has none of it.
        """
        with self._speaking(folder) as hub:
            if self._offline(hub):
                return []
            api = hub.HfApi(endpoint=self.endpoint)
            try:
                listed = partial(
                    api.list_repo_tree,
                    self.hub_id,
                    path_in_repo=folder,
                    revision=self.revision,
                )
                entries = patiently(lambda: list(listed()), self.timeout)
            except hub.errors.RepositoryNotFoundError:
                raise
            except hub.errors.HfHubHTTPError:
                return []
        found = [PurePosixPath(entry.path).name for entry in entries]
        return sorted(name for name in found if name.endswith(ending))

    def of(self, file: Path) -> "Repository":
        """Returns the repository at the commit that a file in the cache is of."""
        return replace(self, revision=file.parent.name)

    def _download(self, hub: Any, name: str) -> Path:
        download = partial(
            hub.hf_hub_download,
            self.hub_id,
            name,
            revision=self.revision,
            endpoint=self.endpoint,
            local_files_only=self.offline,
        )
        return Path(patiently(download, self.timeout))

    def lacking(self, names: str) -> str:
        """Returns the sentence for files that are not there."""
        with self._speaking(names) as hub:
            if self._offline(hub):
                return (
                    f"{self} is not in the cache with {names}, and offline mode is on; "
                    "run once without offline=True (--offline) and HF_HUB_OFFLINE."
                )
        return f"the hub's {self} has no {names}; check the name and the revision."

    def _offline(self, hub: Any) -> bool:
        return self.offline or hub.constants.HF_HUB_OFFLINE

    @contextmanager
    def _speaking(self, name: str) -> Iterator[Any]:
        """Yields the client; turns what it raises into a sentence."""
        try:
            import huggingface_hub as hub

            # The package imports its modules late; this makes hub.constants and
            # hub.file_download exist.
            from huggingface_hub import constants, errors, file_download  # noqa: F401
        except ImportError as error:
            raise HubError(
                f"{self.hub_id} is no folder, and to download it from the hub the "
                "package huggingface_hub is needed; `pip install huggingface_hub`, or "
                "give a folder."
            ) from error
        try:
            yield hub
        except HubError:
            raise
        except errors.GatedRepoError as error:
            raise HubError(
                f"{self} is gated: accept its terms on the hub and log in "
                "(`hf auth login`)."
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise HubError(
                f"{self.hub_id} is no folder here and no repository on the hub, or it "
                "is private and you are not logged in; check the name."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise HubError(
                f"{self.hub_id} has no revision {self.revision!r}."
            ) from error
        except AnswerError as error:
            raise HubError(f"{self}: {error}. Use another mirror.") from error
        except TimeoutError as error:
            raise HubError(
                f"{self}: fetching {name} was given up, as {error}; check the network, "
                "name another mirror with endpoint=, or wait longer with timeout= "
                "(--timeout)."
            ) from error
        except Exception as error:  # its HTTP library has errors of its own
            raise HubError(
                f"{self} is no folder, and the hub does not give its {name}: "
                f"{_cause(error)}. Check the network; what was downloaded is kept, so "
                "the same call goes on from there."
            ) from error

    def __str__(self) -> str:
        return f"{self.hub_id}@{self.revision}" if self.revision else self.hub_id


@contextmanager
def _bars(hub: Any, wanted: bool | None) -> Iterator[None]:
    """Keeps the client from drawing bars where they are not wanted."""
    if wanted is not False or hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
