"""The command ``glmc``: arguments in, text out, exit codes.

0: done; 1: ``verify`` or ``bisect`` found a difference; 2: something the user can mend,
told in one paragraph on stderr, and with ``--json`` as an object on standard output;
130: interrupted. A stack trace is a bug of ours.
"""

import argparse
import atexit
import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from glmc.command.menu import COMMANDS, Command
from glmc.shell.options import Parser, add_hub
from glmc.version import __version__

if TYPE_CHECKING:
    from glmc.ir.errors import GlmcError

_ABOUT = """\
Compile a Hugging Face model description into a PyTorch and Triton package of your own.
Code that comes with a model is never run.

  glmc compile THUDM/chatglm3-6b -o build/         from the hub, or a folder, or a file
  glmc inspect build/                              what was built, stage by stage
  glmc report build/ -o report.html                the same as a page to click through
  glmc check build/ --weights CHECKPOINT           every tensor accounted for
  glmc verify build/ --weights CHECKPOINT          equal to transformers, layer by layer
  glmc run build/ --weights CHECKPOINT --prompt "今天天气真好"
  glmc chat build/ --weights CHECKPOINT            talk to it
  glmc specs                                       the architectures glmc knows
  glmc configs                                     the configs that glmc comes with
  glmc quantize CHECKPOINT -o OUT --bits 4         int8 or int4 weights, scales per row
"""

_SHOWN = 120
"""Characters of a path that are repeated in a message."""

_COLLECT_AFTER = 50_000
"""New objects after which Python looks for cycles among them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    # pydantic asks every package that is installed whether it is a plugin, which takes
    # longer than all of its own start; glmc needs none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _exit_without_looking_for_cycles()
    with _collecting_seldom():
        return _main(argv)


def _exit_without_looking_for_cycles() -> None:
    """Skip the last search for reference cycles at exit, which takes a fifth of a
    compile; the memory is freed anyway."""
    atexit.unregister(gc.freeze)  # once is enough
    atexit.register(gc.freeze)


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Run the garbage collector seldom: imports and compiling make few cycles, and
    looking after every 700 objects takes a twelfth of a compile."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _main(argv: Sequence[str] | None) -> int:
    from glmc.ir.errors import GlmcError

    if sys.stdout is None:  # closed by whoever called: as if it were /dev/null
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    words = sys.argv[1:] if argv is None else argv
    as_json = any(map(_is_json, words))
    try:
        arguments = command_parser().parse_args(words)
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
        return code
    except GlmcError as error:
        return _refused(error, as_json=as_json)
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        _discard_output()
        return 0
    except OSError as error:
        return _refused(_of_the_system(error), as_json=as_json)
    except KeyboardInterrupt:
        print("glmc: interrupted", file=sys.stderr)
        return 130


def _is_json(word: str) -> bool:
    """Tell whether a word of a command line is ``--json``, or argparse's short form of
    it."""
    return len(word) > len("--") and "--json".startswith(word)


def _refused(error: "GlmcError", *, as_json: bool) -> int:
    """Print an error, with ``--json`` on standard output too; return the exit code."""
    try:
        if as_json:
            print(json.dumps({"error": _facts(error)}, indent=2, ensure_ascii=False))
        sys.stdout.flush()
    except OSError:
        _discard_output()
    if sys.stderr is not None:
        with suppress(OSError):
            print(told(error), file=sys.stderr, flush=True)
    return error.exit_code


def _facts(error: "GlmcError") -> dict[str, object]:
    return {
        "code": error.code,
        "title": error.title(),
        "message": str(error),
        "next_step": error.next_step,
        "exit_code": error.exit_code,
    }


def _of_the_system(error: OSError) -> "GlmcError":
    """Turn an OSError into an error of ours."""
    from glmc.ir.errors import FileUnreadableError, OutputError

    reason = error.strerror or str(error)
    if error.filename is None:  # no file: what is being printed
        _discard_output()
        return OutputError(f"the output cannot be written ({reason}).")
    shown = str(error.filename)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return FileUnreadableError(f"{shown} cannot be used: {reason}.")


def _discard_output() -> None:
    """Discard further output, which Python would flush when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def told(error: "GlmcError") -> str:
    """Return ``glmc: error[GLMC012]: …``, and where there is more about it."""
    if not error.code:
        return f"glmc: error: {error}"
    return f"glmc: error[{error.code}]: {error}\n  see: glmc explain {error.code}"


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from glmc.command.specs_menu import add_specs

    parser = Parser(
        prog="glmc",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"glmc {__version__}")
    parser.add_argument("--print-completion", action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"), help="a completion script")  # fmt: skip
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.set_defaults(command=_handler(command))
        command.add_arguments(own)
    add_specs(commands, add_hub)
    return parser


def _handler(command: Command) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        module, _, function = command.handler.partition(":")
        answer: int = getattr(importlib.import_module(module), function)(arguments)
        return answer

    return run


class _PrintCompletion(argparse.Action):
    """The action of ``--print-completion SHELL``; shtab is imported when it is asked
    for."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("shtab is not installed; pip install 'glmc[completion]'")
        print(shtab.complete(parser, str(given[1])))
        parser.exit()
