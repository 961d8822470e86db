"""Arguments that several commands share."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from glmc.frontends.read.hub import Hub
from glmc.ir.errors import CommandLineError

BUILD_OR_SOURCE = "a folder that glmc compile wrote, or anything it compiles"
TUNED = "a second one whose tensors take the place of the first's"


DRIFT = "go on where the checkpoint's config is another than the compiled one"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are glmc's, so that they are told as all others are."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and raise CommandLineError."""
        self.print_usage(sys.stderr)
        command = self.prog.removeprefix("glmc").lstrip()
        where = f"{command}: " if command else ""
        raise CommandLineError(f"{where}{message}.")


def add_drift(parser: argparse.ArgumentParser) -> None:
    """Add the option for another config beside the weights."""
    parser.add_argument("--allow-config-drift", action="store_true", help=DRIFT)


def add_hub(parser: argparse.ArgumentParser) -> None:
    """Add the options of hub ids."""
    group = parser.add_argument_group("hub ids")
    group.add_argument("--revision", help="branch, tag or commit of the repository")
    group.add_argument("--endpoint", metavar="URL",
        help="a mirror of the hub; default: HF_ENDPOINT")  # fmt: skip
    group.add_argument("--offline", action="store_true",
        help="only what was downloaded before")  # fmt: skip
    group.add_argument("--timeout", type=_seconds, metavar="SECONDS",
        help="of silence, after which a server is given up (30)")  # fmt: skip


def hub_of(arguments: argparse.Namespace) -> Hub:
    """Return the way in which a hub id is looked up, from these arguments."""
    return Hub(
        arguments.revision, arguments.endpoint, arguments.offline, arguments.timeout
    )


def _seconds(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        wanted = "expected a number of seconds above 0"
        raise argparse.ArgumentTypeError(f"{wanted}, found {text!r}")
    return number


def add_target(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--target``; :mod:`glmc.backends.target` checks its value when it is
    used."""
    parser.add_argument("--target", metavar="NAME",
        help=f"{what}: any (default), cpu, cuda, hip")  # fmt: skip


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Add a build, its weights, and the reference to compare with."""
    add = parser.add_argument
    add("build", type=Path, help="a folder that glmc compile wrote")
    add("--weights", required=True, metavar="CHECKPOINT", help="a folder or hub id")
    add("--against", default="transformers", metavar="WHAT",
        help="transformers (default), or a file of golden numbers")  # fmt: skip
    add("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    add("--tuned", metavar="CHECKPOINT", help=TUNED)
    add_drift(parser)
    add("--json", action="store_true", help="for machines")
    add_hub(parser)


def add_generation(
    parser: argparse.ArgumentParser,
    *,
    max_new_tokens: int,
    temperature: float | None = None,
    top_p: float | None = None,
) -> None:
    """Add the build, its weights and tokenizer, and the options of sampling."""
    usual = "as generation_config.json says" if temperature is None else temperature
    add = parser.add_argument
    add("build", type=Path, help="a folder that glmc compile wrote")
    add("--weights", required=True, metavar="CHECKPOINT", help="a folder or hub id")
    add("--tuned", metavar="CHECKPOINT", help=TUNED)
    add_drift(parser)
    add("--tokenizer", metavar="FOLDER",
        help="where the tokenizer's files are; default: with the weights")  # fmt: skip
    add("--variant", help="the tokenizer's variant, where its files cannot tell")
    add("--max-new-tokens", type=int, default=max_new_tokens, metavar="N",
        help=f"at most ({max_new_tokens})")  # fmt: skip
    add("--temperature", type=float, default=temperature,
        help=f"sample; default: {usual}; 0 is greedy")  # fmt: skip
    add("--top-k", type=int, help="sample among the k likeliest")
    add("--top-p", type=float, default=top_p,
        help="sample among the likeliest that sum to p"
        + (f" ({top_p})" if top_p else ""))  # fmt: skip
    add("--seed", type=int, help="makes sampling repeatable")
    add("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    add("--dtype", help="float32, float16, bfloat16; default: as published")
    add_hub(parser)


def names(text: str) -> tuple[str, ...]:
    """Split ``a,b`` into names."""
    return tuple(filter(None, text.split(",")))
