"""Layers that are one class of a build, and its arguments."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from glmc.backends.classes import LayerClass, layer_classes
from glmc.backends.emit_weights import layer_set
from glmc.compile.driver import compile_model
from glmc.ir.graph import Graph, Program
from glmc.look.builds import Build
from glmc.look.tracing import trace
from glmc.report.document import document
from support.variants import BY_NAME

GPT_OSS, BY_LAYER, NOPE = "gpt_oss-sinks", "gpt2-by_layer", "cohere2-nope"


def compiled(name: str, folder: Path) -> Path:
    """A build of a tiny model, by its name among the variants."""
    variant = BY_NAME[name]
    config = transformers.AutoConfig.for_model(variant.family, **variant.config)
    config.save_pretrained(folder / "config")
    return compile_model(folder / "config", folder / "build")


def program_of(name: str, folder: Path) -> Program:
    return Build(compiled(name, folder)).program


def test_layers_that_differ_in_a_window_are_one_class(tmp_path: Path) -> None:
    build = compiled(GPT_OSS, tmp_path)
    text = (build / "model.py").read_text()
    assert text.count("(Block):") == 1
    assert "def __init__(self, window):" in text
    assert "window=self.window," in text
    assert text.endswith(
        "sliding_layer = partial(Layer, window=8)\n"
        "full_layer = partial(Layer, window=None)\n"
        "\n"
        "LAYERS = (sliding_layer, full_layer, sliding_layer)\n"
    )
    weights = (build / "weights.py").read_text()
    assert weights.count('"layers.{i}.qkv",') == 1
    assert weights.count("layers=range(3)") == weights.count('"layers.{i}.')


def test_constants_of_each_layer_are_a_row_each(tmp_path: Path) -> None:
    (one,) = layer_classes(program_of(BY_LAYER, tmp_path))
    given = [one.given(block) for block in one.blocks]
    assert given == [{"scale": 0.25}, {"scale": 0.125}, {"scale": 0.25 / 3}]
    assert one.layers == (0, 1, 2)


def test_layers_that_read_other_values_are_two_classes(tmp_path: Path) -> None:
    build = compiled(NOPE, tmp_path)
    classes = layer_classes(Build(build).program)
    assert [one.name for one in classes] == ["SlidingLayer", "FullLayer"]
    # Their parameters are rows of all layers nevertheless.
    weights = (build / "weights.py").read_text()
    assert weights.count('"layers.{i}.qkv",') == 1


def renamed(block: Graph, param: str, name: str) -> Graph:
    """A block with a parameter under another name."""
    params = tuple(
        one.model_copy(update={"name": name}) if one.name == param else one
        for one in block.params
    )
    ops = tuple(
        op.model_copy(update={f: name for f, _, of in op.operands() if of == param})
        for op in block.ops
    )
    return block.replace(params=params, ops=ops)


def changed(program: Program, *changes: dict[tuple[int, str], Any]) -> Program:
    """A program with attributes of ops changed, block by block."""
    blocks = []
    for block, change in zip(program.blocks, changes, strict=True):
        ops = list(block.ops)
        for (at, attribute), value in change.items():
            ops[at] = ops[at].model_copy(update={attribute: value})
        blocks.append(block.replace(ops=tuple(ops)))
    return program.model_copy(update={"blocks": tuple(blocks)})


def norms(program: Program) -> tuple[int, int]:
    """The places of the first two ops with an eps."""
    ops = enumerate(program.blocks[0].ops)
    first, second, *_ = (at for at, op in ops if "eps" in op.attributes())
    return first, second


def arguments(program: Program) -> LayerClass:
    (one,) = layer_classes(program)
    return one


def test_attributes_that_change_together_share_an_argument(tmp_path: Path) -> None:
    program = program_of(GPT_OSS, tmp_path)
    one, two = norms(program)
    together = changed(program, {(one, "eps"): 1.0, (two, "eps"): 1.0}, {})
    assert set(arguments(together).arguments.values()) == {"window", "eps"}
    apart = changed(program, {(one, "eps"): 1.0, (two, "eps"): 2.0}, {})
    second = program.blocks[0].ops[two].outs[0]
    names = set(arguments(apart).arguments.values())
    assert names == {"window", "eps", f"{second}_eps"}


def test_an_argument_takes_no_parameters_name(tmp_path: Path) -> None:
    program = program_of(GPT_OSS, tmp_path)
    blocks = tuple(renamed(block, "sinks", "window") for block in program.blocks)
    taken = program.model_copy(update={"blocks": blocks})
    assert set(arguments(taken).arguments.values()) == {"ctx_window"}
    both = tuple(renamed(b, "o_proj", "ctx_window") for b in blocks)
    classes = layer_classes(program.model_copy(update={"blocks": both}))
    assert [one.name for one in classes] == ["SlidingLayer", "FullLayer"]


def test_a_line_of_two_blocks_is_traced_to_both(tmp_path: Path) -> None:
    build = Build(compiled(GPT_OSS, tmp_path))
    lines = build.source("model.py").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "qkv_attention" in line)
    found = trace(build, f"model.py:{number}")
    assert found["graph"] == "sliding_layer, full_layer"
    assert "window=8" in found["ir"]["sliding_layer"]
    assert "window" not in found["ir"]["full_layer"]
    decides = [what for line in found["spec"] for what in line["decides"]]
    assert "window=8" in decides
    reached = trace(build, "sliding_window")["emitted"]
    assert len({line["line"] for line in reached}) == len(reached)


def test_the_report_links_ops_of_both_blocks_to_their_line(tmp_path: Path) -> None:
    build = Build(compiled(GPT_OSS, tmp_path))
    links = document(build)["links"]
    graphs = build.program.graphs
    assert len(links) == sum(len(graph.ops) for graph in graphs)
    lines = build.source("model.py").splitlines()
    for at, n, line in links:
        assert f"ops.{graphs[at].ops[n].mnemonic}(" in lines[line - 1]


@pytest.mark.parametrize(
    "layers", [(0, 1, 2, *range(6, 75, 4)), (5, 9, 10, 11, 12, 20)]
)
def test_what_has_no_period_is_a_list_of_ranges(layers: tuple[int, ...]) -> None:
    text = layer_set(layers)
    assert "*range(" in text
    assert len(text) < 40
    assert tuple(eval(text, {"range": range})) == layers
