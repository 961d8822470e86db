"""Emit the files by which vLLM runs a build: the model in two parts, its operations,
the plugin, and what pip installs."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.backends.classes import layer_classes
from glmc.backends.emit import lines, literal
from glmc.backends.emit_model import layer_call, loop, stem_view
from glmc.backends.layout import assignment, bracketed, call, item, repeated
from glmc.backends.target import Target
from glmc.backends.templates import environment
from glmc.backends.torch.select import LAID_OUT, PAGED, reference_module
from glmc.backends.vllm.counterparts import (
    ATTENDING,
    BY_ROW,
    LATENT,
    Row,
    Source,
    check,
    rows,
    steady_until,
)
from glmc.backends.vllm.cut import Cut, cut
from glmc.backends.vllm.placing import PRODUCTS, is_laid_out
from glmc.ir.errors import NotServedError
from glmc.ir.graph import Graph, Program
from glmc.ir.model import Model
from glmc.ir.op import Op, registry
from glmc.ir.ops import MoeExperts, QuantizedExperts

ROWS_OF = "rows"
"""The key of what layers keep of a request."""
LOOKING = (MoeExperts, QuantizedExperts)
"""Ops whose reference looks at values, which a graph that is compiled cannot."""
PRODUCTS_HEADER = (
    '"""The products of this model, with weights as vLLM lays them out."""'
)
ATTENDING_HEADER = (
    '"""The operations of this model that attend, around the layers of vLLM."""'
)


@dataclass(frozen=True)
class Introduced:
    """A config's words on itself, by which vLLM finds the class of a model."""

    architecture: str
    model_type: str
    where: str
    """The config, for errors."""
    version: str
    """glmc's, which is the build's."""

    @property
    def package(self) -> str:
        """The build's name for pip: it takes the place of another of its
        architecture."""
        return f"glmc_{self.architecture.lower()}"


