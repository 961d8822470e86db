"""``glmc export``: a build with its weights as a repository that transformers loads, or
a build as a wheel."""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glmc.backends.emit import literal
from glmc.backends.package import hub_class, siblings, title
from glmc.backends.runtime.accounting import Account
from glmc.backends.runtime.drift import COMPILED, drift
from glmc.backends.runtime.folders import (
    CheckpointHeaders,
    FolderFiles,
    refuse_adapter,
    refuse_outside,
)
from glmc.backends.templates import environment
from glmc.compile.accounting import account
from glmc.compile.checkpoints import read_headers, told
from glmc.files.replacing import new_folder, refuse_taken
from glmc.frontends.read.json_text import parse_json_object
from glmc.ir.errors import (
    CheckpointMismatchError,
    ConfigDriftError,
    NotExportableError,
    OptionsDisagreeError,
)
from glmc.look.builds import Build
from glmc.use.wheel import write_wheel
from glmc.version import __version__

MODULE = "modeling_build"
COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*.jsonl", "*LICENSE*", "NOTICE*")
"""Files that come along beside the weights. No code."""
_WRITTEN = ("config.json", "tokenizer_config.json", "README.md")
_AUTO = {
    "BuildForCausalLM": "AutoModelForCausalLM",
    "BuildForMaskedLM": "AutoModelForMaskedLM",
    "BuildForSequenceClassification": "AutoModelForSequenceClassification",
    "BuildModel": "AutoModel",
}


def export_command(arguments: argparse.Namespace) -> int:
    """Run ``glmc export``."""
    build = Build(arguments.build)
    if arguments.wheel:
        if arguments.weights:
            raise OptionsDisagreeError(
                "--wheel packs the code of a build, and weights are no part of it;"
                " leave out one of --wheel and --weights"
            )
        file = write_wheel(build, arguments.out or Path("dist"))
        facts = {"wheel": str(file), "bytes": file.stat().st_size}
        said = f"wheel: {file}; see: pip install {file}"
    else:
        if not (arguments.weights and arguments.out):
            raise OptionsDisagreeError(
                "a repository needs --weights CHECKPOINT and -o REPOSITORY; for the"
                " code alone there is --wheel"
            )
        facts = write_repository(
            build, arguments.weights, arguments.out, copy=arguments.copy
        )
        said = (
            f"repository: {arguments.out}, {facts['tensors']} tensors accounted for;"
            f" {facts['auto']}.from_pretrained loads it with trust_remote_code=True"
        )
    print(json.dumps(facts, indent=2) if arguments.json else said)
    return 0


def write_repository(
    build: Build, weights: str, out: Path, *, copy: bool = False
) -> dict[str, Any]:
    """Write a folder that transformers loads with ``trust_remote_code=True``.

    Args:
        build: the build.
        weights: a folder of its checkpoint, or a hub id.
        out: a folder that does not exist; it appears whole.
        copy: copy the weights; else they are hard links where the system allows.

    Returns:
        What was written, as plain data.

    Raises:
        GlmcError: when the checkpoint is not one of the build, or the build holds what
            transformers does not take along.
    """
    refuse_taken(out)
    plan = Plan(build, _folder(weights))
    plan.check()
    with new_folder(out) as draft:
        for name, text in plan.files(out.resolve().name).items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        for path in plan.brought():
            _bring(path, draft / path.relative_to(plan.folder), copy=copy)
    return {
        "repository": str(out),
        "auto": plan.auto,
        "tensors": len(plan.headers.tensors),
        "code": sorted(plan.code),
    }


def _folder(weights: str) -> Path:
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    from glmc.backends.runtime.loading import find_folder

    with told():
        return find_folder(weights)


