"""``glmc inspect --trace``: trace an emitted line back to the config, and forth.

config key -> line of the spec -> op -> pass -> template -> emitted line
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.ir.errors import UntraceableError
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.op import Op
from glmc.ir.recipe import tensors
from glmc.ir.text.printer import print_recipe
from glmc.look.builds import Build
from glmc.look.views import program_of, statement

# The entry of the spec that decides an attribute; others are called like it.
_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "n": ("heads", "kv_heads"),
    "fn": ("act",),
    "sizes": ("heads", "kv_heads", "head_dim", "ff"),
    "eps": ("norm.eps",),
    "weight_in": ("norm.weight_in",),
    "style": ("rope.style",),
    "dim": ("rope.dim",),
    "theta": ("rope.params",),
}
_ROPE_TABLE = ("rope.dim", "rope.params")


@dataclass(frozen=True)
class Line:
    """A statement of model.py, and the op or parameter of the program that it is."""

    number: int
    text: str
    graph: Graph
    op: Op | None = None
    param: Parameter | None = None


def trace(build: Build, target: str) -> dict[str, Any]:
    """Trace ``model.py:LINE`` to its sources, or a config key to its effects.

    Raises:
        GlmcError: when there is no such line or key.
    """
    found = re.fullmatch(r"(?:.*/)?model\.py:(\d+)", target)
    if found:
        return trace_line(build, int(found[1]))
    if target in build.manifest["config_keys"]:
        return trace_key(build, target)
    raise UntraceableError(
        f"--trace {target}: name a line as model.py:LINE, or a key of the config "
        f"(glmc inspect {build.path} --keys lists them)."
    )


def trace_line(build: Build, number: int) -> dict[str, Any]:
    """Trace a line of model.py; in a class of several blocks, for each of them."""
    lines = [
        line
        for line in emitted_lines(build)
        if line.number <= number <= line.number + line.text.count("\n")
    ]
    if not lines:
        raise UntraceableError(
            f"--trace model.py:{number}: there is no op or parameter on this line; "
            "trace a line of a forward, of run, or of an __init__."
        )
    line = lines[0]
    facts: dict[str, Any] = {
        "line": f"model.py:{line.number}",
        "emitted": " ".join(line.text.split()),
        "graph": ", ".join(one.graph.name for one in lines),
    }
    if line.op is None:
        assert line.param is not None
        return facts | _param_facts(build, line.param)
    params = filter(None, (build.program.param(line.graph, n) for n in line.op.params))
    return facts | {
        "ir": {one.graph.name: statement(one.op) for one in lines if one.op},
        "history": list(history(build, line.graph.name, line.op)),
        "implemented": list(implementations(build, line.op.mnemonic)),
        "spec": spec_of_ops(build, [one.op for one in lines if one.op]),
        "weights": [_param_facts(build, param) for param in params],
    }


def emitted_lines(build: Build) -> Iterator[Line]:
    """Yield the statements of model.py that are ops or parameters of the program, once
    for each block they stand for."""
    from glmc.backends.classes import layer_classes

    source = build.source("model.py")
    program, module = build.program, ast.parse(source)
    blocks = {one.name: one.blocks for one in layer_classes(program)}
    for node in module.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef):
                for block in blocks.get(node.name, (None,)):
                    yield from _lines(source, program, block, function)


def _lines(
    source: str, program: Program, block: Graph | None, function: ast.FunctionDef
) -> Iterator[Line]:
    graphs = [block] if block else [program.stem, program.head]
    waiting = {graph.name: list(graph.ops) for graph in graphs}
    for node in function.body:
        text = ast.get_source_segment(source, node) or ""
        call = re.search(r"\bops\.(\w+)\(", text)
        declared = re.match(r"self\.(\w+) = parameter\(", text)
        for graph in graphs:
            left = waiting[graph.name]
            param = declared and program.param(graph, declared[1])
            if param:
                yield Line(node.lineno, text, graph, param=param)
                break
            # Ops are emitted in order, one statement each.
            if call and left and left[0].mnemonic == call[1]:
                yield Line(node.lineno, text, graph, op=left.pop(0))
                break


def history(build: Build, graph: str, op: Op) -> Iterator[dict[str, Any]]:
    """Yield the passes that made an op, last first, each with the ops it replaced."""
    names = list(build.stages)[1:]
    programs = [program_of(build, name) for name in names]
    wanted, at = [op], len(names) - 1
    while at > 0:
        before, after = (_graph(programs[i], graph) for i in (at - 1, at))
        fresh = [one for one in wanted if one in after.ops and one not in before.ops]
        if fresh:
            sources = _sources(before, after, fresh)
            entry = _entry(build, names[at], graph, fresh)
            yield {
                "pass": names[at],
                "why": entry,
                "from": [statement(one) for one in sources],
            }
            wanted = [one for one in wanted if one not in fresh] + sources
        at -= 1
    yield {"pass": names[0], "why": "the model as plain ops", "from": []}


def _graph(program: Program, name: str) -> Graph:
    return next(graph for graph in program.graphs if graph.name == name)


def _sources(before: Graph, after: Graph, fresh: list[Op]) -> list[Op]:
    """List the ops that ``fresh`` replaced: those that made the same values, and those
    that led to them and are gone too."""
    gone = [op for op in before.ops if op not in after.ops]
    came = [op for op in after.ops if op not in before.ops]
    names = {name for op in fresh for name in op.outs}
    if not any(names & set(op.outs) for op in gone):
        # A value that is new, such as a merged product, is made for those that read it.
        names |= {n for op in came for n in op.outs if names & set(op.values)}
    taken: list[Op] = []
    for op in reversed(gone):
        if names & set(op.outs):
            taken.insert(0, op)
            names |= set(op.values)
    return taken


def _entry(build: Build, name: str, graph: str, fresh: list[Op]) -> str:
    outs = {f"%{out}" for op in fresh for out in op.outs}
    for entry in build.ledger:
        places = set(entry.at.split(", "))
        if (entry.fusion, entry.graph) == (name, graph) and places & outs:
            return entry.reason
    return str(build.stages[name]["doc"])


def implementations(build: Build, mnemonic: str) -> Iterator[str]:
    """Yield the lines where the functions of an op stand in the build."""
    modules = dict.fromkeys(["reference", *build.target.operations.values()])
    for file in (f"{module}.py" for module in modules):
        for number, line in enumerate(build.source(file).splitlines(), 1):
            if line.startswith(f"def {mnemonic}("):
                yield f"{file}:{number}"


def spec_of_ops(build: Build, ops: Iterable[Op]) -> list[dict[str, Any]]:
    """List the entries of the spec that decide attributes of ops, each once."""
    found: dict[str, dict[str, Any]] = {}
    for op in ops:
        for entry in _spec_of_op(build, op):
            known = found.setdefault(entry["entry"], entry)
            known["decides"] = list(dict.fromkeys(known["decides"] + entry["decides"]))
    return list(found.values())


def _spec_of_op(build: Build, op: Op) -> list[dict[str, Any]]:
    wanted: dict[str, tuple[str, ...]] = {
        name: _ENTRIES.get(name, (name,)) for name in op.attributes()
    }
    if op.mnemonic.startswith("rope_table"):
        wanted = dict.fromkeys(wanted, _ROPE_TABLE)
    found = []
    for path, line in build.manifest.get("spec_lines", {}).items():
        decides = [
            f"{name}={getattr(op, name)}"
            for name, ends in wanted.items()
            if any(path.endswith(f".{end}") or path == end for end in ends)
        ]
        if decides:
            found.append(
                {"entry": path, "decides": decides} | _with_values(build, line)
            )
    return found


def _with_values(build: Build, line: Mapping[str, Any]) -> dict[str, Any]:
    config = build.manifest["config"]
    return {
        "where": line["where"],
        "says": line["says"],
        "keys": {key: config.get(key) for key in line["keys"]},
    }


def _param_facts(build: Build, param: Parameter) -> dict[str, Any]:
    names = [tensor.name for tensor in tensors(param.recipe)]
    found = [
        {"entry": path} | _with_values(build, line)
        for path, line in build.manifest.get("spec_lines", {}).items()
        if any(_names(line["says"], name) for name in names)
    ]
    recipe = print_recipe(param.recipe)
    return {"param": f"@{param.name}: {param.type}", "recipe": recipe, "spec": found}


def _names(says: str, tensor: str) -> bool:
    """Tell whether a spec's entry names the module of a tensor."""
    words = re.findall(r"'([\w.{}]+)'", says) if says.startswith("=") else [says]
    ends = [f"{word}.{kind}" for word in words for kind in ("weight", "bias")]
    return any(tensor == end or tensor.endswith(f".{end}") for end in ends)


