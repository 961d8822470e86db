"""The commands: what each is called, says of itself, takes, and who carries it out."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glmc.shell.options import (
    BUILD_OR_SOURCE,
    TUNED,
    add_drift,
    add_generation,
    add_hub,
    add_reference,
    add_target,
    names,
)


@dataclass(frozen=True)
class Command:
    """One command.

    ``handler`` is "module:function", imported when the command is given, so that
    `--help` and light commands stay light.
    """

    name: str
    handler: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


GROUPS = (32, 64, 128)
"""Columns that may share a scale of codes."""


def _compile(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="?", help="a config.json, a model folder, a hub id (ORG/NAME),"
        " or a name that glmc configs lists")  # fmt: skip
    add("-o", "--out", type=Path, default=Path("build"), help="folder to write (build)")
    add("--force", action="store_true", help="move an edited build aside first")
    add_target(parser, "what the build is for")
    add("--engine", choices=("vllm",), help="an engine that is to run the build too")
    add("--variant", help="the architecture's variant, where the config cannot tell")
    add("--spec", type=Path, metavar="FILE", help="a spec of your own")
    add("--read", action="store_true",
        help="find and prove a spec by published code (see glmc read)")  # fmt: skip
    add("--from-ir", type=Path, metavar="FILE", help="build from a dump (see glmc ir)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
        help="change a config key, e.g. num_layers=5 (repeatable)")  # fmt: skip
    add("--ignore-key", action="append", default=[], metavar="NAME",
        help="disregard a config key that no spec knows (repeatable)")  # fmt: skip
    add("--disable", action="append", default=[], metavar="PASS",
        help="leave a pass out (repeatable)")  # fmt: skip
    add("--codes", choices=("int8", "int4"),
        help="round the matrices of layers to codes when they are loaded")  # fmt: skip
    add("--group", type=int, choices=GROUPS, default=GROUPS[-1],
        help="columns of a row that share a scale of those codes (128)")  # fmt: skip
    add("--tensor-parallel", type=int, default=1, metavar="N",
        help="deal the weights of every layer to N ranks")  # fmt: skip
    add("--pipeline-parallel", type=int, default=1, metavar="M",
        help="deal the layers to M stages, each of so many ranks")  # fmt: skip
    add("--expert-parallel", action="store_true",
        help="deal whole experts to them, not the channels of each")  # fmt: skip
    add("--strict", action="store_true",
        help="fail when a fusion had candidates and took none, or an op that"
        " should have a kernel has none")  # fmt: skip
    add("--verify-passes", action="store_true",
        help="run a shrunken model before and after each pass")  # fmt: skip
    add("--kernel", action="append", default=[], metavar="OP=FILE", dest="kernels",
        help="a kernel of your own for an op (repeatable)")  # fmt: skip
    add("--aot", type=names, default=(), metavar="TARGET,...",
        help="compile the kernels now, e.g. cuda:80,cuda:90,hip:gfx942")  # fmt: skip
    add("--aot-dtype", type=names, default=(), metavar="DTYPE,...",
        help="for weights in f32, f16 or bf16; default: as published")  # fmt: skip
    add("--json", action="store_true", help="print what was written as JSON")
    add_hub(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", metavar="BUILD", help=BUILD_OR_SOURCE)
    view = parser.add_mutually_exclusive_group().add_argument
    view("--stage", metavar="NAME", help="print the IR after one stage")
    view("--stages", action="store_true", help="print the IR of all")
    view("--ledger", action="store_true", help="only the ledger: fusions, and kernels")
    view("--diff", nargs=2, metavar=("A", "B"), help="what changed between two stages")
    view("--op", metavar="NAME", help="every use of an op, or who makes %%NAME")
    view("--upstream", metavar="VALUE", help="what %%VALUE or @VALUE is made of")
    view("--downstream", metavar="VALUE", help="what is made of it")
    view("--weights", action="store_true", help="where every parameter comes from")
    view("--keys", action="store_true", help="what became of every config key")
    view("--trace", metavar="WHERE",
         help="what stands behind model.py:LINE or a config key")  # fmt: skip
    view("--cost", metavar="DEVICE",
         help="the least time of a call on it: h200, l4, cpu, ...")  # fmt: skip
    view("--kernels", metavar="DEVICE",
         help="its launches there, predicted from binaries: h200, ...")  # fmt: skip
    add = parser.add_argument
    add("--lengths", metavar="N,...", help="measure the cache there")
    add("--ranks", type=int, metavar="N",
        help="for --cost: the model dealt to so many, and one rank's time")  # fmt: skip
    add(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="rows, for --cost and --kernels (1)",
    )
    add("--context", type=int, default=1024, metavar="N",
        help="tokens before the call, for both (1024)")  # fmt: skip
    add("--tokens", type=int, default=1, metavar="N",
        help="tokens of the call, for both (1); more are a prompt")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for machines")
    add_hub(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="default: list passes and ops")
    parser.add_argument("--json", action="store_true", help="for machines")


def _report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("build", metavar="BUILD", help=BUILD_OR_SOURCE)
    add(
        "other", metavar="BUILD", nargs="?", help="another: a page of both side by side"
    )
    drawing = parser.add_mutually_exclusive_group()
    drawing.add_argument("--svg", metavar="PART", help="draw stem, head or a block")
    drawing.add_argument("--mermaid", metavar="PART", help="the same as a flowchart")
    add("--stage", metavar="NAME", help="the stage to draw; default: the last")
    add("-o", "--out", type=Path, metavar="FILE",
        help="default: report.html; drawings go to standard output")  # fmt: skip
    add("--json", action="store_true", help="print what was written as JSON")
    add_hub(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", metavar="BUILD", help=BUILD_OR_SOURCE)
    parser.add_argument("--weights", metavar="CHECKPOINT",
        help="a checkpoint folder or hub id; default: the source itself")  # fmt: skip
    parser.add_argument("--tuned", metavar="CHECKPOINT", help=TUNED)
    add_drift(parser)
    values = "read all weights too: nan, infinities, what tensors are taken for"
    parser.add_argument("--values", action="store_true", help=values)
    parser.add_argument("--json", action="store_true", help="for machines")
    add_hub(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    add = parser.add_argument
    add("--against-text", metavar="FILE|REPO",
        help="published modeling code, read as text and never run")  # fmt: skip
    add("--dtype", default="float32", choices=("float32", "float16", "bfloat16"),
        help="what both compute in (float32)")  # fmt: skip
    add("--tolerance", type=float, metavar="X",
        help="largest difference, relative to a row's scale")  # fmt: skip
    add("--prompt-ids", metavar="ID,ID,...", help="a prompt; default: random tokens")
    add("--save", type=Path, metavar="FILE", help="keep the reference's numbers")


def _bisect(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)


def _ir(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, help="a dump of any stage; - for the standard input")
    passes = parser.add_mutually_exclusive_group()
    passes.add_argument("--passes", metavar="NAME,...", help="run these, in this order")
    passes.add_argument("--pipeline", action="store_true", help="run all passes")
    add_target(parser, "whose passes they are")
    add("-o", "--out", type=Path, help="write there instead of printing")
    add("--json", action="store_true", help="text and ledger as JSON")


def _run(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the prompt as text")
    prompt.add_argument("--prompt-ids", metavar="ID,ID,...", help="the prompt's tokens")
    add_generation(parser, max_new_tokens=32)
    parser.add_argument(
        "--json", action="store_true", help="prompt and new ids as JSON"
    )


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system", metavar="TEXT", help="a system message to begin with"
    )
    parser.add_argument(
        "--template",
        metavar="NAME|FILE",
        help="a chat template of the repository by its name, or a file",
    )
    parser.add_argument(
        "--template-arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a variable of the chat template, such as enable_thinking=false",
    )
    add_generation(parser, max_new_tokens=1024, temperature=0.8, top_p=0.8)


def _tune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("build", type=Path, metavar="BUILD", help="a build")
    add("--weights", required=True, metavar="CHECKPOINT",
        help="a checkpoint folder or hub id")  # fmt: skip
    add("--tuned", metavar="CHECKPOINT", help=TUNED)
    add("--dtype", help="what the model will run in; default: as published")
    add("--json", action="store_true", help="print what was written as JSON")
    add_hub(parser)


def _pack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("build", type=Path, metavar="BUILD", help="a build of the target cpu")
    add("--weights", required=True, metavar="CHECKPOINT",
        help="a checkpoint folder or hub id")  # fmt: skip
    add("--tuned", metavar="CHECKPOINT", help=TUNED)
    add("-o", "--out", type=Path, metavar="FOLDER",
        help="where to; load(pack_cache=FOLDER) reads it (BUILD/packed)")  # fmt: skip
    add("--dtype", help="what the model will run in; default: as published")
    add("--codes", choices=("int8", "int4"),
        help="round to codes, as load(weights=...) does")  # fmt: skip
    add_drift(parser)
    add("--json", action="store_true", help="print what was written as JSON")
    add_hub(parser)


def _quantize(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="a model folder with float weights")
    add("-o", "--out", type=Path, required=True, help="a folder that does not exist")
    add("--bits", type=int, choices=(4, 8), required=True, help="bits of a weight")
    add("--group", type=int, choices=GROUPS,
        help="columns that share a scale (128); not for ChatGLM's own format, whose"
        " scales are of rows")  # fmt: skip
    add("--embeddings", action="store_true",
        help="quantise embedding and head too, in ChatGLM's own format")  # fmt: skip
    add("--variant", help="the architecture's variant, where the config cannot tell")
    add("--json", action="store_true", help="print what was written as JSON")


def _export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("build", type=Path, metavar="BUILD", help="a folder that glmc compile wrote")
    add("--weights", metavar="CHECKPOINT", help="a checkpoint folder or hub id")
    add("-o", "--out", type=Path, metavar="FOLDER",
        help="the repository to write; of --wheel where it goes (dist)")  # fmt: skip
    add("--copy", action="store_true", help="copy the weights instead of linking them")
    add("--wheel", action="store_true", help="a package for pip, without weights")
    add("--json", action="store_true", help="print what was written as JSON")


def _read(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="MODEL", help="a folder with config.json, or a hub id")
    add("--text", metavar="FILE|REPO", help="where the code is; default: there too")
    add("-o", "--out", type=Path, metavar="SPEC", help="default: standard output")
    add("--force", action="store_true", help="write over an existing file")
    add("--json", action="store_true", help="what was compared, for machines")
    add_hub(parser)


def _configs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


COMMANDS: tuple[Command, ...] = (
    Command(
        "compile",
        "glmc.command.commands:compile_command",
        "turn a model description into a package",
        "examples:\n"
        "  glmc compile config.json -o build/\n"
        "  glmc compile THUDM/chatglm3-6b -o build/ --strict --verify-passes\n"
        "  glmc compile chatglm3-6b -o build/           a built-in config\n"
        "  glmc compile folder/ -o five/ --set num_layers=5\n"
        "  glmc compile folder/ -o build/ --target cpu\n"
        "  glmc compile folder/ -o build/ --aot cuda:80,cuda:90\n",
        _compile,
    ),
    Command(
        "inspect",
        "glmc.command.commands:inspect_command",
        "show a build: sizes, stages, IR, fusion ledger",
        "examples:\n"
        "  glmc inspect build/\n"
        "  glmc inspect build/ --stage lowered\n"
        "  glmc inspect build/ --diff lowered merge-qkv\n"
        "  glmc inspect build/ --upstream ctx\n"
        "  glmc inspect build/ --trace model.py:24\n"
        "  glmc inspect build/ --ledger --json\n"
        "  glmc inspect build/ --cost h200 --batch 4 --context 8192\n"
        "  glmc inspect THUDM/chatglm3-6b\n",
        _inspect,
    ),
    Command(
        "explain",
        "glmc.look.explaining:explain_command",
        "explain a pass, an op, a config key or an error's code",
        "examples:\n"
        "  glmc explain add-rms-norm\n"
        "  glmc explain qkv_attention\n"
        "  glmc explain rope_ratio\n"
        "  glmc explain GLMC012\n",
        _explain,
    ),
    Command(
        "report",
        "glmc.report.command:report_command",
        "write a page that shows a build: graph, stages, ledger, weights, code",
        "examples:\n"
        "  glmc report build/ -o report.html\n"
        "  glmc report build/ other/            two builds, and what differs\n"
        "  glmc report build/ --svg layer --stage lowered -o layer.svg\n"
        "  glmc report build/ --mermaid head\n",
        _report,
    ),
    Command(
        "check",
        "glmc.prove.checking:check_command",
        "account for every tensor of a checkpoint, from headers alone",
        "examples:\n"
        "  glmc check build/ --weights CHECKPOINT\n"
        "  glmc check zai-org/GLM-4-9B-0414      on the hub, nothing is downloaded\n\n"
        "exit code 0 when every tensor is bound or waived, else 2\n",
        _check,
    ),
    Command(
        "verify",
        "glmc.prove.verifying:verify_command",
        "compare a build with transformers, layer by layer",
        "examples:\n"
        "  glmc verify build/ --weights CHECKPOINT\n"
        "  glmc verify build/ --weights CHECKPOINT --save golden.safetensors\n"
        "  glmc verify build/ --weights CHECKPOINT --against golden.safetensors\n"
        "  glmc verify build/ --weights CHECKPOINT --against-text modeling_x.py\n\n"
        "exit code 0 when all differences are within the tolerance, 1 when one is\n"
        "not, 2 when they cannot be compared\n",
        _verify,
    ),
    Command(
        "read",
        "glmc.prove.texts.command:read_command",
        "read published modeling code as text, and find a spec equal to it",
        "examples:\n"
        "  glmc read FOLDER -o my.yaml\n"
        "  glmc read ORG/NAME --text modeling_x.py\n\n"
        "Nothing of the code is run. Ends in a spec with what was compared, or in a\n"
        "sentence that names the file and the line, or the stage.\n",
        _read,
    ),
    Command(
        "bisect",
        "glmc.prove.bisecting:bisect_command",
        "name the layer, the op and the pass that make a build differ",
        "examples:\n"
        "  glmc bisect build/ --weights CHECKPOINT\n"
        "  glmc bisect build/ --weights CHECKPOINT --against golden.safetensors\n\n"
        "exit code 0 when nothing differs, 1 with a culprit, 2 for a user's mistake\n",
        _bisect,
    ),
    Command(
        "ir",
        "glmc.compile.dumps:ir_command",
        "read an IR dump, verify it, run passes on it, print it",
        "examples:\n"
        "  glmc ir build/ir/1-lowered.glmc --passes merge-qkv,act-mul\n"
        "  glmc ir build/ir/0-model.glmc --pipeline -o fused.glmc\n"
        "  glmc compile --from-ir build/ir/1-lowered.glmc -o plain/\n\n"
        "The ledger of the passes goes to stderr.\n",
        _ir,
    ),
    Command(
        "run",
        "glmc.use.running:run_command",
        "generate with a build, from text or token ids",
        "examples:\n"
        '  glmc run build/ --weights CHECKPOINT --prompt "今天天气真好"\n'
        "  glmc run build/ --weights CHECKPOINT --prompt-ids 64790,64792,30910 \\\n"
        "      --max-new-tokens 32 --temperature 0.8 --top-p 0.8 --seed 7\n",
        _run,
    ),
    Command(
        "chat",
        "glmc.use.chat:chat_command",
        "talk to a model, with its own chat template",
        "example:\n"
        "  glmc chat build/ --weights CHECKPOINT --system 'Answer in verse.'\n\n"
        "In a pipe, each line is a message. Commands: /clear /undo /help /exit\n",
        _chat,
    ),
    Command(
        "tune",
        "glmc.use.tuning:tune_command",
        "measure launch parameters on this GPU, into the build",
        "example:\n  glmc tune build/ --weights CHECKPOINT --dtype bfloat16\n\n"
        "Writes tuning.json; deleting it brings the defaults back.\n",
        _tune,
    ),
    Command(
        "pack",
        "glmc.use.keeping:pack_command",
        "write weights as the C++ reads them, for quick starts",
        "example:\n  glmc pack build/ --weights CHECKPOINT --dtype bfloat16\n\n"
        "Writes BUILD/packed/; load(..., pack_cache=True) maps what lies there.\n",
        _pack,
    ),
    Command(
        "quantize",
        "glmc.command.commands:quantize_command",
        "write a float checkpoint in int8 or int4",
        "example:\n  glmc quantize CHECKPOINT -o qwen3-8b-int4/ --bits 4 --group 32\n\n"
        "In compressed-tensors' pack-quantized format, which vLLM and transformers\n"
        "read too; a ChatGLM with its own code in that code's format. Piece by piece,\n"
        "to safetensors; the tokenizer is copied, code is not.\n",
        _quantize,
    ),
    Command(
        "export",
        "glmc.use.exporting:export_command",
        "write a repository that transformers loads, or a wheel",
        "examples:\n"
        "  glmc export build/ --weights CHECKPOINT -o my-model\n"
        "  glmc export build/ --wheel -o dist/\n\n"
        "The repository loads with trust_remote_code=True in a process without glmc:\n"
        "config.json names the build's own module. Weights are linked or copied.\n",
        _export,
    ),
    Command(
        "configs",
        "glmc.command.commands:configs_command",
        "list the built-in configs, which need no download",
        "example:\n  glmc configs && glmc compile chatglm3-6b -o build/\n",
        _configs,
    ),
)