def _bring(path: Path, place: Path, *, copy: bool) -> None:
    """Link or copy a file; a link of the hub's cache stands for what it points to."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(path.resolve(), place)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copyfile(path, place)


@dataclass(frozen=True)
class Plan:
    """The plan of a repository: a build, and a folder with its checkpoint."""

    build: Build
    folder: Path

    @cached_property
    def headers(self) -> CheckpointHeaders:
        """The tensors of the checkpoint."""
        return read_headers(self.folder)

    @cached_property
    def accounted(self) -> Account:
        """The account of every tensor."""
        return account(self.build.model, self.build.program, self.headers.tensors)

    @cached_property
    def name(self) -> str:
        """The class of the model in hf.py."""
        return hub_class(self.build.model)["name"]

    @property
    def auto(self) -> str:
        """The auto class of transformers that loads it."""
        return _AUTO[self.name]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config beside the weights, or else the one that was compiled."""
        path = self.folder / "config.json"
        if path.is_file():
            return dict(parse_json_object(path.read_bytes(), str(path), finite=False))
        return dict(self.build.manifest["config"])

    def check(self) -> None:
        """Refuse a checkpoint that is not one of the build, and a build that
        transformers cannot take along.

        Raises:
            GlmcError: saying what does not fit.
        """
        if not self.accounted.ok:
            one = self.accounted
            bad = [*one.missing, *one.wrong, *one.unused]
            raise CheckpointMismatchError(
                f"{self.folder} is not a checkpoint of {self.build.path}: {len(bad)}"
                f" tensors do not fit, the first is {bad[0]}. {one.fault or ''}"
                " See: glmc check"
            )
        with told():
            files = FolderFiles(self.folder)
            refuse_adapter(files, strict=True)
            if self.build.compiled is not None:
                other = drift(self.build.compiled, files)
                if other.changed:
                    raise ConfigDriftError(other.refusal())
        if "hf.py" not in self.build.manifest["files"]:
            raise NotExportableError(
                f"{self.build.path} has no hf.py: it is of an older glmc, or dealt to"
                " several ranks. Compile it again, for one."
            )
        nested = [n for n in self.build.manifest["files"] if n.startswith("own/")]
        if nested:
            raise NotExportableError(
                f"{self.build.path} has kernels of yours in {nested[0]}, and"
                " transformers takes along no folders of code. Use --wheel, or compile"
                " without --kernel."
            )

    @cached_property
    def code(self) -> dict[str, str]:
        """The files of the build, but those in folders and those of a package."""
        return {
            name: self.build.source(name)
            for name in self.build.manifest["files"]
            if name.endswith(".py") and "/" not in name and not name.startswith("__")
        }

    def travelling(self) -> list[str]:
        """List the modules that transformers would leave behind: from hf.py on it takes
        those that something is imported from, but not one imported whole (``from .
        import weights``) or by name when it is needed."""
        reached: set[str] = set()
        waiting = ["hf"]
        while waiting:
            name = waiting.pop()
            if f"{name}.py" in self.code and name not in reached:
                reached.add(name)
                waiting += siblings(self.code[f"{name}.py"], whole=False)
        every = {name.removesuffix(".py") for name in self.code}
        return sorted(every - reached)

    def files(self, name: str) -> dict[str, str]:
        """Return the texts of the repository: code, config, model card."""
        view = {
            "title": title(self.build.model),
            "name": self.name,
            "kind": literal(self.config.get("model_type", self.build.model.name)),
            "sizes": [*self._sizes()],
            "travelling": self.travelling(),
        }
        env = environment()
        made = env.get_template("modeling_build.py.j2").render(view)
        auto_map = {
            "AutoConfig": f"{MODULE}.BuildConfig",
            self.auto: f"{MODULE}.{self.name}",
        }
        config = self.config | {"auto_map": auto_map, "architectures": [self.auto]}
        code = {n: _without_missing(text, self.code) for n, text in self.code.items()}
        texts = {**code, f"{MODULE}.py": made, "config.json": _json(config)}
        if self.build.compiled is not None:
            texts[COMPILED] = self.build.source(COMPILED)
        if tokenizer := self._tokenizer():
            texts["tokenizer_config.json"] = _json(tokenizer)
        card = env.get_template("card.md.j2").render(self._card(name))
        return texts | {"README.md": card}

    def _sizes(self) -> Iterator[str]:
        model = self.build.model
        yield f"vocab_size = {model.vocab}"
        yield f"hidden_size = {model.hidden}"
        yield f"num_hidden_layers = {model.layers}"
        if model.max_positions is not None:
            yield f"max_position_embeddings = {model.max_positions}"
        if not (model.is_encoder or model.scores) and model.tokens.eos:
            eos = model.tokens.eos
            yield f"eos_token_id = {eos[0] if len(eos) == 1 else [*eos]}"
        if model.tokens.pad is not None:
            yield f"pad_token_id = {model.tokens.pad}"

    def _tokenizer(self) -> dict[str, Any]:
        """Return tokenizer_config.json without the code that it names."""
        path = self.folder / "tokenizer_config.json"
        if not path.is_file():
            return {}
        said = dict(parse_json_object(path.read_bytes(), str(path), finite=False))
        said.pop("auto_map", None)
        return said

    def _card(self, name: str) -> dict[str, Any]:
        model, found = self.build.model, self.accounted
        manifest = self.build.manifest
        bytes_ = sum((self.folder / file).stat().st_size for file in self.headers.files)
        size = f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e7 else f"{bytes_:,} bytes"
        waived = sum(map(len, found.waived.values()))
        readable = (self.folder / "tokenizer.json").is_file()
        facts = [
            ("spec", f"`{manifest['spec']}`" if manifest["spec"] else "from a dump"),
            ("config", f"all {len(manifest['config_keys'])} keys read, off or declared"
             " irrelevant"),
            ("weights", f"{len(found.bound)} tensors bound and {waived} waived, by"
             f" name, shape and dtype; {size} in {len(self.headers.files)} files"),
            ("target", f"`{self.build.target.name}`"),
        ]  # fmt: skip
        return {
            "header": _header(model.is_encoder, self.folder),
            "name": name,
            "title": title(model),
            "version": __version__,
            "auto": self.auto,
            "tokenizer": readable,
            "decodes": not (model.is_encoder or model.scores),
            "needs": _needs(self.build),
            "facts": facts,
            "waived": [(len(names), why) for why, names in found.waived.items()],
        }

    def brought(self) -> Iterator[Path]:
        """Yield the files that come as they are: weights, index, tokenizer, licence."""
        found = {self.folder / file for file in self.headers.files}
        for pattern in (*COPIED, "additional_chat_templates/*.jinja"):
            found |= {*self.folder.glob(pattern)}
        for path in sorted(found):
            name = path.relative_to(self.folder).as_posix()
            if name not in (*_WRITTEN, COMPILED) and path.is_file():
                with told():
                    refuse_outside(self.folder, path, name)
                yield path


_FOR_TYPES = re.compile(r"^ +from \.(\w+) import .+$", re.MULTILINE)


def _without_missing(text: str, code: Mapping[str, str]) -> str:
    """Return a file without imports for type checkers of files that are not there:
    transformers looks for all that a text names."""

    def kept(found: re.Match[str]) -> str:
        there = f"{found[1]}.py" in code
        return found[0] if there else f"    # {found[0].strip()}, which is not here."

    cut = _FOR_TYPES.sub(kept, text)
    empty = re.compile(r"^(if TYPE_CHECKING:\n)((?:    #.*\n)+)(?!    )", re.MULTILINE)
    return empty.sub(r"\1\2    pass\n", cut)


def _header(encodes: bool, folder: Path) -> Sequence[str]:
    task = "feature-extraction" if encodes else "text-generation"
    found = [
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags: [glmc, custom_code]",
    ]
    if any(folder.glob("*LICENSE*")):
        found.append("license: other")
    return found


def _needs(build: Build) -> str:
    kernels = "kernels.py" in build.manifest["files"]
    more = ", and triton, which its kernels for GPUs import" if kernels else ""
    return f"torch, safetensors and transformers 5{more}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
