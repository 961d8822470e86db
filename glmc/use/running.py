"""``glmc run``, and what it shares with ``glmc chat``: a build with its weights.

With chat, the only commands that import torch.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from glmc.backends.target import Target
from glmc.files.manifest import read_manifest
from glmc.ir.errors import (
    ConfigDriftError,
    OptionValueError,
    TokenizerUnusableError,
    WeightsUnusableError,
    WeightValuesError,
)
from glmc.look.builds import Build
from glmc.use.ranks import on_every_rank, refusal


@on_every_rank
def run_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc run``."""
    tokenizer = load_tokenizer(arguments) if arguments.prompt is not None else None
    prompt = tokenizer.encode(arguments.prompt) if tokenizer else None
    prompt = prompt or token_ids(arguments.prompt_ids)
    model = load_model(arguments)
    try:
        ids = torch.tensor([prompt], device=model.device)
        options = sampling(arguments)
        stream = model.generate(ids, stream=True, tokenizer=tokenizer, **options)
        new: list[int] = []
        for text in _texts(_kept(stream, new), tokenizer):
            if not arguments.json:
                print(text, end="", flush=True)
    except (ValueError, RuntimeError) as error:
        raise refusal(error) from error
    said = (
        {"text": tokenizer.decode(new, skip_special_tokens=True)} if tokenizer else {}
    )
    print(json.dumps({"prompt": prompt, "new": new} | said) if arguments.json else "")
    return 0


def token_ids(text: str) -> list[int]:
    """Parse the ids of ``--prompt-ids``.

    Raises:
        GlmcError: when they are not numbers with commas between.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionValueError(
            f"--prompt-ids {text!r}: expected token ids such as 64790,64792,30910"
        ) from None


def _kept(stream: Iterator[Any], new: list[int]) -> Iterator[int]:
    for token in stream:
        new.append(int(token))
        yield new[-1]


def _texts(tokens: Iterator[int], tokenizer: Any) -> Iterator[str]:
    """Yield the printed form of tokens: text, or ids where there is no tokenizer."""
    if tokenizer is None:
        return (f"{token} " for token in tokens)
    pieces: Iterator[str] = tokenizer.stream()(tokens)
    return pieces


def usual_device(on: Target) -> str:
    """Choose a GPU where there is one and builds of the target have operations for
    it."""
    there = on.accelerator == "cuda" and torch.cuda.is_available()
    return "cuda" if there else "cpu"


def load_model(arguments: argparse.Namespace) -> Any:
    """Load the build's model with the weights of ``--weights``, on ``--device``.

    Raises:
        GlmcError: when the build is an encoder, the weights are not those of the build,
            or there is no such device or dtype.
    """
    on_disk = Build(arguments.build)
    on_disk.require_generation()
    device = arguments.device or usual_device(on_disk.target)
    return load_on(arguments, device)


def load_on(arguments: argparse.Namespace, device: str, **options: Any) -> Any:
    """Load the build's model on a device, with further options of its ``load``.

    Raises:
        GlmcError: when the weights are not those of the build, or there is no such
            device or dtype.
    """
    build = import_build(arguments.build)
    try:
        return build.load(
            arguments.weights,
            device=device,
            dtype=arguments.dtype,
            tuned=arguments.tuned,
            allow_config_drift=arguments.allow_config_drift,
            **hub_options(arguments),
            **options,
        )
    except (ValueError, RuntimeError) as error:
        if getattr(error, "kind", None) == "ranks":
            raise
        if getattr(error, "kind", None) == "config":
            raise ConfigDriftError(str(error)) from error
        if getattr(error, "kind", None) == "values":
            raise WeightValuesError(str(error)) from error
        raise WeightsUnusableError(str(error)) from error


def load_tokenizer(arguments: argparse.Namespace) -> Any:
    """Load the tokenizer of ``--tokenizer``, or else of the folder of the weights.

    Raises:
        GlmcError: when there is none, or it is of another model.
    """
    source = arguments.tokenizer or arguments.weights
    build = import_build(arguments.build)
    try:
        return build.load_tokenizer(
            source, variant=arguments.variant, **hub_options(arguments)
        )
    except ValueError as error:
        raise TokenizerUnusableError(str(error)) from error


def hub_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the hub arguments of ``from_pretrained``; older builds take no timeout."""
    known = {n: getattr(arguments, n) for n in ("revision", "endpoint", "offline")}
    return known | ({"timeout": arguments.timeout} if arguments.timeout else {})


def sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return length and sampling as ``model.generate`` takes them."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
    return {name: getattr(arguments, name) for name in names}


def import_build(path: Path) -> ModuleType:
    """Import a build from where it lies, whatever its folder is called.

    Raises:
        GlmcError: when the folder is no build.
    """
    read_manifest(path)
    name = f"glmc_build_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
