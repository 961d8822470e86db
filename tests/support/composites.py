"""More tiny composites whose text model is another family's, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants; ``CLASSES``
its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import FAMILIES as DENSE
from support.dense import RMS
from support.mixers import FAMILIES as MIXERS
from support.wrapped import (
    EARS,
    EYES,
    LLAMA,
    PATCHES,
    QWEN2,
    SIGLIP,
    THREE,
)
from support.wrapped import (
    FAMILIES as WRAPPED,
)

Config = Mapping[str, Any]

_QWEN3: Config = {**RMS, "model_type": "qwen3", "head_dim": 32}
# transformers 5 leaves out the factor of the logits that the text model has.
_SPEECH: Config = {
    "text_config": {**RMS, "model_type": "granite", "logits_scaling": 1.0},
    "encoder_config": {
        "num_layers": 1,
        "hidden_dim": 16,
        "num_heads": 2,
        "input_dim": 16,
        "dim_head": 8,
    },
    "projector_config": {
        "model_type": "blip_2_qformer",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "encoder_hidden_size": 16,
    },
    "has_lora_adapter": False,
}
_SCANS: Config = {
    "text_config": {**MIXERS["qwen3_5_text"], "model_type": "qwen3_5_text"},
    "vision_config": EYES,
}
_GLM: Config = {
    "text_config": {
        **{k: v for k, v in THREE.items() if k != "model_type"},
        "model_type": "glm4v_text",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        },
    },
    "vision_config": {**PATCHES, "image_size": 28},
}
_QFORMER: Config = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "encoder_hidden_size": 32,
}
_INSTRUCT: Config = {
    "text_config": LLAMA,
    "vision_config": EYES,
    "qformer_config": _QFORMER,
    "num_query_tokens": 2,
}
_MULTIPLIERS: Config = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.2,
}
# transformers 5 saves these experts stacked, and published ones are separate.
GLM46V_EXPERTS: Config = {
    **_GLM,
    "text_config": {
        **_GLM["text_config"],
        "model_type": "glm4v_moe_text",
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "head_dim": 16,
    },
}

FAMILIES: Mapping[str, Config] = {
    "aria": {
        "text_config": {
            **RMS,
            "model_type": "aria_text",
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
        },
        "vision_config": {**EYES, "model_type": "idefics3_vision"},
        "projector_patch_to_query_dict": {4: 2, 16: 2},
        "image_token_index": 100,
    },
    "blip-2": {
        "text_config": {**DENSE["opt"], "model_type": "opt"},
        "vision_config": EYES,
        "qformer_config": _QFORMER,
        "num_query_tokens": 2,
        "image_token_index": 100,
    },
    "deepseek_vl_hybrid": {
        "text_config": LLAMA,
        "vision_config": SIGLIP,
        "high_res_vision_config": {
            **WRAPPED["got_ocr2"]["vision_config"],
            "model_type": "sam_vision_model",
        },
    },
    "exaone4_5": {
        "text_config": {**DENSE["exaone4"], "model_type": "exaone4"},
        "vision_config": PATCHES,
    },
    # Published files have eyes of timm's, a package of its own.
    "fast_vlm": {
        "text_config": QWEN2,
        "vision_config": SIGLIP,
        "image_token_index": 100,
    },
    "glm46v": _GLM,
    "glm_ocr": {
        "text_config": {**THREE, "model_type": "glm_ocr_text"},
        "vision_config": PATCHES,
    },
    "glmga": _GLM,
    "glmasr": {"text_config": LLAMA, "audio_config": EARS},
    "granite_docling": {
        "text_config": {**RMS, **_MULTIPLIERS, "model_type": "granite_docling_text"},
        "vision_config": {**EYES, "out_hidden_size": 64},
        "image_token_id": 100,
    },
    "granite_speech": _SPEECH,
    "granite_speech_plus": _SPEECH,
    "hyperclovax_vision_v2": {
        "text_config": {**RMS, "model_type": "hyperclovax"},
        "vision_config": PATCHES,
    },
    "idefics2": {
        "text_config": {**RMS, "model_type": "mistral", "sliding_window": None},
        "vision_config": EYES,
        "perceiver_config": {
            "hidden_size": 64,
            "resampler_n_latents": 2,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        "image_token_id": 100,
    },
    "instructblip": {**_INSTRUCT, "image_token_index": 100},
    "instructblipvideo": {**_INSTRUCT, "video_token_index": 100},
    "lfm3_vl": {
        "text_config": {**MIXERS["lfm3"], "model_type": "lfm3"},
        "vision_config": EYES,
        "image_token_id": 100,
    },
    "lfm2_vl": {
        "text_config": {**MIXERS["lfm2"], "model_type": "lfm2"},
        "vision_config": {
            **EYES,
            "model_type": "siglip2_vision_model",
            "num_patches": 4,
        },
        "image_token_id": 100,
    },
    "minicpm_ocr": _SCANS,
    "minicpmv4_6": _SCANS,
    "minicpmv4_7": _SCANS,
    "paddleocr_vl": {
        "text_config": {**THREE, "model_type": "paddleocr_vl_text", "head_dim": 16},
        "vision_config": EYES,
    },
    "paligemma": {
        "text_config": {**DENSE["gemma"], "model_type": "gemma"},
        "vision_config": SIGLIP,
        "image_token_id": 100,
        "projection_dim": 64,
    },
    "pp_chart2table": {
        "text_config": QWEN2,
        "vision_config": WRAPPED["got_ocr2"]["vision_config"],
    },
    "qwen3_asr": {
        "text_config": _QWEN3,
        "audio_config": {
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 32,
            "output_dim": 64,
            "downsample_hidden_size": 16,
        },
    },
    "video_llama_3": {
        "text_config": QWEN2,
        "vision_config": EYES,
        "image_token_id": 100,
        "video_token_id": 101,
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    family: {"text": {}} for family in FAMILIES
}

CLASSES: Mapping[str, str] = {
    "blip-2": "Blip2ForConditionalGeneration",
    "fast_vlm": "FastVlmForConditionalGeneration",
    "glm_ocr": "GlmOcrForConditionalGeneration",
    "granite_docling": "GraniteDoclingForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
    "instructblipvideo": "InstructBlipVideoForConditionalGeneration",
    "lfm3_vl": "Lfm3VlForConditionalGeneration",
    "paddleocr_vl": "PaddleOCRVLForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "aria": "AriaForConditionalGeneration",
    "deepseek_vl_hybrid": "DeepseekVLHybridForConditionalGeneration",
    "exaone4_5": "Exaone4_5_ForConditionalGeneration",
    "glm46v": "Glm46VForConditionalGeneration",
    "glmga": "Glm46VForConditionalGeneration",
    "glmasr": "GlmAsrForConditionalGeneration",
    "granite_speech": "GraniteSpeechForConditionalGeneration",
    "granite_speech_plus": "GraniteSpeechPlusForConditionalGeneration",
    "hyperclovax_vision_v2": "HyperCLOVAXVisionV2ForConditionalGeneration",
    "idefics2": "Idefics2ForConditionalGeneration",
    "lfm2_vl": "Lfm2VlForConditionalGeneration",
    "minicpm_ocr": "MiniCPMOcrForConditionalGeneration",
    "minicpmv4_6": "MiniCPMV4_6ForConditionalGeneration",
    "minicpmv4_7": "MiniCPMV4_7ForConditionalGeneration",
    "pp_chart2table": "GotOcr2ForConditionalGeneration",
    "qwen3_asr": "Qwen3ASRForConditionalGeneration",
    "video_llama_3": "VideoLlama3ForConditionalGeneration",
}


# Families whose positions beyond the longest learned one mean nothing.
NEAR = frozenset({"blip-2"})

# Types that have the spec of another of these.
ALIKE = frozenset(
    {
        *("glmga", "granite_speech_plus", "minicpmv4_7", "minicpm_ocr"),
        *("instructblipvideo", "pp_chart2table"),
    }
)


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}


PUBLISHED: Mapping[str, dict[str, Any]] = {
    **{family: published(family) for family in FAMILIES if family not in ALIKE},
    "glm46v_moe": {**published("glm46v"), **GLM46V_EXPERTS},
}
"""Spec to a config of it, as the hub has it."""
