"""Answers of transformers, eager and in fp32: the numbers that parity is held to.

Each scenario starts from a copy of the model as it was loaded, because dynamic rope
keeps state between calls.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from support.tiny import auto_class

PROMPT, STEPS, FAR = 18, 6, 16_500
PADDING = (5, 0)

Tensors = dict[str, torch.Tensor]


def reference(
    checkpoint: Path,
    *,
    far: bool,
    counted: bool = True,
    attention: str = "eager",
    steps: bool = True,
) -> Tensors:
    """Logits of a prompt, of decoding, of a left-padded batch and of far positions.

    Keys: `ids` [1,S], `prompt` [1,S,V], `decode` [1,STEPS,V] (the ids after the first
    PROMPT fed one at a time), `padded.ids`, `padded.mask`, `padded.positions`
    [2,S], `padded` [2,S,V] (the first PROMPT at once, then one at a time), and with
    `far` also `far.positions` [1,S] and `far` [1,S,V]. What is not `counted` is given
    positions. Without `steps`, `decode` is the end of `prompt`: test_tiny.py shows that
    the two are the same.
    """

    loaded = load(checkpoint, attention)

    # What a model notes from call to call is copied, its weights and config are not.
    kept = [*loaded.parameters(), loaded.config, loaded.generation_config]

    def model() -> Any:
        return copy.deepcopy(loaded, {id(one): one for one in kept})

    vocab = loaded.config.get_text_config().vocab_size
    ids = _ids(1, vocab, seed=1)
    out = {"ids": ids, "prompt": _logits(model(), ids)}
    out["decode"] = out["prompt"][:, PROMPT:].clone()
    if steps:
        out["decode"] = decoded(model(), ids, counted)
    padded = padded_batch(vocab)
    out |= {f"padded.{name}": value for name, value in vars(padded).items()}
    out["padded"] = cached(model(), padded.ids, padded.mask, padded.positions)
    if far:
        positions = torch.arange(FAR, FAR + PROMPT + STEPS)[None]
        out["far.positions"] = positions
        out["far"] = _logits(model(), ids, position_ids=positions)
    return out


def decoded(model: Any, ids: torch.Tensor, counted: bool) -> torch.Tensor:
    """Logits [1,STEPS,V] of the ids after the first PROMPT, one at a time."""
    places = None if counted else torch.arange(PROMPT + STEPS)[None]
    return cached(model, ids, positions=places)[:, PROMPT:]


def generated(checkpoint: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The prompts continued greedily by STEPS tokens, [B,<=P+STEPS]."""
    model, options = load(checkpoint), {"max_new_tokens": STEPS, "do_sample": False}
    tokens: torch.Tensor = model.generate(ids, attention_mask=mask, **options)
    return tokens


@dataclass(frozen=True)
class Batch:
    """Token ids, attention mask and position ids of a padded batch, each [B,S]."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def padded_batch(vocab: int) -> Batch:
    """Two rows, the first with padding on its left."""
    ids = _ids(len(PADDING), vocab, seed=2)
    mask = torch.ones_like(ids)
    for row, padding in enumerate(PADDING):
        mask[row, :padding] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Batch(ids * mask, mask, positions)


def cached(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits [B,S,V] of a prompt of PROMPT tokens and then one token at a time.

    The calls are those that users of transformers write, so `model` is either side.
    """
    cache, chunks = None, []
    cuts = [0, *range(PROMPT, ids.shape[1] + 1)]
    for start, stop in itertools.pairwise(cuts):
        extra: dict[str, Any] = {}
        if mask is not None:
            extra["attention_mask"] = mask[:, :stop]
        # A model of transformers without a cache (GPT-1) is given everything again.
        first = start if cache is not None else 0
        if positions is not None:
            extra["position_ids"] = positions[:, first:stop]
        if start == 0 or cache is not None:
            extra |= {"past_key_values": cache, "use_cache": True}
        with torch.no_grad():
            out = model(input_ids=ids[:, first:stop], **extra)
        cache = getattr(out, "past_key_values", None)
        chunks.append(out.logits[:, start - first :])
    return torch.cat(chunks, dim=1)


# They will not answer without an image; their text models do.
_ALWAYS_SEE = ("blip-2", "instructblip", "instructblipvideo")


def load(checkpoint: Path, attention: str = "eager") -> Any:
    """The model as transformers reads it back: fp32, on the CPU."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    model = auto_class(config).from_pretrained(
        checkpoint, attn_implementation=attention, dtype=torch.float32
    )
    sees = config.model_type in _ALWAYS_SEE
    return (model.language_model if sees else model).eval()


def write(
    checkpoint: Path,
    file: Path,
    *,
    far: bool,
    counted: bool = True,
    attention: str = "eager",
    steps: bool = True,
) -> None:
    """Save the reference of `checkpoint` to `file`."""
    found = reference(
        checkpoint, far=far, counted=counted, attention=attention, steps=steps
    )
    tensors = {k: v.contiguous() for k, v in found.items()}
    save_file(tensors, file)


def read(file: Path) -> Tensors:
    """The tensors that `write` saved."""
    return load_file(file)


def _ids(rows: int, vocab: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (rows, PROMPT + STEPS), generator=generator)


def _logits(model: Any, ids: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **more).logits
    return logits
