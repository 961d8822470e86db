"""``glmc verify --against-text``: compare a build with its model's published code."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmc.frontends.build.source import resolve_source
from glmc.frontends.code.sources import find_text
from glmc.ir.errors import OptionsDisagreeError
from glmc.look.builds import Build
from glmc.prove import references
from glmc.prove.comparing import Answer, Scenario
from glmc.prove.texts.job import Job, run
from glmc.shell.options import hub_of
from glmc.use.running import token_ids


def text_reference(
    arguments: argparse.Namespace, model: Any
) -> Iterator[tuple[Scenario, Answer]]:
    """Yield the scenarios and the answers of the text of ``--against-text``, in
    float32.

    Raises:
        GlmcError: with file and line, where the text cannot be read; also where it ran
            over its budget, or its tensors are not those of the weights.
    """
    if arguments.against != "transformers":
        raise OptionsDisagreeError(
            "--against and --against-text name two references; choose one."
        )
    hub = hub_of(arguments)
    source = resolve_source(arguments.weights, hub)
    config = source.read_config()
    text = find_text(arguments.against_text, config, hub)
    arguments.against = f"the text {text.file}.py"
    job = Job(
        text,
        [{**config, "torch_dtype": "float32", "dtype": "float32"}],
        str(source.folder),
        list(Build(arguments.build).program.numbers),
        model.vocab_size,
        token_ids(arguments.prompt_ids) if arguments.prompt_ids else (),
    ).sized(sum(one.numel() for one in model.parameters()))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.safetensors"
        run(job, out)
        yield from references.read_golden(out)
