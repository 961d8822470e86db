"""The references that a build is compared with: a model of transformers, or a file of
its numbers.

The one place where transformers is imported, and only when it is asked for. Code that
comes with a checkpoint is not run here either.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glmc.files.replacing import write_file
from glmc.ir.errors import ForeignBuildError, GoldenFileError, NoReferenceError
from glmc.prove.comparing import Answer, Scenario, answer, first

_PROMPT = ("input_ids", "attention_mask", "position_ids", "decode_ids")


def load_transformers(
    weights: str, dtype: str, device: str, revision: str | None = None
) -> Any:
    """Load the checkpoint with transformers: eager attention, none of the checkpoint's
    own code.

    Raises:
        GlmcError: when transformers is not installed or has no such model.
    """
    try:
        import transformers
    except ImportError:
        raise NoReferenceError(
            "--against transformers: the package transformers is not installed; "
            "`pip install transformers`, or hold the build against a file of golden "
            "numbers with --against golden.safetensors."
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights,
            attn_implementation="eager",
            dtype=getattr(torch, dtype),
            revision=revision or "main",
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise NoReferenceError(
            f"--against transformers: it cannot load {weights} ({reason}). glmc never "
            "runs code that comes with a model; where transformers has no code of its "
            "own for it, hold the build against numbers of the published code, with "
            "--against golden.safetensors. --save cannot make that file: it keeps what "
            "transformers gave. docs/verify.md says what is in it."
        ) from None
    return model.eval().to(device)


def layers_of(model: nn.Module, numbers: Sequence[int]) -> dict[int, nn.Module]:
    """Map the build's layers to the layers of a model of transformers that end as they
    do.

    Args:
        model: the model.
        numbers: what each layer of the build is called in the checkpoint. One of
            transformers that became several ends with the last of them; one that has
            no number does nothing in this model, and is left out.

    Raises:
        GlmcError: when it has no list of that many layers.
    """
    last = {number: at for at, number in enumerate(numbers)}
    count = max(last) + 1
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    for found in lists:
        left_out = len(last) < count <= len(found)
        if len(found) == count or left_out:
            return {last[n]: layer for n, layer in enumerate(found) if n in last}
    sizes = ", ".join(str(len(found)) for found in lists)
    raise ForeignBuildError(
        f"the build has {count} layers, and the checkpoint's model has lists of "
        f"{sizes or 'none'}; was the build compiled with --set num_layers? Compile it "
        "from the checkpoint's own config."
    )


def answers(
    model: nn.Module, numbers: Sequence[int], given: Sequence[Scenario]
) -> Iterator[tuple[Scenario, Answer]]:
    """Yield the answers of a model of transformers.

    Rotary modules of a dynamic scaling keep the longest length they have seen; each
    scenario gets fresh ones.
    """
    layers = layers_of(model, numbers)
    pristine = {
        name: copy.deepcopy(module)
        for name, module in model.named_modules()
        if hasattr(module, "max_seq_len_cached")
    }
    for one in given:
        for name, module in pristine.items():
            model.set_submodule(name, copy.deepcopy(module))
        yield one, answer(model, layers.items(), first, one)


def read_golden(path: Path) -> list[tuple[Scenario, Answer]]:
    """Read the scenarios and answers of a file; see docs/verify.md for its tensors.

    Raises:
        GlmcError: when it cannot be read or lacks a tensor.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise GoldenFileError(
            f"--against {path}: this is neither the word transformers nor a "
            f"safetensors file that can be read ({error})."
        ) from None
    names = sorted(name.removesuffix(".input_ids") for name in tensors
                   if name.endswith(".input_ids"))  # fmt: skip
    if not names:
        raise GoldenFileError(
            f"--against {path}: it holds no tensor NAME.input_ids, so there is nothing "
            "to run; write such a file with: glmc verify ... --save FILE"
        )
    return [_scenario(path, name, tensors) for name in names]


def _scenario(
    path: Path, name: str, tensors: dict[str, torch.Tensor]
) -> tuple[Scenario, Answer]:
    ids = tensors[f"{name}.input_ids"]
    more, logits = tensors.get(f"{name}.decode_ids"), tensors.get(f"{name}.logits")
    if ids.ndim != 2 or logits is None:
        raise GoldenFileError(
            f"--against {path}: {name} needs input_ids [B,P] and logits [B,P,V]."
        )
    more = ids[:, :0] if more is None else more.reshape(len(ids), -1)
    given = Scenario(
        name,
        ids,
        more,
        tensors.get(f"{name}.attention_mask"),
        tensors.get(f"{name}.position_ids"),
    )
    found: dict[str, torch.Tensor] = {}
    hidden = tensors.get(f"{name}.hidden")
    if hidden is not None:
        layers = tensors.get(f"{name}.layers", torch.arange(len(hidden)))
        if layers.shape != hidden.shape[:1]:
            raise GoldenFileError(
                f"--against {path}: {name}.layers has the shape {list(layers.shape)}, "
                f"and names the {len(hidden)} layers that {name}.hidden holds."
            )
        found = {
            f"layer {at}": one for at, one in zip(layers.tolist(), hidden, strict=True)
        }
    after = tensors.get(f"{name}.decode_logits")
    if after is None:
        given = replace(given, more=ids[:, :0])
    else:
        logits = torch.cat([logits, after.reshape(len(ids), -1, logits.shape[-1])], 1)
    return given, found | {"logits": logits}


def write_golden(path: Path, found: Sequence[tuple[Scenario, Answer]]) -> None:
    """Save scenarios and answers as :func:`read_golden` reads them."""
    from safetensors.torch import save

    write_file(path, save(golden_tensors(found)))


def golden_tensors(
    found: Sequence[tuple[Scenario, Answer]],
) -> dict[str, torch.Tensor]:
    """Return scenarios and answers as the tensors of a golden file."""
    tensors: dict[str, torch.Tensor] = {}
    for given, got in found:
        prompt = given.ids.shape[1]
        parts = zip(_PROMPT, (given.ids, given.mask, given.positions, given.more),
                    strict=True)  # fmt: skip
        tensors |= {f"{given.name}.{k}": v for k, v in parts if v is not None}
        hidden = {name: value for name, value in got.items() if name != "logits"}
        if hidden:
            layers = [int(name.removeprefix("layer ")) for name in hidden]
            tensors[f"{given.name}.layers"] = torch.tensor(layers)
            tensors[f"{given.name}.hidden"] = torch.stack(list(hidden.values()))
        tensors[f"{given.name}.logits"] = got["logits"][:, :prompt]
        tensors[f"{given.name}.decode_logits"] = got["logits"][:, prompt:]
    return {name: value.contiguous() for name, value in tensors.items()}
