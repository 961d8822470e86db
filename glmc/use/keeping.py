"""``glmc pack``: write a checkpoint's weights as the C++ of a build reads them."""

import argparse
import json

from glmc.ir.errors import UnknownDeviceError, WeightsUnusableError
from glmc.look.builds import Build
from glmc.look.inspecting import size
from glmc.use.running import load_on


def pack_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc pack``."""
    build = Build(arguments.build)
    if build.target.name != "cpu":
        raise UnknownDeviceError(
            f"{build.path} was compiled for the target {build.target.name}, which packs"
            " no weights. Compile it with --target cpu."
        )
    place = True if arguments.out is None else arguments.out
    model = load_on(arguments, "cpu", weights=arguments.codes, pack_cache=place)
    file = model.packed_in
    if file is None:
        raise WeightsUnusableError(
            f"{build.path}: no packed weights were kept; the warning above says why."
        )
    facts = {"file": str(file), "bytes": file.stat().st_size}
    said = f"{file}: {size(facts['bytes'])}; load(..., pack_cache=...) reads it"
    print(json.dumps(facts, indent=2) if arguments.json else said)
    return 0
