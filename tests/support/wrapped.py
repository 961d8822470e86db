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

EARS: Config = {
    "num_mel_bins": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_size": 32,
    "max_source_positions": 8,
}

EYES: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_CLIP: Config = {**EYES, "model_type": "clip_vision_model", "projection_dim": 32}
SIGLIP: Config = {**EYES, "model_type": "siglip_vision_model"}
PATCHES: Config = {
    "depth": 1,
    "hidden_size": 64,
    "embed_dim": 16,
    "num_heads": 2,
    "intermediate_size": 16,
    "out_hidden_size": 64,
    "mlp_ratio": 2,
}
LLAMA: Config = {**RMS, "model_type": "llama"}
QWEN2: Config = {**RMS, "model_type": "qwen2"}
# Composites of transformers 5 leave out the factor of the logits that the text model
# has, so it is 1 here.
_COHERE2: Config = {
    **DENSE["cohere2"],
    "model_type": "cohere2",
    "logit_scale": 1.0,
}
THREE: Config = {
    **RMS,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 3, 3],
    },
}
_LLAVA: Config = {
    "text_config": LLAMA,
    "vision_config": _CLIP,
    "image_token_index": 100,
}
_TILES: Config = {"image_grid_pinpoints": [[28, 56]]}

FAMILIES: Mapping[str, Config] = {
    "aya_vision": {
        "text_config": _COHERE2,
        "vision_config": SIGLIP,
        "image_token_index": 100,
    },
    "audioflamingo3": {
        "text_config": QWEN2,
        "audio_config": EARS,
        "audio_token_id": 100,
    },
    "cohere2_vision": {
        "text_config": _COHERE2,
        "vision_config": SIGLIP,
        "image_token_id": 100,
        "alignment_intermediate_size": 48,
    },
    "deepseek_vl": {"text_config": LLAMA, "vision_config": SIGLIP},
    "idefics3": {
        "text_config": LLAMA,
        "vision_config": EYES,
        "image_token_id": 100,
    },
    "internvl": {
        "text_config": QWEN2,
        "vision_config": {
            **EYES,
            "model_type": "internvl_vision",
            "image_size": [28, 28],
            "patch_size": [14, 14],
        },
        "image_token_id": 100,
        "tie_word_embeddings": False,
    },
    "janus": {
        "text_config": LLAMA,
        "vision_config": {**EYES, "depth": 1},
        "vq_config": {
            "base_channels": 32,
            "num_embeddings": 16,
            "embed_dim": 4,
            "latent_channels": 4,
            "num_res_blocks": 1,
            "channel_multiplier": [1, 1],
            "num_patches": 2,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
    },
    "lighton_ocr": {
        "text_config": {**RMS, "model_type": "qwen3", "head_dim": 32},
        "vision_config": {**EYES, "model_type": "pixtral"},
        "image_token_id": 100,
    },
    "llava": _LLAVA,
    "llava_next": {**_LLAVA, **_TILES},
    "llava_next_video": {**_LLAVA, **_TILES},
    "llava_onevision": {
        "text_config": QWEN2,
        "vision_config": SIGLIP,
        "image_token_index": 100,
        **_TILES,
    },
    "ovis2": {
        "text_config": QWEN2,
        "vision_config": {
            **EYES,
            "vocab_size": 64,
            "num_visual_indicator_tokens": 5,
        },
        "image_token_id": 100,
        "visual_indicator_token_ids": [101, 102, 103, 104, 105],
    },
    "qwen2_5_vl": {"text_config": THREE, "vision_config": PATCHES},
    "qwen2_audio": {
        "text_config": QWEN2,
        "audio_config": {
            "num_mel_bins": 8,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 32,
            "max_source_positions": 8,
        },
        "audio_token_index": 100,
    },
    "qwen2_vl": {"text_config": THREE, "vision_config": PATCHES},
    "smolvlm": {
        "text_config": LLAMA,
        "vision_config": EYES,
        "image_token_id": 100,
    },
    "video_llava": {**_LLAVA, "video_token_index": 101},
    "vipllava": {**_LLAVA, "vision_feature_layers": [0]},
    "voxtral": {
        "text_config": {**LLAMA, "head_dim": 32},
        "audio_config": EARS,
        "audio_token_id": 24,
    },
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
        "audio_config": EARS,
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
    "aya_vision": "AyaVisionForConditionalGeneration",
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
    "cohere2_vision": "Cohere2VisionForConditionalGeneration",
    "deepseek_vl": "DeepseekVLForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "janus": "JanusForConditionalGeneration",
    "lighton_ocr": "LightOnOcrForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_next_video": "LlavaNextVideoForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "ovis2": "Ovis2ForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "video_llava": "VideoLlavaForConditionalGeneration",
    "vipllava": "VipLlavaForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
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
