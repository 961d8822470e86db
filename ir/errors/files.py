"""GLMC001 to 009: files that are read, and the hub they come from."""

from glmc.ir.errors.base import GlmcError


class FileUnreadableError(GlmcError):
    """A file cannot be read.

    The operating system gave no bytes for this name, or the bytes are no text where
    text belongs. The message repeats what it said.
    """

    code = "GLMC001"
    next_step = "Check the name and the permissions, or download the file again."


class FileTooLargeError(GlmcError):
    """A file is larger than any of its kind.

    Configs and indexes of real models are small; one of many megabytes is something
    else under that name. It is refused before it is read, since everything in a
    model folder is taken for hostile until it is checked.
    """

    code = "GLMC002"
    next_step = "See what the file is, and download the model's own."


class JsonError(GlmcError):
    """A file is not the JSON object that it should be.

    Config, index and manifest are JSON objects. The message says at which byte, line
    or column the text stops being one.
    """

    code = "GLMC003"
    next_step = (
        "Mend the file at the place named. A saved web page or a pointer of Git LFS"
        " in its stead means that the download went wrong."
    )


class SourceNotFoundError(GlmcError):
    """There is nothing to compile of that name.

    A model is named by a config.json, by the folder that holds one, by the name of a
    config that glmc comes with, or by an id of the hub.
    """

    code = "GLMC004"
    next_step = "Check the spelling; `glmc configs` lists what needs no download."


class HubUnreachableError(GlmcError):
    """A file is not in the cache, and the hub was not asked or did not answer.

    glmc takes files from the cache of the hub's client where it can, and downloads
    what is missing. Offline, or without a network, what is missing stays missing.
    """

    code = "GLMC005"
    next_step = (
        "Run the command once with a network, name a mirror with `--endpoint`, or name"
        " a folder that holds the files."
    )


class HubRefusedError(GlmcError):
    """The hub has no such thing for you.

    The repository, the revision or the file does not exist, or it is private or gated
    and you are not logged in. The hub does not say which to strangers.
    """

    code = "GLMC006"
    next_step = (
        "Check id and `--revision`; for a gated model accept its terms on its page,"
        " then run `hf auth login`."
    )


class HubAnswerError(GlmcError):
    """A server answered with other bytes than it was asked for.

    `glmc check` reads the headers of remote weights alone, some kilobytes of many
    gigabytes, by asking for ranges. Some mirrors and proxies send whole files, and a
    file may change while it is read.
    """

    code = "GLMC007"
    next_step = "Try again, or download the checkpoint and name its folder."
