"""Configs of the dense families as the hub has them: with model_type and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import FAMILIES, RMS, Config

UNVERIFIED: Mapping[str, Config] = {
    "baichuan": {k: v for k, v in RMS.items() if k != "num_key_value_heads"},
    "qwen": {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 192,
        "kv_channels": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "seq_length": 64,
    },
    "internlm": RMS,
    "internlm2": RMS,
    "minicpm": {
        **RMS,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 16,
    },
    "minicpmv": {**RMS, "version": 2.6, "use_sliding_window": False},
}

CLASSES: Mapping[str, str] = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "vaultgemma": "VaultGemmaForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt_neox_japanese": "GPTNeoXJapaneseForCausalLM",
    "gptj": "GPTJForCausalLM",
    "codegen": "CodeGenForCausalLM",
    "gpt_neo": "GPTNeoForCausalLM",
    "gpt_bigcode": "GPTBigCodeForCausalLM",
    "falcon": "FalconForCausalLM",
    "bloom": "BloomForCausalLM",
    "mpt": "MptForCausalLM",
    "opt": "OPTForCausalLM",
    "biogpt": "BioGptForCausalLM",
    "xglm": "XGLMForCausalLM",
    "openai-gpt": "OpenAIGPTLMHeadModel",
    "ctrl": "CTRLLMHeadModel",
    "nemotron": "NemotronForCausalLM",
    "arcee": "ArceeForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "ministral": "MinistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "cwm": "CwmForCausalLM",
    "helium": "HeliumForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM",
    "bitnet": "BitNetForCausalLM",
    "apertus": "ApertusForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "iquestcoder": "IQuestCoderForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "jais2": "Jais2ForCausalLM",
    "persimmon": "PersimmonForCausalLM",
    "nanochat": "NanoChatForCausalLM",
    "hyperclovax": "HyperCLOVAXForCausalLM",
    "granite_swa": "GraniteSWAForCausalLM",
    "baichuan": "BaichuanForCausalLM",
    "qwen": "QWenLMHeadModel",
    "internlm": "InternLMForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "minicpm": "MiniCPMForCausalLM",
    "minicpmv": "MiniCPMV",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    # The config class of GPT-Neo makes the long form of the short one.
    more = {"attention_layers": ["global", "local"] * 2} if family == "gpt_neo" else {}
    values = FAMILIES.get(family) or UNVERIFIED[family]
    return {**values, **more, **head, "torch_dtype": "bfloat16"}


COMPOSITES: Mapping[str, Config] = {
    "gemma3": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "mm_tokens_per_image": 256,
        "text_config": {**FAMILIES["gemma3_text"], "model_type": "gemma3_text"},
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 32},
    },
    "internvl_chat": {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "llm_config": {**RMS, "model_type": "internlm2"},
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 32},
    },
    "mistral3": {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "text_config": {**RMS, "model_type": "mistral"},
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 32},
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {**RMS, "model_type": "qwen3_vl_text", "dtype": "bfloat16"},
        "vision_config": {"hidden_size": 32},
    },
}
