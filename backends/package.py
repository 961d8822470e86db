"""The files of a build, as text. Nothing is written here; see ``glmc.writing``."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from glmc.backends import emit
from glmc.backends.layout import WIDTH, bracketed, item
from glmc.backends.torch.select import reference_module
from glmc.backends.triton import OpUse, render_kernels
from glmc.ir.graph import Graph, Program
from glmc.ir.model import Model
from glmc.ir.op import Op


def package(
    model: Model, program: Program, source: str, own: Collection[str] = ()
) -> dict[str, str]:
    """Path to text of every Python file of a build.

    Args:
        model: the model, for names and token ids.
        program: its final program.
        source: one sentence that says where the build comes from.
        own: ops whose kernel is the user's.
    """
    env = emit.environment()
    head = {"title": title(model), "source": source}
    emitted = {
        "__init__.py": env.get_template("init.py.j2").render(head),
        "model.py": env.get_template("model.py.j2").render(
            head | dict(emit.model_view(model, program))
        ),
        "weights.py": env.get_template("weights.py.j2").render(
            _weights_view(model, program)
        ),
        "reference.py": reference_module(op_names(program)),
        "kernels.py": render_kernels(uses(program), env, own),
    }
    return emitted | runtime_files()


def runtime_files() -> dict[str, str]:
    """The files of ``backends/runtime``, which every build holds verbatim."""
    found = dict(_python_files(files("glmc.backends.runtime"), ""))
    del found["__init__.py"]  # the emitted one takes its place
    return found


def _python_files(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir(), key=str):
        if path.name.endswith(".py"):
            yield prefix + path.name, path.read_text("utf-8")
        elif path.is_dir() and path.name != "__pycache__":
            yield from _python_files(path, f"{prefix}{path.name}/")


def title(model: Model) -> str:
    """``chatglm: 28 layers, 4096 wide, 65024 tokens.``"""
    sizes = f"{model.layers} layers, {model.hidden} wide, {model.vocab} tokens"
    return f"{model.name}: {sizes}."


def _weights_view(model: Model, program: Program) -> Mapping[str, object]:
    rows = [emit.binding(param.name, param, None) for param in program.params]
    for block in program.blocks:
        layers = emit.layer_set(block.layers)
        rows += [
            emit.binding(f"layers.{{i}}.{param.name}", param, layers)
            for param in block.params
        ]
    prefix = model.optional_prefix
    return {
        "constructors": emit.constructors(program),
        "rows": rows,
        "optional_prefix": emit.quoted(prefix) if prefix else "None",
        "waived": _waived(model),
    }


def _waived(model: Model) -> str:
    pairs = [(emit.quoted(w.pattern), emit.quoted(w.reason)) for w in model.waivers]
    rows = [item("(", pair, ")", 4) for pair in pairs]
    if len(rows) != 1:
        return bracketed("WAIVED = (", rows, ")", 0)
    line = f"WAIVED = ({rows[0]},)"
    return line if len(line) <= WIDTH else f"WAIVED = (\n    {rows[0]},\n)"


def op_names(program: Program) -> set[str]:
    """Mnemonics of every op in a program."""
    return {op.mnemonic for graph in program.graphs for op in graph.ops}


def uses(program: Program) -> Iterable[OpUse]:
    """Every op of a program as the Triton backend sees it."""
    return [_use(program, graph, op) for graph in program.graphs for op in graph.ops]


def _use(program: Program, graph: Graph, op: Op) -> OpUse:
    attrs = {name: getattr(op, name) for name in op.attribute_fields()}
    types = program.operand_types(graph, op)
    return OpUse(
        name=op.mnemonic,
        attrs={name: value for name, value in attrs.items() if value is not None},
        operands=frozenset(field for field, _, _ in op.operands()),
        shapes={field: type_of.dims for field, type_of in types.items()},
    )
