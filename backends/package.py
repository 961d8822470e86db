"""Emit the files of a build as text; ``glmc.compile.writing`` writes them."""

import json
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from glmc.backends.emit_model import model_view
from glmc.backends.emit_weights import weights_view
from glmc.backends.layout import bracketed, call
from glmc.backends.names import check_names
from glmc.backends.target import Target
from glmc.backends.templates import environment
from glmc.backends.torch.select import reference_module
from glmc.backends.vllm.emit import Introduced, engine_files, new_ops
from glmc.ir.graph import Program
from glmc.ir.model import Classifier, Head, Model, Pooler
from glmc.ir.recipe import is_repacked


@dataclass(frozen=True)
class Parts:
    """The parts of the runtime that only some checkpoints call for."""

    tokenizer: bool = True
    """The package that reads vocabularies and chat templates."""
    pickles: bool = True
    """The reader of pickled weights."""
    ahead: bool = False
    """The module that offers Triton the kernels that were compiled with the build."""


def package(
    model: Model,
    program: Program,
    source: str,
    on: Target,
    own: Collection[str] = (),
    parts: Parts = Parts(),
    served: Introduced | None = None,
) -> dict[str, str]:
    """Emit every Python file of a build, as path to text.

    Args:
        model: the model, for names and token ids.
        program: its final program.
        source: one sentence that says where the build comes from.
        on: what the build is made for.
        own: ops whose kernel is the user's.
        parts: what it takes of the runtime beside what all builds take.
        served: what its config says of itself, where vLLM is to run it too.

    Raises:
        DumpNameError: when a name cannot stand in the emitted code.
        NotServedError: when vLLM has no counterpart for something in it.
    """
    check_names(model, program)
    env = environment()
    head = {"title": title(model), "source": source}
    emitted = {
        "__init__.py": env.get_template("init.py.j2").render(
            head
            | {
                "usage": _usage(model),
                "ranks": program.world,
                **_loads(program),
                "device": on.accelerator,
                "tokenizer": parts.tokenizer,
                "glm": model.tokenizer == "glm",
            }
        ),
        "devices.py": env.get_template("devices.py.j2").render(_served(on)),
        "model.py": env.get_template("model.py.j2").render(
            head | dict(model_view(model, program))
        ),
        "weights.py": env.get_template("weights.py.j2").render(
            weights_view(model, program)
        ),
        **on.files(program, own),
    }
    ops = op_names(program)
    if served is not None:
        emitted |= engine_files(model, program, served, head, has_codes(program), on)
        ops |= new_ops(program)
    emitted["reference.py"] = reference_module(ops, codes=has_codes(program))
    if program.world > 1:
        where = {"ranks": program.world, "device": on.accelerator or "cpu"}
        emitted["__main__.py"] = env.get_template("main.py.j2").render(where)
    else:
        hub = {"title": title(model)} | hub_class(model)
        emitted["hf.py"] = env.get_template("hf.py.j2").render(hub)
    decoder = ["scoring"] if model.scores else ["causal_lm", *on.decoding]
    wanted = ["encoder"] if model.is_encoder else decoder
    wanted += [*on.runtime, "loading"]
    wanted += ["ranked_loading"] if program.world > 1 else []
    wanted += ["expected"] if model.expected else []
    wanted += ["precompiled"] if parts.ahead else []
    if parts.tokenizer:
        wanted.append("tokenizer")
        if model.tokenizer is None:
            readers = env.get_template("readers.py.j2").render()
            emitted["tokenizer/readers.py"] = readers
    if not parts.pickles:
        emitted["torch_header.py"] = env.get_template("torch_header.py.j2").render()
    wanted += ["wheels"] if served is not None else []
    return runtime_files(wanted, emitted)


def _loads(program: Program) -> dict[str, str]:
    """Return the module that loads a model, and the call of it."""
    module = "ranked_loading" if program.world > 1 else "loading"
    arguments = ["Model", "weights", "source"]
    arguments += [f"count={program.ranks}"] if program.world > 1 else []
    arguments += [f"stages={len(program.stages)}"] if program.stages else []
    arguments += ["device=device", "dtype=dtype", "**options"]
    return {"loading": module, "loads": call("", f"return {module}.load", arguments, 4)}


