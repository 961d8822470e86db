"""Checkpoints that commands read, by the rules of a build: a folder, or on the hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from glmc.backends.runtime import folders
from glmc.backends.runtime.faults import Kind, WeightsError
from glmc.backends.runtime.folders import (
    LAYOUTS,
    CheckpointHeaders,
    Files,
    FolderFiles,
)
from glmc.frontends.read.hub import Hub, fetch, is_hub_id, is_offline
from glmc.ir.errors import (
    CheckpointMismatchError,
    ConfigDriftError,
    DamagedWeightsError,
    FileTooLargeError,
    FileUnreadableError,
    GlmcError,
    HubUnreachableError,
    IncompleteCheckpointError,
    JsonError,
    NoCheckpointError,
    UnsafePathError,
    WeightMapError,
    WeightValuesError,
)

KINDS: Mapping[Kind, type[GlmcError]] = {
    "absent": NoCheckpointError,
    "incomplete": IncompleteCheckpointError,
    "index": WeightMapError,
    "path": UnsafePathError,
    "damaged": DamagedWeightsError,
    "unreadable": FileUnreadableError,
    "large": FileTooLargeError,
    "json": JsonError,
    "config": ConfigDriftError,
    "values": WeightValuesError,
    "mismatch": CheckpointMismatchError,
}


def checkpoint_files(given: str, hub: Hub) -> Files:
    """Return the files of a folder, or of a hub id if there is no such folder.

    Offline a hub id stands for what the cache holds of it.

    Raises:
        GlmcError: when there is no such folder and no such repository.
    """
    folder = Path(given).expanduser()
    if folder.is_dir() or not is_hub_id(given):
        with told():
            return FolderFiles(folder)
    if not is_offline(hub):
        from glmc.frontends.read.hub_files import HubFiles

        return HubFiles(given, hub)
    for name, _ in LAYOUTS:
        cached = fetch(given, name, hub)
        if cached is not None:
            return FolderFiles(cached.parent)
    raise HubUnreachableError(
        f"no weights of {given} are in the cache, and offline mode is on; run the same"
        " command once without --offline and HF_HUB_OFFLINE"
    )


def read_headers(files: Files | Path) -> CheckpointHeaders:
    """Read the names, dtypes, shapes and files of all tensors of a folder or
    repository.

    Raises:
        GlmcError: when there is no checkpoint, shards are missing, truncated or
            corrupt, the index contradicts them, or a path leaves the folder.
    """
    with told():
        if isinstance(files, Path):
            files = FolderFiles(files)
        return folders.read_headers(files)


@contextmanager
def told() -> Iterator[None]:
    """Turn an error that a build's code raises about a checkpoint into a GlmcError of
    that kind."""
    try:
        yield
    except WeightsError as error:
        raise KINDS[error.kind](str(error)) from None