def trace_key(build: Build, key: str) -> dict[str, Any]:
    """Trace a config key: its fate, the spec's lines, the emitted lines."""
    lines = {
        path: line
        for path, line in build.manifest.get("spec_lines", {}).items()
        if key in line["keys"]
    }
    reached = []
    statements: dict[int, list[Line]] = {}
    for line in emitted_lines(build):
        statements.setdefault(line.number, []).append(line)
    for number, found in statements.items():
        entries = spec_of_ops(build, [line.op for line in found if line.op])
        decided = [
            what for e in entries if e["entry"] in lines for what in e["decides"]
        ]
        if decided:
            text = " ".join(found[0].text.split())
            at = f"model.py:{number}"
            reached.append({"line": at, "emitted": text, "decides": decided})
    return {
        "key": key,
        "value": build.manifest["config"].get(key),
        "fate": build.manifest["config_keys"][key],
        "spec": [
            {"entry": path} | _with_values(build, one) for path, one in lines.items()
        ],
        "emitted": reached,
    }


def trace_text(facts: Mapping[str, Any]) -> str:
    """Format :func:`trace` for a person."""
    return "\n".join(_key_text(facts) if "key" in facts else _line_text(facts))


def _line_text(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['line']}  {facts['emitted']}"
    if "ir" in facts:
        for graph, op in facts["ir"].items():
            yield f"op        {graph}: {op}"
        for step in facts["history"]:
            yield f"pass      {step['pass']}: {step['why']}"
            yield from (f"            {line}" for line in step["from"])
        yield f"code      {', '.join(facts['implemented'])}"
    yield from _spec_text(facts["spec"])
    for param in [facts] if "param" in facts else facts["weights"]:
        yield f"weight    {param['param']} = {param['recipe']}"
        if "param" not in facts:
            yield from _spec_text(param["spec"])


def _spec_text(lines: list[dict[str, Any]]) -> Iterator[str]:
    for line in lines:
        decides = f" ({', '.join(line['decides'])})" if "decides" in line else ""
        yield f"spec      {line['where']}  {line['entry']}: {line['says']}{decides}"
        for key, value in line["keys"].items():
            yield f"config      {key} = {value}"


def _key_text(facts: Mapping[str, Any]) -> Iterator[str]:
    fate = facts["fate"]
    yield f"{facts['key']} = {facts['value']}"
    yield f"fate      {fate['status']}: {fate['reason']} ({fate['where']})"
    for line in facts["spec"]:
        yield f"spec      {line['where']}  {line['entry']}: {line['says']}"
    for line in facts["emitted"]:
        yield f"{line['line']}  {line['emitted']}"