def introduced(config: Mapping[str, Any], where: str, version: str) -> Introduced:
    """Return what a config says of itself; ``version`` is glmc's.

    Raises:
        NotServedError: when it names no architecture, or none that a class can have.
    """
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    if not isinstance(first, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", first):
        raise NotServedError(
            f"{where}: architectures is {named!r}, and vLLM looks up the class of a"
            ' model by it; write the published name there, such as ["LlamaForCausalLM"]'
        )
    return Introduced(first, str(config.get("model_type", "")), where, version)


def engine_files(
    model: Model,
    program: Program,
    of: Introduced,
    head: Mapping[str, str],
    codes: bool,
    on: Target,
) -> dict[str, str]:
    """Emit the files that a build has for vLLM, as path to text.

    Args:
        model: the model.
        program: its final program.
        of: what its config says of itself.
        head: title and source of every emitted file.
        codes: whether some weights are codes.
        on: the build's target.

    Raises:
        NotServedError: naming what vLLM has no counterpart for.
    """
    try:
        check(model, program)
        view = _model_view(program, of, head)
    except NotServedError as error:
        raise error.within(of.where) from None
    env = environment()
    attending = _ops(program, (*ATTENDING, *LATENT))
    found = {
        "vllm_model.py": env.get_template("vllm/model.py.j2").render(view),
        "vllm_ops.py": env.get_template("vllm/ops.py.j2").render(
            {**_ops_view(program), "devices": literal(on.engine_products)}
        ),
        "pyproject.toml": _project(of, head["title"]),
        "vllm_plugin.py": env.get_template("vllm/plugin.py.j2").render(
            {
                "title": head["title"],
                "architecture": literal(of.architecture),
                "model_type": literal(of.model_type),
                "sizes": bracketed("{", list(_sizes(model, program)), "}", 8),
                "ranks": program.world,
            }
        ),
    }
    products = _products(program)
    if products:
        found["vllm_products.py"] = reference_module(
            products, codes=codes, instead=LAID_OUT, header=PRODUCTS_HEADER
        )
    if attending:
        found["vllm_attention.py"] = reference_module(
            attending, codes=False, instead=PAGED, header=ATTENDING_HEADER
        )
    return found


def _project(of: Introduced, title: str) -> str:
    """Emit pyproject.toml, by which pip makes a package of the build."""
    said = json.dumps(title, ensure_ascii=False)
    template = environment().get_template("vllm/pyproject.toml.j2")
    return template.render(package=of.package, version=of.version, title=said)


def new_ops(program: Program) -> set[str]:
    """Return the ops that the head has inside vLLM and nowhere else in a program."""
    had = {op.mnemonic for graph in program.graphs for op in graph.ops}
    return {op.mnemonic for op in _served(program, cut(program.head))} - had


def _model_view(
    program: Program, of: Introduced, head: Mapping[str, str]
) -> Mapping[str, Any]:
    parts = cut(program.head)
    made = {block.name: _row(program, block) for block in program.blocks}
    *after, logits = lines(parts.head, 8)
    text = "\n".join(made.values())
    names = [block.name for block in program.schedule()]
    states = any("Rows(" in row for row in made.values())
    return {
        **head,
        "slopes": "alibi_slopes" in text,
        "rows": states,
        "classes": sorted({"Model", *re.findall(r"Rows\((\w+)\.states\)", text)}),
        "kinds": [kind for kind in ("Attends", "Latents") if f"{kind}(" in text],
        "base": "HybridLM" if states else "CausalLM",
        "ranks": program.world,
        "makers": [f"{name} = {row}" for name, row in made.items()],
        "schedule": assignment("ROWS", repeated(names), 0),
        "stem": stem_view(program)["stem"],
        "loop": loop(program),
        "step": layer_call(program),
        "body": lines(parts.body, 8),
        "hidden": parts.hidden,
        "head": after,
        "answer": logits.partition(" = ")[2],
        "architecture": of.architecture,
        "laid_out": _laid_out(program, parts),
        "steady": steady_until(program),
    }


def _row(program: Program, block: Graph) -> str:
    """Emit ``{"kv": Attends(heads=32, ...)}``: what a kind of layer keeps."""
    found = [_kind(row) for row in rows(program, block)]
    if any(state.type.per == "row" for state in block.states):
        name = next(c.name for c in layer_classes(program) if block in c.blocks)
        found.append(f'"{ROWS_OF}": Rows({name}.states)')
    return bracketed("{", found, "}", 0)


def _kind(row: Row) -> str:
    given = [
        f"{key}={value.text if isinstance(value, Source) else literal(value)}"
        for key, value in row.given.items()
    ]
    return item(f'"{row.state}": {row.name}(', given, ")", 4)


def _ops_view(program: Program) -> Mapping[str, Any]:
    parts = cut(program.head)
    used = {op.mnemonic for op in _served(program, parts)}
    attending = _ops(program, (*ATTENDING, *LATENT))
    by_row = _ops(program, tuple(BY_ROW))
    opaque = _ops(program, LOOKING)
    new, multiplying = new_ops(program), {*_products(program)}
    apart, laid = sorted(new - multiplying), sorted(new & multiplying)
    products = sorted(multiplying - new)
    modules = ["reference"] * bool(apart) + ["vllm_products"] * bool(multiplying)
    imports = ["from .vllm_opaque import opaque"] if opaque else []
    imports += ["from .vllm_requests import each_request"] if by_row else []
    own = used - {*attending, *by_row, *opaque, *apart, *multiplying}
    return {
        "attending": attending,
        "imports": imports,
        "every": bracketed("[", [literal(name) for name in sorted(used)], "]", 0),
        "own": sorted(own),
        "apart": apart,
        "laid": laid,
        "products": products,
        "modules": modules,
        "opaque": opaque,
        "requests": [_request(name) for name in by_row],
    }


def _products(program: Program) -> list[str]:
    """Return the products that vLLM calls, by mnemonic."""
    ops = _served(program, cut(program.head))
    return sorted({op.mnemonic for op in ops if isinstance(op, PRODUCTS)})


def _laid_out(program: Program, parts: Cut) -> str:
    """Emit the names of matrices that only products without a bias read; empty where
    there are none."""
    alone: set[str] = set()
    others: set[str] = set()
    for op in _served(program, parts):
        own = {op.weight} if isinstance(op, PRODUCTS) and is_laid_out(op) else set()
        alone |= own
        others |= {*op.params} - own
    names = [literal(name) for name in sorted(alone - others)]
    after = ",)" if len(names) == 1 else ")"
    return bracketed("laid_out = (", names, after, 4)[11:] if names else ""


def _request(mnemonic: str) -> str:
    """Emit ``mix = each_request(own.mix, values=(…), states=(…), rings=(…))``."""
    kind = registry()[mnemonic]
    states = _fields(kind, "state")
    values = _fields(kind, "value")
    given = [
        f"own.{mnemonic}",
        f"values={literal(values)}",
        f"states={literal(states)}",
    ]
    given += [f"rings={literal(BY_ROW[kind])}"] if BY_ROW[kind] else []
    return call(mnemonic, "each_request", given, 0)


def _fields(kind: type[Op], what: str) -> tuple[str, ...]:
    """Return the operands of an op that are states, or values of each token."""
    states = tuple(kind.state_fields())
    if what == "state":
        return states
    fields = kind.operand_fields()
    return tuple(
        f for f, (sigil, _) in fields.items() if sigil == "%" and f not in states
    )


def _ops(program: Program, kinds: tuple[type[Op], ...]) -> list[str]:
    """Return the ops of some kinds that a program has, by mnemonic."""
    graphs = program.graphs
    found = {o.mnemonic for g in graphs for o in g.ops if isinstance(o, kinds)}
    return sorted(found)


def _served(program: Program, parts: Cut) -> list[Op]:
    """Return the ops that vLLM calls, the head's as they were cut."""
    graphs = [program.stem, *program.blocks, parts.body, parts.head]
    return [op for graph in graphs for op in graph.ops]


def _sizes(model: Model, program: Program) -> Iterable[str]:
    """Yield sizes by the names that vLLM looks for in a config."""
    first = next((row for b in program.blocks for row in rows(program, b)), None)
    found: dict[str, Any] = {
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "max_position_embeddings": model.max_positions,
    }
    if first is not None:
        # vLLM counts those of all ranks.
        found["num_attention_heads"] = first.given["heads"] * program.world
        found["num_key_value_heads"] = first.given.get("kv_heads", 1) * program.world
        if "k_dim" in first.given:
            found["head_dim"] = first.given["k_dim"]
    eos = model.tokens.eos
    found["eos_token_id"] = (eos[0] if len(eos) == 1 else [*eos]) if eos else None
    return (f'"{k}": {literal(v)}' for k, v in found.items() if v is not None)
