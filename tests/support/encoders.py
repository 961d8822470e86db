"""Tiny encoders that transformers writes, and what transformers answers on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from support import tiny

TOLERANCE = 5e-5
TOKENS, TYPES, POSITIONS = 19, 3, 24
BASE: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": TYPES,
    "layer_norm_eps": 2e-2,  # large, so that a wrong one shows
}
Tensors = dict[str, torch.Tensor]
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Encoder:
    """A class of transformers, config values, arguments of the class, and options of
    the compilation; ``reader`` is the class that answers, where it is another, and
    ``types`` whether it has token types."""

    name: str
    cls: str = "BertModel"
    values: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    reader: str | None = None
    config: str = "BertConfig"
    types: bool = True
    whole: bool = True
    """False where padded places answer otherwise: they see padding in their windows."""

    def __str__(self) -> str:
        return self.name


PAD = 1
_BARE: Mapping[str, Any] = {"add_pooling_layer": False}
# Positions begin after the padding's.
_COUNTED: dict[str, Any] = {
    "max_position_embeddings": POSITIONS + PAD + 1,
    "pad_token_id": PAD,
}
_DISTILLED: Mapping[str, Any] = {
    "dim": 64,
    "hidden_dim": 96,
    "n_layers": 3,
    "n_heads": 4,
}
_OF_ALL = ("vocab_size", "max_position_embeddings")
_HEADS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("-masked-lm", "ForMaskedLM", {"tie_word_embeddings": True}),
    ("-untied", "ForMaskedLM", {"tie_word_embeddings": False}),
)
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": PAD,
}
_FAR_APART: Mapping[str, Any] = {**_SIZES, **_COUNTED, "layer_norm_eps": 2e-2}
_NEAR: Mapping[str, Any] = {
    **_SIZES,
    "norm_eps": 2e-2,
    "local_attention": 8,
    "cls_token_id": 3,
    "sep_token_id": 4,
}
_LLAMA: Mapping[str, Any] = {
    **_SIZES,
    "num_key_value_heads": 2,
    "rms_norm_eps": 2e-2,
    "mask_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": 5,
}
ENCODERS = (
    Encoder("gelu"),
    Encoder("gelu_new", values={"hidden_act": "gelu_new"}),
    Encoder("relu", values={"hidden_act": "relu"}),
    Encoder("one-layer", values={"num_hidden_layers": 1, "num_attention_heads": 1}),
    Encoder("no-pooler", arguments=_BARE, options={"variant": "no-pooler"}),
    Encoder("pretraining", "BertForPreTraining", reader="BertModel"),
    Encoder("masked-lm", "BertForMaskedLM"),
    Encoder("masked-lm-untied", "BertForMaskedLM", {"tie_word_embeddings": False}),
    Encoder(
        "headless",
        "BertForMaskedLM",
        arguments={},
        options={"variant": "no-pooler"},
        reader="BertModel",
    ),
    *(
        Encoder(f"{name}{case}", f"{cls}{kind}", _COUNTED | more, config=f"{cls}Config")
        for name, cls in (
            ("roberta", "Roberta"),
            ("xlm-roberta", "XLMRoberta"),
            ("camembert", "Camembert"),
        )
        for case, kind, more in (
            ("", "Model", {}),
            ("-masked-lm", "ForMaskedLM", {"hidden_act": "relu"}),
            ("-untied", "ForMaskedLM", {"tie_word_embeddings": False}),
        )
    ),
    Encoder(
        "roberta-no-pooler",
        "RobertaModel",
        _COUNTED,
        arguments=_BARE,
        options={"variant": "no-pooler"},
        config="RobertaConfig",
    ),
    Encoder(
        "roberta-headless",
        "RobertaForMaskedLM",
        _COUNTED,
        options={"variant": "no-pooler"},
        reader="RobertaModel",
        config="RobertaConfig",
    ),
    Encoder("electra", "ElectraModel", {"embedding_size": 64}, config="ElectraConfig"),
    Encoder(
        "electra-pretraining",
        "ElectraForPreTraining",
        {"embedding_size": 64, "hidden_act": "relu"},
        reader="ElectraModel",
        config="ElectraConfig",
    ),
    *(
        Encoder(
            f"distilbert{case}",
            f"DistilBert{kind}",
            {**_DISTILLED, **more},
            config="DistilBertConfig",
            types=False,
        )
        for case, kind, more in (
            ("", "Model", {}),
            ("-relu", "ForMaskedLM", {"activation": "relu"}),
            ("-untied", "ForMaskedLM", {"tie_word_embeddings": False}),
        )
    ),
    *(
        Encoder(
            f"{name}{case}",
            f"{cls}{kind}",
            {**values, **more},
            config=f"{cls}Config",
            types=name == "nomic_bert",
            whole=name != "modernbert",
        )
        for name, cls, values, cases in (
            ("mpnet", "MPNet", _FAR_APART, (("", "Model", {}), *_HEADS)),
            ("modernbert", "ModernBert", _NEAR, (("", "Model", {}), *_HEADS)),
            ("eurobert", "EuroBert", _LLAMA, (("", "Model", {}), *_HEADS)),
            ("nomic_bert", "NomicBert", {}, (("", "Model", {}), *_HEADS)),
        )
        for case, kind, more in cases
    ),
)
_CLASSES = {"num_labels": 5}
ENCODERS += tuple(
    Encoder(
        f"{name}-classes",
        f"{cls}ForSequenceClassification",
        {**_CLASSES, **values},
        config=f"{cls}Config",
        types=name in ("bert", "roberta", "xlm-roberta", "electra"),
        whole=name != "modernbert",
    )
    for name, cls, values in (
        ("bert", "Bert", {}),
        ("roberta", "Roberta", _COUNTED),
        ("xlm-roberta", "XLMRoberta", _COUNTED | {"num_labels": 1}),
        ("electra", "Electra", {"embedding_size": 64}),
        ("distilbert", "DistilBert", _DISTILLED),
        ("mpnet", "MPNet", _FAR_APART),
        ("modernbert", "ModernBert", _NEAR),
    )
)
BY_NAME = {str(encoder): encoder for encoder in ENCODERS}


def inputs() -> dict[str, Inputs]:
    """The calls that are compared, by name; each is a model's keyword arguments."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 128, (3, TOKENS), generator=generator)
    types = torch.randint(0, TYPES, ids.shape, generator=generator)
    right, left, holes = (torch.ones_like(ids) for _ in range(3))
    right[0, 11:], right[2, 1:] = 0, 0
    left[1, :7] = 0
    holes[0, 3], holes[2, 5:9] = 0, 0
    first, last = ids.clone(), ids.clone()
    first[1, :7], last[0, 11:], last[2, 1:] = PAD, PAD, PAD
    longest = torch.randint(3, 128, (1, POSITIONS), generator=generator)
    return {
        "plain": {"input_ids": ids},
        "padded on the right": {"input_ids": ids, "attention_mask": right},
        "padded on the left": {"input_ids": ids, "attention_mask": left},
        "ids of padding on the left": {"input_ids": first, "attention_mask": left},
        "ids of padding on the right": {"input_ids": last, "attention_mask": right},
        "ids of padding that is seen": {"input_ids": first},
        "holes": {"input_ids": ids, "attention_mask": holes},
        "types": {
            "input_ids": ids,
            "attention_mask": right,
            "token_type_ids": types,
        },
        "positions": {
            "input_ids": ids,
            "position_ids": torch.arange(TOKENS).flip(0)[None],
        },
        "one token": {"input_ids": ids[:1, :1]},
        "longest": {"input_ids": longest},
    }