def _served(on: Target) -> dict[str, str]:
    """Return the variables of devices.py, as Python."""
    tables = {"operations": on.operations, "machines": on.machines}
    found = {"target": json.dumps(on.name)}
    for name, table in tables.items():
        rows = [f"{json.dumps(kind)}: {json.dumps(of)}" for kind, of in table.items()]
        found[name] = bracketed("{", rows, "}", 0)
    return found


def hub_class(model: Model) -> dict[str, str]:
    """Return the variables of hf.py: the class of transformers that the model is."""
    if model.scores:
        return {
            "module": "pretrained_scorer",
            "base": "PretrainedScorer",
            "name": "BuildForSequenceClassification",
        }
    if not model.is_encoder:
        return {
            "module": "pretrained_decoder",
            "base": "PretrainedDecoder",
            "name": "BuildForCausalLM",
        }
    name = "BuildModel"
    if isinstance(model.head, Head):
        name = "BuildForMaskedLM"
    if isinstance(model.head, Classifier):
        name = "BuildForSequenceClassification"
    return {"module": "pretrained_encoder", "base": "PretrainedEncoder", "name": name}


def _usage(model: Model) -> list[str]:
    """Return an example call of a loaded model, for the package's docstring."""
    call = "out = model(input_ids=ids, attention_mask=mask)"
    if model.scores:
        return [call, "logits = out.logits  # [B, classes]"]
    if not model.is_encoder:
        return [
            f"{call}  # out.logits, out.past_key_values",
            "for token in model.generate(ids, max_new_tokens=32, stream=True):",
            "    ...",
        ]
    if isinstance(model.head, Head):
        return [call, "logits = out.logits  # [B, T, V]"]
    if isinstance(model.head, Classifier):
        return [call, f"logits = out.logits  # [B, {model.head.labels}]"]
    hidden = [call, "hidden = out.last_hidden_state  # [B, T, E]"]
    pooled = ["vector = out.pooler_output  # [B, E]"]
    return [*hidden, *pooled] if isinstance(model.head, Pooler) else hidden


def runtime_files(modules: Iterable[str], emitted: Mapping[str, str]) -> dict[str, str]:
    """Return the emitted files, and verbatim those of ``backends/runtime`` that they
    and ``modules`` need. An emitted file stands for the runtime's of that name."""
    runtime = files("glmc.backends.runtime")
    found = dict(emitted)
    waiting = [*modules, *_needed(emitted)]
    while waiting:
        name = waiting.pop()
        if (runtime / name).is_dir():
            name = f"{name}/__init__"
        file = f"{name}.py"
        if file not in found:
            found[file] = (runtime / file).read_text("utf-8")
            waiting += _needed({file: found[file]})
    return dict(sorted(found.items()))


def _needed(texts: Mapping[str, str]) -> list[str]:
    """Return the modules, by their places in the build, that files import of their
    folder."""
    return [
        posixpath.join(posixpath.dirname(file), name)
        for file, text in texts.items()
        for name in siblings(text)
    ]


_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:(?: .*)?\n)+", re.MULTILINE)
_SIBLING = re.compile(r"^ *from \.(\w*) import (.+)", re.MULTILINE)


def siblings(text: str, *, whole: bool = True) -> list[str]:
    """Return the modules that a file of the runtime imports of its own folder;
    imports for type checkers do not count, and with ``whole`` false nor do those of a
    module as a whole (``from . import x``). Taken from the text: to parse it takes
    much longer."""
    found: list[str] = []
    for module, names in _SIBLING.findall(_FOR_TYPES.sub("", text)):
        if module:
            found.append(module)
        elif whole:
            found += names.split(", ")
    return found


def title(model: Model) -> str:
    """Return ``chatglm: 28 layers, 4096 wide, 65024 tokens.``"""
    sizes = f"{model.layers} layers, {model.hidden} wide, {model.vocab} tokens"
    return f"{model.name}: {sizes}."


def has_codes(program: Program) -> bool:
    """Return whether some weights are read as codes, as quantised checkpoints store
    them."""
    params = [*program.params, *(p for graph in program.graphs for p in graph.params)]
    return any(is_repacked(param.recipe) for param in params)


def op_names(program: Program) -> set[str]:
    """Return the mnemonics of every op in a program."""
    return {op.mnemonic for graph in program.graphs for op in graph.ops}
