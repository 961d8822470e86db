"""Tiny composites whose text model is another family's, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import FAMILIES as DENSE
from support.dense import RMS

Config = Mapping[str, Any]

_EARS: Config = {
    "num_mel_bins": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_size": 32,
    "max_source_positions": 8,
}

FAMILIES: Mapping[str, Config] = {
    "emu3": {
        "text_config": {**RMS, "model_type": "emu3_text_model"},
        "vocabulary_map": {"<image>": 5},
        "vq_config": {
            "codebook_size": 16,
            "embed_dim": 4,
            "base_channels": 32,
            "num_res_blocks": 1,
            "channel_multiplier": [1, 1],
            "attn_resolutions": [1],
        },
    },
    "fuyu": {
        "text_config": {**DENSE["persimmon"], "model_type": "persimmon"},
        "patch_size": 4,
    },
    "got_ocr2": {
        "text_config": {**RMS, "model_type": "qwen2"},
        "vision_config": {
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [0],
            "mlp_dim": 48,
        },
    },
    "moss_transcribe_diarize": {
        "text_config": {**RMS, "model_type": "qwen3", "head_dim": 32},
        "audio_config": _EARS,
    },
    "phi4_multimodal": {
        **RMS,
        "sliding_window": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
        },
        "audio_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
            "input_size": 16,
        },
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    family: {"text": {}} for family in FAMILIES
}

CLASSES: Mapping[str, str] = {
    "emu3": "Emu3ForConditionalGeneration",
    "fuyu": "FuyuForCausalLM",
    "got_ocr2": "GotOcr2ForConditionalGeneration",
    "moss_transcribe_diarize": "MossTranscribeDiarizeForConditionalGeneration",
    "phi4_multimodal": "Phi4MultimodalForCausalLM",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
