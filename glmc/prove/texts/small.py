"""A small model: its folder, random weights, the text's answers; trials of specs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glmc.authoring.showing import section
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir.errors import GlmcError, UnknownKeyError
from glmc.ir.lower import lower
from glmc.prove.comparing import Scenario, difference
from glmc.prove.probing import Stage, execute
from glmc.prove.texts.shrinking import Sizes
from glmc.prove.texts.surveys import silence

Tree = dict[str, Any]
"""A spec as YAML has it."""

_NO_TRIAL = float("inf")


@dataclass
class Small:
    """A small config with weights, and what the text answers for it."""

    folder: Path
    config: dict[str, Any]
    sizes: Sizes
    survey: Mapping[str, Any]
    tensors: dict[str, torch.Tensor]
    answers: dict[str, list[tuple[Scenario, torch.Tensor]]] = field(
        default_factory=dict
    )
    """Stage to scenarios and logits."""

    def differences(self, tree: Tree, stage: str, silenced: Sequence[str]) -> float:
        """Return the distance of a spec from the text in a stage; inf where it cannot
        be run."""
        try:
            executor = self._executor(tree, list(silenced))
            return max(
                difference(
                    torch.cat(list(execute(executor, given)), 1)[real], want[real]
                )
                for given, want in self.answers[stage]
                for real in (given.real,)
            )
        except (GlmcError, RuntimeError, ValueError, IndexError, KeyError):
            return _NO_TRIAL

    def known(self) -> str | None:
        """Return the spec that glmc has for the type of this config, whatever its
        keys."""
        source = resolve_source(str(self.folder))
        try:
            try:
                return load_model(source).spec
            except UnknownKeyError as error:
                return load_model(source, ignore_keys=error.keys).spec
        except GlmcError:
            return None

    def unknown(self, tree: Tree) -> tuple[str, ...]:
        """Return the config keys that a spec says nothing about."""
        try:
            load_model(resolve_source(str(self.folder)), spec_path=self._write(tree))
        except UnknownKeyError as error:
            return error.keys
        return ()

    def _executor(self, tree: Tree, silenced: list[str]) -> Stage:
        source, path = resolve_source(str(self.folder)), self._write(tree)
        loaded = load_model(source, spec_path=path, ignore_keys=self.unknown(tree))
        return Stage(lower(loaded.model), silence(self.tensors, silenced))

    def _write(self, tree: Tree) -> Path:
        path = self.folder / "candidate.yaml"
        path.write_text(spec_text(tree), encoding="utf-8")
        return path


def spec_text(tree: Tree) -> str:
    """Write a spec's tree as the lines of its file."""
    parts = ["\n".join(section(key, value)) for key, value in tree.items()]
    return "\n".join(parts) + "\n"


def make_small(
    folder: Path,
    config: dict[str, Any],
    sizes: Sizes,
    survey: Mapping[str, Any],
    which: int,
) -> Small:
    """Write a small checkpoint with random weights; the second's embedding is faint.

    A faint hidden state is one in which the epsilon of a norm shows.
    """
    generator = torch.Generator().manual_seed(11 + which)
    tensors = dict(_random(survey["tensors"], generator, sizes, which))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return Small(folder, config, sizes, survey, tensors)


def _random(
    found: Mapping[str, Any], generator: torch.Generator, sizes: Sizes, which: int
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, about in found.items():
        shape = about["shape"]
        noise = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            yield name, 0.25 * noise + (1.0 if about["ones"] else 0.0)
        elif shape[0] == sizes.vocab and "embed" in name:
            yield name, (0.004 if which else 0.5) * noise
        else:
            yield name, noise / math.sqrt(min(shape[-2:]))