def make(encoder: Encoder, folder: Path, *, seed: int = 0) -> None:
    """Write the checkpoint of ``encoder``; every tensor is random."""
    torch.manual_seed(seed)
    base = BASE if encoder.types else {key: BASE[key] for key in _OF_ALL}
    config = getattr(transformers, encoder.config)(**{**base, **encoder.values})
    model = getattr(transformers, encoder.cls)(config, **encoder.arguments)
    tiny.randomise(model, seed)
    model.tie_weights()
    model.save_pretrained(folder)


def read(encoder: Encoder, checkpoint: Path) -> Any:
    """The model as transformers reads it back: eager attention, fp32, on the CPU."""
    cls = getattr(transformers, encoder.reader or encoder.cls)
    arguments = _BARE if encoder.options else {}
    model = cls.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32, **arguments
    )
    return model.eval()


def answers(model: Any, call: Inputs) -> Tensors:
    """Return what either side answers, by field."""
    with torch.no_grad():
        out = model(**call)
    fields = ("last_hidden_state", "pooler_output", "logits")
    found = {name: getattr(out, name, None) for name in fields}
    return {name: value for name, value in found.items() if value is not None}


def write_reference(encoder: Encoder, checkpoint: Path, file: Path) -> None:
    """Save transformers' answers to every call."""
    model = read(encoder, checkpoint)
    found = {
        f"{name}/{part}": value.contiguous()
        for name, call in inputs().items()
        for part, value in answers(model, call).items()
    }
    save_file(found, file)


def reference(file: Path, name: str) -> Tensors:
    """The answers to one call."""
    kept = load_file(file)
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}


def worst(got: Tensors, want: Tensors, mask: torch.Tensor | None = None) -> float:
    """The largest absolute difference; at padded places too, as transformers attends
    from there like from everywhere, or where `mask` is 1."""
    assert got.keys() == want.keys()
    apart = [(got[name] - want[name]).abs() for name in want]
    if mask is not None:
        # What is answered for a row is made of its first token.
        apart = [
            one[mask == 1] if one.shape[:2] == mask.shape else one[mask[:, 0] == 1]
            for one in apart
        ]
    return max(one.max().item() for one in apart)
