"""The documentation's gallery: real dumps, compiled as the site is built.

Each shows a block as it is lowered and as it is emitted, and what happened between.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from glmc.backends.target import DEFAULT, target
from glmc.frontends.build.source import builtin_source
from glmc.frontends.frontend import load_model
from glmc.ir.draw.svg import svg
from glmc.ir.graph import Graph, Program
from glmc.ir.ledger import Entry
from glmc.ir.lower import lower
from glmc.ir.text import print_program


@dataclass(frozen=True)
class Picture:
    """A built-in config, the block of it that is shown, and why it is worth a look."""

    config: str
    block: str
    about: str


PICTURES = (
    Picture(
        "llama-3.1-8b",
        "layer",
        "The plainest decoder: three projections become one, gate and up become one,"
        " and products take the norms before them, the activation and both adds.",
    ),
    Picture(
        "chatglm3-6b",
        "layer",
        "Stored as one matrix already, which lowering cuts into q, k and v; merging"
        " them gives back the stored tensor. Half of each head is rotated, in pairs.",
    ),
    Picture(
        "glm-4-9b-0414",
        "layer",
        "A norm after each sublayer as well. The norms before a sublayer take the add"
        " with them; those after it read a product and stay, as the ledger says.",
    ),
    Picture(
        "glm-4.5-air",
        "moe_layer",
        "A router, 128 experts as two stacks, and an expert that all tokens share,"
        " which is an ordinary MLP and fuses like one.",
    ),
    Picture(
        "glm-4.7-flash",
        "moe_layer",
        "Latent attention: keys and values come from a narrow product.",
    ),
    Picture(
        "bert",
        "layer",
        "An encoder: no cache, a mask handed to every layer, norms after the adds.",
    ),
)


def gallery() -> str:
    """Return the page, in Markdown."""
    parts = [
        "# A gallery of dumps",
        "What `glmc inspect BUILD --stage NAME` prints of one block, for some of the"
        " configs that come with glmc: as plain ops, and as the module is written."
        " [The IR](../ir.md) explains the notation, [Ops](ops.md) every op.",
    ]
    for picture in PICTURES:
        parts += _picture(picture)
    return "\n\n".join(parts) + "\n"


def _picture(picture: Picture) -> Iterator[str]:
    model = load_model(builtin_source(picture.config)).model
    stages = tuple(target(DEFAULT).stages(lower(model)))
    first, last = stages[0].program, stages[-1].program
    yield f"## {picture.config}"
    yield picture.about
    yield "As lowered:"
    yield _fenced(dump(first, picture.block))
    yield from _ledger([e for stage in stages for e in stage.ledger], picture.block)
    yield "As emitted:"
    yield _fenced(dump(last, picture.block))
    drawing = svg(_graph(last, picture.block))
    yield f"<details><summary>Drawn</summary>\n{drawing}\n</details>"


def dump(program: Program, block: str) -> str:
    """Return the lines of one block in the dump of a program."""
    text = print_program(program)
    begin = text.index(f"block @{block}[")
    end = text.find("\n\n", begin)
    return text[begin:end].rstrip()


def _graph(program: Program, name: str) -> Graph:
    return next(graph for graph in program.graphs if graph.name == name)


def _ledger(entries: list[Entry], block: str) -> Iterator[str]:
    """Yield what each fusion did there, or why it did not apply."""
    rows = [
        f"| {e.fusion} | {e.status} | `{e.at}` | {_cell(e.reason)} |"
        for e in entries
        if e.graph == block
    ]
    if rows:
        yield "\n".join(["| fusion | | at | |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _fenced(text: str) -> str:
    return f"```glmc\n{text}\n```"
