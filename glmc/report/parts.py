"""Parts of both pages: the facts of a build, its weights, its config keys, its ops."""

import json
import re
from collections.abc import Iterator
from typing import Any

from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.op import registry
from glmc.ir.text.printer import print_recipe
from glmc.look.builds import Build
from glmc.look.inspecting import kept, size, summary
from glmc.look.views import title

#: A role of a docstring, :class:`~glmc.ir.op.Op`, of which the last name is read.
_ROLE = re.compile(r":[a-z:]+:`~?(?:[^`<>]*\.)?([^`<>.]+)`")


def facts(build: Build) -> list[tuple[str, str]]:
    """List the facts at the head of the page, as (label, text)."""
    found = summary(build)
    blocks = ", ".join(f"{count} x {name}" for name, count in found["blocks"].items())
    launches = [stage["launches"] for stage in found["stages"]]
    return [
        ("layers", blocks),
        ("width", f"{found['hidden']:,}"),
        ("vocabulary", f"{found['vocab']:,}"),
        ("parameters", f"{found['parameters']:,}"),
        ("weights", size(found["weight_bytes"])),
        *([("cache", held)] if (held := kept(found)) else []),
        (f"{build.target.units} a call", f"{launches[0]:,} → {launches[-1]:,}"),
    ]


def doc(mnemonic: str) -> str:
    """Return the first paragraph of an op's docstring; what is code is in `ticks`."""
    text = (registry()[mnemonic].__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(_ROLE.sub(r"`\1`", text.replace("``", "`")).split())


def params_read(program: Program, graph: Graph) -> tuple[Parameter, ...]:
    """List the parameters that a graph reads, each once."""
    names = dict.fromkeys(name for op in graph.ops for name in op.params)
    params = [program.param(graph, name) for name in names]
    return tuple(param for param in params if param)


def weights(program: Program) -> Iterator[dict[str, Any]]:
    """Yield each part's parameters: those of stem and head together, then a block's
    with the number of its layers."""
    yield _held("stem and head", "", 1, program.params)
    for block in program.blocks:
        yield _held(title(block), block.prefix, len(block.layers), block.params)


def _held(
    title: str, prefix: str, times: int, params: tuple[Parameter, ...]
) -> dict[str, Any]:
    each = sum(param.type.nbytes() for param in params)
    return {
        "title": title,
        "prefix": prefix,
        "times": times,
        "each": each,
        "all": times * each,
        "params": [
            {
                "name": param.name,
                "type": str(param.type),
                "nbytes": param.type.nbytes(),
                "recipe": print_recipe(param.recipe, prefix),
            }
            for param in params
        ],
    }


def keys(build: Build) -> Iterator[dict[str, str | None]]:
    """Yield each config key with its value, as JSON, and what became of it; the value
    of a key that the config does not have is None."""
    config = build.manifest["config"]
    for key, fate in build.manifest["config_keys"].items():
        value = json.dumps(config[key], ensure_ascii=False) if key in config else None
        yield {"key": key, "value": value, **fate}
