"""Names of the IR that become names of the emitted module, and which of them cannot.

A value is a local variable of a ``forward``, a parameter an attribute of a module, a
block a class. So each is an identifier of Python, and none that Python or the code
around the ops uses itself.
"""

from collections.abc import Collection, Iterable
from keyword import iskeyword

from glmc.backends.emit import class_name
from glmc.ir.errors import DumpNameError
from glmc.ir.graph import Program
from glmc.ir.model import Model

VALUES = frozenset(
    {
        *("self", "ops", "cache", "keep", "layer", "layers", "state", "nn", "torch"),
        *("parameter", "range", "zip", "super"),
    }
)
"""Taken among values: what the statements around the ops use."""

PARAMETERS = frozenset(
    {
        # what a module of torch has for itself, and calls
        *("forward", "training", "train", "eval", "apply", "to", "cuda", "cpu"),
        *("children", "modules", "buffers", "parameters", "named_children"),
        *("named_modules", "named_buffers", "named_parameters", "add_module"),
        *("register_buffer", "register_module", "register_parameter", "get_parameter"),
        *("get_submodule", "state_dict", "load_state_dict", "requires_grad_"),
        # what the runtime's classes have
        *("run", "layers", "ops", "device", "dtype", "generate", "encode_prefix"),
        *("states", "layer_states", "max_positions", "vocab_size", "type_vocab_size"),
        "scheme",
        *("eos_token_id", "pad_token_id", "default_dtype", "learned", "new_cache"),
    }
)
"""Taken among parameters: attributes that the module has already."""

CLASSES = frozenset(
    {
        *("Model", "Block", "CausalLM", "CausalLm", "Encoder", "MaskedLM"),
        *("GlmPositions", "States", "KeysValues", "PerToken", "PerRow", "From"),
        *("None", "True", "False"),
    }
)
"""Taken among classes."""

GRAPHS = frozenset({"stem", "head", "prefix_encoder"})
"""What the other graphs of a program are called."""


def check_names(model: Model, program: Program) -> None:
    """Refuse names that cannot stand in the emitted code.

    Raises:
        DumpNameError: naming the first of them.
    """
    _identifiers("the model", [model.name, program.name], ())
    _classes(program)
    for graph in program.graphs:
        _identifiers(f"{graph.name}: a value", graph.types, VALUES)
        _parameters(f"{graph.name}: a parameter", [p.name for p in graph.params])
    _parameters("a parameter", [param.name for param in program.params])


def _classes(program: Program) -> None:
    """Every block is a class of its own."""
    made: dict[str, str] = {}
    for block in program.blocks:
        _identifiers("a block", [block.name], GRAPHS)
        name = class_name(block)
        if not name.isidentifier() or name in CLASSES:
            _refuse("a block", block.name, CLASSES)
        if name in made:
            raise DumpNameError(
                f"the blocks {made[name]!r} and {block.name!r} would both be the class"
                f" {name} of the emitted code; rename one of them."
            )
        made[name] = block.name


def _parameters(what: str, names: Iterable[str]) -> None:
    names = list(names)
    _identifiers(what, names, PARAMETERS)
    for name in names:
        if name.startswith("_"):
            _refuse(what, name, PARAMETERS)


def _identifiers(what: str, names: Iterable[str], taken: Collection[str]) -> None:
    for name in names:
        plain = name.isascii() and name.isidentifier() and len(name) <= _LONGEST
        private = name.startswith("__")
        if not plain or iskeyword(name) or private or name in taken:
            _refuse(what, name, taken)


_LONGEST = 200
"""Characters of a name; what is longer was not meant to be one."""


def _refuse(what: str, name: str, taken: Collection[str]) -> None:
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    also = f", and {', '.join(sorted(taken))}" if taken else ""
    raise DumpNameError(
        f"{what}: {shown!r} cannot be a name in the emitted code; choose another"
        f" (taken are Python's keywords, names that begin with two underscores{also})."
    )
