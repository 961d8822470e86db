"""The command ``glmc``: arguments in, text out, exit codes.

0: done; 1: ``verify`` or ``bisect`` found a difference; 2: something the user can mend,
told in one paragraph on stderr; 130: interrupted. A stack trace is a bug of ours.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from glmc.version import __version__

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

_BUILD_OR_SOURCE = "a folder that glmc compile wrote, or anything it compiles"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    from glmc.ir.errors import GlmcError

    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except GlmcError as error:
        print(f"glmc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, as `| head` does
        return 0
    except KeyboardInterrupt:
        print("glmc: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glmc",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"glmc {__version__}")
    _add_completion(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_compile,
        _add_inspect,
        _add_explain,
        _add_report,
        _add_check,
        _add_verify,
        _add_bisect,
        _add_ir,
        _add_run,
        _add_chat,
        _add_specs,
        _add_quantize,
    ):
        add(commands)
    _add_configs(commands)
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    """``--print-completion SHELL``, where shtab is installed."""
    try:
        import shtab
    except ImportError:
        return
    shtab.add_argument_to(parser, "--print-completion")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], int],
    summary: str,
    epilog: str,
) -> argparse.ArgumentParser:
    name = run.__name__.removeprefix("_run_")
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _add_compile(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_compile,
        "turn a model description into a package",
        "examples:\n"
        "  glmc compile config.json -o build/\n"
        "  glmc compile THUDM/chatglm3-6b -o build/ --strict --verify-passes\n"
        "  glmc compile chatglm3-6b -o build/           a built-in config\n"
        "  glmc compile folder/ -o five/ --set num_layers=5\n"
        "  glmc compile folder/ -o build/ --aot cuda:80,cuda:90\n",
    )
    add = parser.add_argument
    add("source", nargs="?", help="a config.json, a model folder, a hub id (ORG/NAME),"
        " or a name that glmc configs lists")  # fmt: skip
    add("-o", "--out", type=Path, default=Path("build"), help="folder to write (build)")
    add("--force", action="store_true", help="move an edited build aside first")
    add("--variant", help="the architecture's variant, where the config cannot tell")
    add("--spec", type=Path, metavar="FILE", help="a spec of your own")
    add("--from-ir", type=Path, metavar="FILE", help="build from a dump (see glmc ir)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
        help="change a config key, e.g. num_layers=5 (repeatable)")  # fmt: skip
    add("--ignore-key", action="append", default=[], metavar="NAME",
        help="disregard a config key that no spec knows (repeatable)")  # fmt: skip
    add("--disable", action="append", default=[], metavar="PASS",
        help="leave a pass out (repeatable)")  # fmt: skip
    add("--strict", action="store_true",
        help="fail when a fusion had candidates and took none")  # fmt: skip
    add("--verify-passes", action="store_true",
        help="run a shrunken model before and after each pass")  # fmt: skip
    add("--kernel", action="append", default=[], metavar="OP=FILE", dest="kernels",
        help="a kernel of your own for an op (repeatable)")  # fmt: skip
    add("--aot", type=_names, default=(), metavar="TARGET,...",
        help="compile the kernels now, e.g. cuda:80,cuda:90,hip:gfx942")  # fmt: skip
    add("--aot-dtype", type=_names, default=(), metavar="DTYPE,...",
        help="for weights in f32, f16 or bf16; default: as published")  # fmt: skip
    add("--json", action="store_true", help="print what was written as JSON")
    _add_hub(parser)


def _names(text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(filter(None, text.split(",")))


def _run_compile(arguments: argparse.Namespace) -> int:
    from glmc.commands import compile_command

    return compile_command(arguments)


def _add_inspect(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_inspect,
        "show a build: sizes, stages, IR, fusion ledger",
        "examples:\n"
        "  glmc inspect build/\n"
        "  glmc inspect build/ --stage lowered\n"
        "  glmc inspect build/ --diff lowered merge-qkv\n"
        "  glmc inspect build/ --trace model.py:24\n"
        "  glmc inspect build/ --ledger --json\n"
        "  glmc inspect build/ --cost h200 --batch 4 --context 8192\n"
        "  glmc inspect THUDM/chatglm3-6b\n",
    )
    parser.add_argument("build", metavar="BUILD", help=_BUILD_OR_SOURCE)
    view = parser.add_mutually_exclusive_group().add_argument
    view("--stage", metavar="NAME", help="print the IR after one stage")
    view("--stages", action="store_true", help="print the IR of all")
    view("--ledger", action="store_true", help="only the fusion ledger")
    view("--diff", nargs=2, metavar=("A", "B"), help="what changed between two stages")
    view("--op", metavar="NAME", help="every use of an op, or who makes %%NAME")
    view("--weights", action="store_true", help="where every parameter comes from")
    view("--keys", action="store_true", help="what became of every config key")
    view("--trace", metavar="WHERE",
         help="what stands behind model.py:LINE or a config key")  # fmt: skip
    view("--cost", metavar="DEVICE",
         help="the least time of a call on it: h200, l4, cpu, ...")  # fmt: skip
    add = parser.add_argument
    add("--lengths", metavar="N,...", help="measure the KV cache there")
    add("--batch", type=int, default=1, metavar="N", help="rows, for --cost (1)")
    add("--context", type=int, default=1024, metavar="N",
        help="tokens before the call, for --cost (1024)")  # fmt: skip
    add("--tokens", type=int, default=1, metavar="N",
        help="tokens of the call, for --cost (1); more are a prompt")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for machines")
    _add_hub(parser)


def _run_inspect(arguments: argparse.Namespace) -> int:
    from glmc.commands import inspect_command

    return inspect_command(arguments)


def _add_explain(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_explain,
        "explain a pass, an op or a config key",
        "examples:\n"
        "  glmc explain add-rms-norm\n"
        "  glmc explain qkv_attention\n"
        "  glmc explain rope_ratio\n",
    )
    parser.add_argument("name", nargs="?", help="default: list passes and ops")
    parser.add_argument("--json", action="store_true", help="for machines")


def _run_explain(arguments: argparse.Namespace) -> int:
    from glmc.explaining import explain_command

    return explain_command(arguments)


def _add_report(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_report,
        "write a page that shows a build: graph, stages, ledger, weights, code",
        "examples:\n"
        "  glmc report build/ -o report.html\n"
        "  glmc report build/ --svg layer --stage lowered -o layer.svg\n"
        "  glmc report build/ --mermaid head\n",
    )
    add = parser.add_argument
    add("build", type=Path, help="a folder that glmc compile wrote")
    drawing = parser.add_mutually_exclusive_group()
    drawing.add_argument("--svg", metavar="PART", help="draw stem, head or a block")
    drawing.add_argument("--mermaid", metavar="PART", help="the same as a flowchart")
    add("--stage", metavar="NAME", help="the stage to draw; default: the last")
    add("-o", "--out", type=Path, metavar="FILE",
        help="default: report.html; drawings go to standard output")  # fmt: skip


def _run_report(arguments: argparse.Namespace) -> int:
    from glmc.report.command import report_command

    return report_command(arguments)


_TUNED = "a second one whose tensors take the place of the first's"


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        _run_check,
        "account for every tensor of a checkpoint, from headers alone",
        "examples:\n"
        "  glmc check build/ --weights CHECKPOINT\n"
        "  glmc check zai-org/GLM-4-9B-0414      on the hub, nothing is downloaded\n\n"
        "exit code 0 when every tensor is bound or waived, else 2\n",
    )
    parser.add_argument("build", metavar="BUILD", help=_BUILD_OR_SOURCE)
    parser.add_argument("--weights", metavar="CHECKPOINT",
        help="a checkpoint folder or hub id; default: the source itself")  # fmt: skip
    parser.add_argument("--tuned", metavar="CHECKPOINT", help=_TUNED)
    parser.add_argument("--json", action="store_true", help="for machines")
    _add_hub(parser)


def _run_check(arguments: argparse.Namespace) -> int:
    from glmc.commands import check_command

    return check_command(arguments)


def _add_verify(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_verify,
        "compare a build with transformers, layer by layer",
        "examples:\n"
        "  glmc verify build/ --weights CHECKPOINT\n"
        "  glmc verify build/ --weights CHECKPOINT --save golden.safetensors\n"
        "  glmc verify build/ --weights CHECKPOINT --against golden.safetensors\n\n"
        "exit code 0 when all differences are within the tolerance, 1 when one is\n"
        "not, 2 when they cannot be compared\n",
    )
    _add_reference(parser)
    add = parser.add_argument
    add("--dtype", default="float32", choices=("float32", "float16", "bfloat16"),
        help="what both compute in (float32)")  # fmt: skip
    add("--tolerance", type=float, metavar="X",
        help="largest difference, relative to a row's scale")  # fmt: skip
    add("--prompt-ids", metavar="ID,ID,...", help="a prompt; default: random tokens")
    add("--save", type=Path, metavar="FILE", help="keep the reference's numbers")


def _run_verify(arguments: argparse.Namespace) -> int:
    from glmc.verifying import verify_command

    return verify_command(arguments)


def _add_ir(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        _run_ir,
        "read an IR dump, verify it, run passes on it, print it",
        "examples:\n"
        "  glmc ir build/ir/1-lowered.glmc --passes merge-qkv,act-mul\n"
        "  glmc ir build/ir/0-model.glmc --pipeline -o fused.glmc\n"
        "  glmc compile --from-ir build/ir/1-lowered.glmc -o plain/\n\n"
        "The ledger of the passes goes to stderr.\n",
    )
    add = parser.add_argument
    add("file", type=Path, help="a dump of any stage; - for the standard input")
    passes = parser.add_mutually_exclusive_group()
    passes.add_argument("--passes", metavar="NAME,...", help="run these, in this order")
    passes.add_argument("--pipeline", action="store_true", help="run all passes")
    add("-o", "--out", type=Path, help="write there instead of printing")
    add("--json", action="store_true", help="text and ledger as JSON")


def _run_ir(arguments: argparse.Namespace) -> int:
    from glmc.dumps import ir_command

    return ir_command(arguments)


def _add_bisect(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_bisect,
        "name the layer, the op and the pass that make a build differ",
        "examples:\n"
        "  glmc bisect build/ --weights CHECKPOINT\n"
        "  glmc bisect build/ --weights CHECKPOINT --against golden.safetensors\n\n"
        "exit code 0 when nothing differs, 1 with a culprit, 2 for a user's mistake\n",
    )
    _add_reference(parser)


def _run_bisect(arguments: argparse.Namespace) -> int:
    from glmc.bisecting import bisect_command

    return bisect_command(arguments)


def _add_reference(parser: argparse.ArgumentParser) -> None:
    """A build, its weights, and what it is held against."""
    add = parser.add_argument
    add("build", type=Path, help="a folder that glmc compile wrote")
    add("--weights", required=True, metavar="CHECKPOINT", help="a folder or hub id")
    add("--against", default="transformers", metavar="WHAT",
        help="transformers (default), or a file of golden numbers")  # fmt: skip
    add("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    add("--tuned", metavar="CHECKPOINT", help=_TUNED)
    add("--json", action="store_true", help="for machines")
    _add_hub(parser)


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        _run_run,
        "generate with a build, from text or token ids",
        "examples:\n"
        '  glmc run build/ --weights CHECKPOINT --prompt "今天天气真好"\n'
        "  glmc run build/ --weights CHECKPOINT --prompt-ids 64790,64792,30910 \\\n"
        "      --max-new-tokens 32 --temperature 0.8 --top-p 0.8 --seed 7\n",
    )
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the prompt as text")
    prompt.add_argument("--prompt-ids", metavar="ID,ID,...", help="the prompt's tokens")
    _add_generation(parser, max_new_tokens=32)
    parser.add_argument(
        "--json", action="store_true", help="prompt and new ids as JSON"
    )


def _run_run(arguments: argparse.Namespace) -> int:
    from glmc.running import run_command

    return run_command(arguments)


def _add_chat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        _run_chat,
        "talk to a model, with its own chat template",
        "example:\n"
        "  glmc chat build/ --weights CHECKPOINT --system 'Answer in verse.'\n\n"
        "In a pipe, each line is a message. Commands: /clear /undo /help /exit\n",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="a system message to begin with"
    )
    _add_generation(parser, max_new_tokens=1024, temperature=0.8, top_p=0.8)


def _run_chat(arguments: argparse.Namespace) -> int:
    from glmc.chat import chat_command

    return chat_command(arguments)


def _add_specs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from glmc.authoring.arguments import add_specs

    add_specs(commands, _add_hub)


def _add_configs(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_configs,
        "list the built-in configs, which need no download",
        "example:\n  glmc configs && glmc compile chatglm3-6b -o build/\n",
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def _run_configs(arguments: argparse.Namespace) -> int:
    from glmc.commands import configs_command

    return configs_command(arguments)


def _add_hub(parser: argparse.ArgumentParser) -> None:
    """How a hub id is looked up."""
    group = parser.add_argument_group("hub ids")
    group.add_argument("--revision", help="branch, tag or commit of the repository")
    group.add_argument("--endpoint", metavar="URL",
        help="a mirror of the hub; default: HF_ENDPOINT")  # fmt: skip
    group.add_argument("--offline", action="store_true",
        help="only what was downloaded before")  # fmt: skip


def _add_generation(
    parser: argparse.ArgumentParser,
    *,
    max_new_tokens: int,
    temperature: float | None = None,
    top_p: float | None = None,
) -> None:
    """The build, its weights and tokenizer, and how tokens are chosen."""
    how = "greedy" if temperature is None else f"{temperature}; 0 is greedy"
    add = parser.add_argument
    add("build", type=Path, help="a folder that glmc compile wrote")
    add("--weights", required=True, metavar="CHECKPOINT", help="a folder or hub id")
    add("--tuned", metavar="CHECKPOINT", help=_TUNED)
    add("--tokenizer", metavar="FOLDER",
        help="where the tokenizer's files are; default: with the weights")  # fmt: skip
    add("--variant", help="the tokenizer's variant, where its files cannot tell")
    add("--max-new-tokens", type=int, default=max_new_tokens, metavar="N",
        help=f"at most ({max_new_tokens})")  # fmt: skip
    add("--temperature", type=float, default=temperature,
        help=f"sample; default: {how}")  # fmt: skip
    add("--top-k", type=int, help="sample among the k likeliest")
    add("--top-p", type=float, default=top_p,
        help="sample among the likeliest that sum to p"
        + (f" ({top_p})" if top_p else ""))  # fmt: skip
    add("--seed", type=int, help="makes sampling repeatable")
    add("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    add("--dtype", help="float32, float16, bfloat16; default: as published")
    _add_hub(parser)


def _add_quantize(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = _command(
        commands,
        _run_quantize,
        "write a float checkpoint in ChatGLM's int8 or int4 format",
        "example:\n  glmc quantize CHECKPOINT -o chatglm3-6b-int4/ --bits 4\n\n"
        "Shard by shard, to safetensors; the tokenizer is copied, code is not.\n",
    )
    add = parser.add_argument
    add("checkpoint", help="a model folder with float weights")
    add("-o", "--out", type=Path, required=True, help="a folder that does not exist")
    add("--bits", type=int, choices=(4, 8), required=True, help="bits of a weight")
    add("--embeddings", action="store_true", help="quantise embedding and head too")
    add("--variant", help="the architecture's variant, where the config cannot tell")
    add("--json", action="store_true", help="print what was written as JSON")


def _run_quantize(arguments: argparse.Namespace) -> int:
    from glmc.commands import quantize_command

    return quantize_command(arguments)
