"""Small configs of every family, in the dialects the hub has."""

from __future__ import annotations

from typing import Any

from support import (
    carried,
    composites,
    further,
    latest,
    mixed,
    mixers,
    published,
    streams,
    told,
    wrapped,
)

Config = dict[str, Any]

LLAMA: Config = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
}
MISTRAL: Config = LLAMA | {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
}
QWEN2: Config = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3: Config = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
GLM: Config = LLAMA | {"model_type": "glm", "architectures": ["GlmForCausalLM"]}
GLM4: Config = LLAMA | {"model_type": "glm4", "architectures": ["Glm4ForCausalLM"]}
MOE: Config = LLAMA | {
    "hidden_act": "silu",
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "num_nextn_predict_layers": 1,
}
GLM4_MOE: Config = MOE | {
    "model_type": "glm4_moe",
    "architectures": ["Glm4MoeForCausalLM"],
    "head_dim": 16,
}
GLM4_MOE_LITE: Config = MOE | {
    "model_type": "glm4_moe_lite",
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "kv_lora_rank": 32,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
GLM_MOE_DSA: Config = GLM4_MOE_LITE | {
    "model_type": "glm_moe_dsa",
    "architectures": ["GlmMoeDsaForCausalLM"],
    "index_head_dim": 16,
    "index_n_heads": 4,
    "index_topk": 6,
}
GLM4V: Config = LLAMA | {
    "model_type": "glm4v",
    "architectures": ["Glm4vForConditionalGeneration"],
    "image_token_id": 101,
    "partial_rotary_factor": 0.5,
    "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
    "vision_config": {"depth": 1},
}
GLM4V_MOE: Config = GLM4_MOE | {
    "model_type": "glm4v_moe",
    "architectures": ["Glm4vMoeForConditionalGeneration"],
    "vision_config": {"depth": 1},
}
GPT2: Config = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "n_ctx": 64,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 3,
    "n_positions": 64,
    "summary_type": "cls_index",
    "vocab_size": 128,
}
CHATGLM: Config = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "eos_token_id": 2,
    "ffn_hidden_size": 96,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 3,
    "original_rope": True,
    "pad_token_id": 0,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.27.1",
    "use_cache": True,
}
CHATGLM1: Config = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "bos_token_id": 130004,
    "hidden_size": 64,
    "inner_hidden_size": 256,
    "max_sequence_length": 2048,
    "num_attention_heads": 4,
    "num_layers": 3,
    "position_encoding_2d": True,
    "vocab_size": 130528,
}
BERT: Config = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 128,
}
MODERNBERT: Config = {
    "model_type": "modernbert",
    "architectures": ["ModernBertModel"],
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "local_attention": 8,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "position_embedding_type": "absolute",
}
# GPT-2's dialect, in which nomic-embed-text was published.
NOMIC_BERT: Config = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "causal": False,
    "fused_bias_fc": True,
    "layer_norm_epsilon": 1e-12,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "n_embd": 64,
    "n_head": 4,
    "n_inner": 96,
    "n_layer": 3,
    "n_positions": 256,
    "pad_vocab_size_multiple": 64,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 256,
}
ROBERTA: Config = BERT | {"model_type": "roberta", "architectures": ["RobertaModel"]}
DISTILBERT: Config = {
    "model_type": "distilbert",
    "architectures": ["DistilBertModel"],
    "dim": 64,
    "hidden_dim": 96,
    "n_heads": 4,
    "n_layers": 3,
    "vocab_size": 128,
}

FAMILIES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA
    | {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]},
    "camembert": ROBERTA
    | {"model_type": "camembert", "architectures": ["CamembertModel"]},
    "electra": BERT
    | {
        "model_type": "electra",
        "architectures": ["ElectraModel"],
        "embedding_size": 64,
    },
    "distilbert": DISTILBERT,
    "mpnet": BERT | {"model_type": "mpnet", "architectures": ["MPNetModel"]},
    "eurobert": LLAMA | {"model_type": "eurobert", "architectures": ["EuroBertModel"]},
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC_BERT,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "glm": GLM,
    "glm4": GLM4,
    "glm4_moe": GLM4_MOE,
    "glm4_moe_lite": GLM4_MOE_LITE,
    "glm_moe_dsa": GLM_MOE_DSA,
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V_MOE,
    "gpt2": GPT2,
    "chatglm": CHATGLM,
    "chatglm_v1": CHATGLM1,
    **{family: published.published(family) for family in published.CLASSES},
    **published.COMPOSITES,
    **{family: mixed.published(family) for family in mixed.CLASSES},
    **{family: further.published(family) for family in further.CLASSES},
    **{family: carried.published(family) for family in carried.CLASSES},
    **{family: wrapped.published(family) for family in wrapped.CLASSES},
    **{family: latest.published(family) for family in latest.CLASSES},
    **{family: mixers.published(family) for family in mixers.CLASSES},
    **composites.PUBLISHED,
    **{family: streams.published(family) for family in streams.CLASSES},
    **{name: told.config_of(name) for name in ("bailing_moe", "deepseek")},
    **{name: told.config_of(name) for name in ("exaone", "grok-1")},
    "mimo": QWEN2
    | {
        "model_type": "mimo",
        "architectures": ["MiMoForCausalLM"],
        "num_nextn_predict_layers": 1,
    },
    "orion": LLAMA | {"model_type": "orion", "architectures": ["OrionForCausalLM"]},
    "xverse": LLAMA | {"model_type": "xverse", "architectures": ["XverseForCausalLM"]},
    "qianfan_ocr": {
        "model_type": "qianfan_ocr",
        "architectures": ["QianfanOCRForConditionalGeneration"],
        "text_config": QWEN3,
    },
}
