"""The `reference.py` of a build: the reference ops it uses, selected as source text.

The files of `ops/` are parsed, never imported: selecting needs no torch.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

#: The files of `ops/`, in the order in which they appear in a reference module.
FILES = (
    "state",
    "elementwise",
    "quantized",
    "norms",
    "products",
    "rope",
    "positions",
    "attention",
    "moe",
    "sparse",
    "latent",
    "blocks",
    "streams",
    "hyper",
    "history",
    "pooled",
    "head_experts",
    "recurrent",
    "units",
    "mixers",
    "collectives",
)
#: Definitions that stand for others where no weight is codes, and their file.
FLOATS = {"_multiplied": "floats"}
#: Those where an engine keeps what attention reads, and attends.
PAGED = dict.fromkeys(
    (
        *("kv_write", "attention", "latent_write", "latent_attention"),
        *("PagedLayer", "Written"),
    ),
    "paged",
)
#: The product where an engine lays out weights anew.
LAID_OUT = {"linear": "laid_out", "LaidOut": "laid_out"}
OPS = Path(__file__).parent / "ops"
RUNTIME = "glmc.backends.runtime."
HEADER = '"""The operations of this model in plain torch: the oracle of its kernels."""'


@dataclass(frozen=True)
class Definition:
    """A function, class or constant of one of the files."""

    name: str
    source: str
    node: ast.stmt

    @functools.cached_property
    def uses(self) -> set[str]:
        """Module-level names that it reads: other definitions and imports."""
        return _global_names(self.node)


@dataclass(frozen=True)
class Source:
    """The definitions and imports of one file."""

    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, str]]
    """Name bound by an import to `(module, "name")`, or `("", "module as name")`."""


def reference_module(
    ops: Iterable[str],
    *,
    codes: bool = True,
    instead: Mapping[str, str] = MappingProxyType({}),
    header: str = HEADER,
) -> str:
    """Returns the source of a module with exactly these ops and what they need.

    `codes` says whether some weights are codes; `instead` maps definitions that stand
    for others, such as those of `PAGED`, to their file. It is deterministic and
    formatted as ruff would. Raises LookupError for a name that is no reference op.
    """
    wanted = sorted(ops)
    unknown = [name for name in wanted if name not in places()]
    if unknown:
        raise LookupError(f"no reference op is named {', '.join(unknown)}")
    found = {**(places() if codes else places() | FLOATS), **instead}
    needed = closure(wanted, found)
    used = {found[name] for name in needed & found.keys()}
    files = [*FILES, *FLOATS.values(), *dict.fromkeys(instead.values())]
    files = [file for file in files if file in used]
    sources = [read_source(file) for file in files]
    bodies = [
        one.source
        for file, source in zip(files, sources, strict=True)
        for one in source.definitions.values()
        if one.name in needed and found[one.name] == file
    ]
    bound = {n: to for source in sources for n, to in source.imports.items()}
    imports = import_lines(bound[name] for name in needed & bound.keys())
    # As isort wants it: two empty lines after the imports only before a definition.
    gap = "\n\n\n" if bodies[0].startswith(("def", "class", "@", "#")) else "\n\n"
    return f"{header}\n\n{imports}{gap}" + "\n\n\n".join(bodies) + "\n"


def closure(names: Iterable[str], files: Mapping[str, str]) -> set[str]:
    """Returns the names, and all that their definitions lead to."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in files:
                waiting += read_source(files[name]).definitions[name].uses
    return found


@functools.cache
def places() -> dict[str, str]:
    """Maps each definition to the file that holds it, by the lines at column 0: most
    models need few of the files, and to parse all takes long.

    Raises ValueError where two files define the same name.
    """
    found: dict[str, str] = {}
    for file in FILES:
        for match in _DEFINES.finditer(_text(file)):
            name = match[1] or match[2]
            if found.setdefault(name, file) != file:
                raise ValueError(f"{name} is defined twice in {OPS}")
    return found


_DEFINES = re.compile(r"^(?:def|class) (\w+)|^(\w+)(?:: [^=\n]+)? = ", re.M)


@functools.cache
def _text(file: str) -> str:
    return (OPS / f"{file}.py").read_text("utf-8")


@functools.cache
def read_source(file: str) -> Source:
    """Parses one of the files."""
    text = _text(file)
    tree = ast.parse(text)
    imports = {name: to for node in tree.body for name, to in _imported(node)}
    found = _definitions(tree, text.splitlines())
    return Source({one.name: one for one in found}, imports)


def import_lines(imports: Iterable[tuple[str, str]]) -> str:
    """Returns import statements: standard library, torch, files of the build; in each
    of them `import` before `from`."""
    named: dict[str, list[str]] = {}
    lines = []
    for module, name in sorted(imports):
        if module:
            named.setdefault(module, []).append(name)
        else:
            lines.append(f"import {name}")
    lines += [
        f"from {module} import {', '.join(names)}" for module, names in named.items()
    ]
    blocks = ["\n".join(line for line in lines if _room(line) == n) for n in range(3)]
    return "\n\n".join(filter(None, blocks))


def _room(line: str) -> int:
    """Returns the block of imports that a line belongs to."""
    module = line.split()[1]
    return 2 if module.startswith(".") else int(module.startswith("torch"))


def _imported(node: ast.stmt) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields the names an import binds; imports between the files bind none of their
    own, and files of the runtime lie beside the module in a build."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name, ("", ast.unparse(alias))
    elif isinstance(node, ast.ImportFrom):
        module = str(node.module)
        if module.startswith(RUNTIME):
            module = module.removeprefix(RUNTIME[:-1])
        elif _is_ours(module):
            return
        for alias in node.names:
            yield alias.asname or alias.name, (module, ast.unparse(alias))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "glmc"


def _definitions(tree: ast.Module, lines: list[str]) -> Iterator[Definition]:
    """Yields each top-level definition, with the comment above it."""
    for node in tree.body:
        name = _defined_name(node)
        if name is None:
            continue
        decorators = getattr(node, "decorator_list", [])
        begin = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        while begin > 0 and lines[begin - 1].startswith("#"):
            begin -= 1
        source = "\n".join(lines[begin : node.end_lineno])
        yield Definition(name, source, node)


def _defined_name(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


def _global_names(node: ast.stmt) -> set[str]:
    """Returns the names that the code reads and does not itself bind."""
    read, bound = set(), set()
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                bound.add(name)
    return read - bound
