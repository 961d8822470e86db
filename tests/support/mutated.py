"""Wrong versions of transformers' own modeling files, and who notices.

A text is read once, as `glmc read` does it; what it was found equal to must not be
taken for equal to any mutant of the text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from glmc.authoring.vocabulary import learn
from glmc.frontends.code.room import roomy
from glmc.frontends.code.text import Text
from glmc.frontends.spec.library import builtin_specs
from glmc.ir.errors import GlmcError
from glmc.prove.comparing import difference
from glmc.prove.references import read_golden
from glmc.prove.texts import child, options, reading
from glmc.prove.texts.job import Job
from glmc.prove.texts.reading import Reading
from glmc.prove.texts.small import make_small
from support import reference, texts, tiny
from support.variants import BY_NAME

TEXTS = ("llama-gqa", "qwen3-full", "gemma2-capped", "gemma3_text-two_ropes",
         "phi3-window", "mistral-window", "glm4-sandwich", "cohere-parallel",
         "olmo2-gqa", "starcoder2-biases", "granite-scaled", "gpt2-tied")  # fmt: skip
"""Variants, each of a modeling file of its own."""

Change = tuple[str, str]
"""A regular expression, and what is put for every match."""

_ADDED = r"attn_weights \+ attention_mask"
_HIDDEN = r"torch.full_like(attn_weights, -1e9).tril(attn_weights.shape[-1] - attn_we"
_HIDDEN += r"ights.shape[-2] - {0})"


def _window(length: int) -> Sequence[Change]:
    """Hide keys that lie so far back, whatever the config says."""
    hidden = _HIDDEN.format(length)
    return [(_ADDED, f"attn_weights + attention_mask + {hidden}")]


MUTATIONS: Mapping[str, Sequence[Change]] = {
    "eps": [(r"eps=config\.", "eps=1.1 * config.")],
    "scale": [(r"self\.scaling = (?=self\.head_dim|config\.)",
               "self.scaling = 1.001 * ")],
    "soft cap": [(_ADDED, "30 * torch.tanh(attn_weights / 30) + attention_mask")],
    "window literal": _window(40),
    "far window": _window(4096),
    "rotated half": [(r"([(\[])-x2, x1([)\]])", r"\1x2, -x1\2")],
    "norm offset": [(r"\(1\.0 \+ self\.weight", "(self.weight"),
                    (r"self\.weight(?=(\.to\(torch\.float32\))? \* hidden_states)",
                     "(1 + self.weight)")],
    "gate and up": [(r"self\.gate_proj\(x\)\) \* self\.up_proj\(x\)",
                     "self.up_proj(x)) * self.gate_proj(x)"),
                    (r"gate, up_states = ", "up_states, gate = ")],
    "head order": [(r"hidden_states\[:, :, None, :, :\]\.expand\(batch, "
                    r"num_key_value_heads, n_rep,",
                    "hidden_states[:, None].expand(batch, n_rep, "
                    "num_key_value_heads,"),
                   (r"attn_output\.reshape\(\*attn_output\.shape",
                    "attn_output.mT.reshape(*attn_output.shape")],
    "off by one": [(r"\) \+ past_seen_tokens", ") + max(past_seen_tokens - 1, 0)")],
    "tie": [(r"self\.lm_head\(hidden_states\)",
             "nn.functional.linear(hidden_states, self.model.embed_tokens.weight)")],
    "no tie": [(r"_tied_weights_keys = ", "_other_keys = ")],
    "dtype": [(r"self\.(norm|ln_f)\(hidden_states",
               r"self.\1(hidden_states.to(torch.bfloat16).float()")],
    "residual": [(r"\bresidual \+ ", "0.999 * residual + "),
                 (r"\+ residual\b", "+ 0.999 * residual")],
}  # fmt: skip
"""Wrong versions by name: the first expression that fits is what is changed."""


def mutant(text: Text, name: str, tied: bool) -> Text | None:
    """The text with one mutation; None where it has no place for it."""
    if name in ("tie", "no tie") and tied != (name == "no tie"):
        return None
    source = text.texts[text.file]
    for old, new in MUTATIONS[name]:
        changed, count = re.subn(old, new, source)
        if count:
            return replace(text, texts={**text.texts, text.file: changed})
    return None


def run_here(job: Job, out: Path) -> dict[str, Any]:
    """Do a job of reading in this process."""
    tensors = child.read_weights(job.weights) if job.weights else {}
    with out.open("wb") as file:
        return roomy(lambda: child.respond(job, tensors, file))


@dataclass(frozen=True)
class Original:
    """A text that was read, with the small models that it was proved on."""

    text: Text
    config: dict[str, Any]
    reading: Reading
    smalls: Sequence[Any]

    @property
    def tied(self) -> bool:
        """The head has no weight of its own."""
        return "lm_head.weight" not in self.smalls[0].tensors

    def refusal(self, changed: Text, folder: Path) -> str | None:
        """Say why a changed text is not this one; None: it is taken for it."""
        try:
            for small in self.smalls:
                if (worst := apart(changed, small)) > options.TOLERANCE:
                    return f"{worst:.1e} apart"
            read(changed, self.config, folder)
        except GlmcError as error:
            return str(error)
        return None


def read(text: Text, config: dict[str, Any], folder: Path) -> Original:
    """Read a text as `glmc read` does, and keep its small models."""
    kept: list[Any] = []
    small = make_small

    def keep(*given: Any) -> Any:
        kept.append(small(*given))
        return kept[-1]

    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "run", run_here)
        patch.setattr(reading, "make_small", keep)
        words = learn(builtin_specs())
        one = reading._Reader(text, config, words, folder, lambda line: None)
        return Original(text, config, one.read(), kept)


def original(name: str, folder: Path) -> Original:
    """Read the modeling file of a variant of the parity tests."""
    variant = BY_NAME[name]
    tiny.make(variant, folder / "checkpoint")
    model = reference.load(folder / "checkpoint", variant.attention)
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    return read(texts.text_of(model), config, folder / "read")


def apart(text: Text, small: Any) -> float:
    """Return how far a text is from the answers of a small model, as a whole."""
    (long,) = (one for one, _ in small.answers["whole"] if one.name == "whole long")
    longest = long.ids.shape[1] + long.more.shape[1]
    job = Job(
        text, [reading._plain(small.config)], vocab=small.sizes.vocab, kind="stages",
        stages={"whole": []}, longest=longest,
    )  # fmt: skip
    out = io.BytesIO()
    roomy(lambda: child.respond(job, small.tensors, out))
    file = small.folder / "mutant.safetensors"
    file.write_bytes(out.getvalue())
    got = {given.name: (given, answer["logits"]) for given, answer in read_golden(file)}
    return max(
        difference(got[given.name][1][given.real], want[given.real])
        for given, want in small.answers["whole"]
    )
