"""Small configs of every family, in the dialects the hub has."""

from __future__ import annotations

from typing import Any

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

FAMILIES = {
    "bert": BERT,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "glm": GLM,
    "glm4": GLM4,
    "gpt2": GPT2,
    "chatglm": CHATGLM,
    "chatglm_v1": CHATGLM1,
}
