"""Controls: specs with one mistake in them, as data.

For each construct of the spec language one deliberate mistake, and a family whose
logits must then differ from transformers'.
"""

from __future__ import annotations

MISTAKES: tuple[tuple[str, str, str], ...] = (
    # variant, what the spec says instead, scenario that shows it
    # Norms
    ("gemma-mqa", "norm: {unit_offset: false}", "prompt"),
    ("nemotron-gqa", "norm: {unit_offset: false}", "prompt"),
    ("olmo-free", "norm: {kind: rms}", "prompt"),
    (
        "ctrl-sinusoids",
        "final_norm: {name: transformer.layernorm, eps: 1.0e-6}",
        "prompt",
    ),
    (
        "hunyuan_v1_dense-late_norms",
        "ops: {attn: {qk_norm: {after_rope: false}}}",
        "far",
    ),
    ("nanochat-weightless", "embed_norm: null", "prompt"),
    (
        "bitnet-sub_norms",
        "ops: {mlp: {sub_norm: {name: mlp.ffn_sub_norm, kind: layer}}}",
        "prompt",
    ),
    # Activations
    (
        "arcee-biases",
        "ops: {mlp: {act: relu}}\nignore: {hidden_act: planted}",
        "prompt",
    ),
    (
        "starcoder2-biases",
        "ops: {mlp: {act: gelu}}\nignore: {hidden_act: planted}",
        "prompt",
    ),
    (
        "apertus-xielu",
        "weights: {alpha_n: {name: mlp.act_fn.alpha_p}, "
        "alpha_p: {name: mlp.act_fn.alpha_n}}",
        "prompt",
    ),
    # Scalars
    ("gemma-mqa", "embed: {scale: null}", "prompt"),
    ("granite-scaled", "head: {scale: =c.logits_scaling}", "prompt"),
    (
        "granite-scaled",
        "ops: {attn: {scale: =D ** -0.5}}\nignore: {attention_multiplier: planted}",
        "prompt",
    ),
    ("gpt_neo-local", "ops: {attn: {scale: =D ** -0.5}}", "prompt"),
    (
        "gemma2-capped",
        "ops: {attn: {softcap: null}}\nignore: {attn_logit_softcapping: planted}",
        "decode",
    ),
    (
        "gemma2-capped",
        "head: {softcap: null}\nignore: {final_logit_softcapping: planted}",
        "prompt",
    ),
    (
        "olmo-clipped",
        "ops: {attn: {clip: null}}\nignore: {clip_qkv: planted}",
        "prompt",
    ),
    ("ministral3-grown_queries", "ops: {attn: {q_scale: {shift: 1}}}", "decode"),
    # Blocks
    (
        "phi-gqa",
        "block!: [{op: attn, pre: input_layernorm}, {op: mlp, pre: input_layernorm}]",
        "prompt",
    ),
    (
        "olmo2-gqa",
        "block!: [{op: attn, pre: post_attention_layernorm}, {op: "
        "mlp, pre: post_feedforward_layernorm}]",
        "prompt",
    ),
    (
        "openai-gpt-post_norm",
        "block!: [{op: attn, post: ln_1}, {op: mlp, post: ln_2}]",
        "prompt",
    ),
    (
        "granite-scaled",
        "block!: [{op: attn, pre: input_layernorm}, {op: mlp, pre: "
        "post_attention_layernorm}]\nignore: {residual_multiplier: "
        "planted}",
        "prompt",
    ),
    # Positions
    ("ernie4_5-biases", "ops: {attn: {rope: {style: half}}}", "prompt"),
    ("stablelm-series", "ops: {attn: {rope: {dim: =D}}}", "prompt"),
    ("nanochat-weightless", "ops: {attn: {rope: {reverse: false}}}", "decode"),
    ("smollm3-nope", "ops: {attn: {rope: {when: true}}}", "prompt"),
    (
        "gemma3_text-two_ropes",
        "ops: {attn: {rope: {params: \"=rope('full_attention')\"}}}",
        "far",
    ),
    (
        "opt-pre_norm",
        "weights: {positions: {layout: '[positions:P|padding:2] E'}}",
        "padded",
    ),
    ("xglm-sinusoids", "embed: {sinusoids: {offset: 0}}", "prompt"),
    ("ctrl-sinusoids", "embed: {sinusoids: {inclusive: true}}", "decode"),
    ("bloom-alibi", "ops: {attn: {alibi: {max_bias: 7}}}", "decode"),
    ("falcon-rw", "ops: {attn: {alibi: {scale: 1.0}}}", "padded"),
    (
        "gemma4_text-dense",
        "ops: {attn: {rope: {dim: '=width // 4 if whole else width', "
        "params: \"={'theta': 1000000.0} if whole else rope(reach)\"}}}",
        "prompt",
    ),
    # What layers hand to later ones
    (
        "gemma4_text-shared",
        "ops: {attn: {kv_from: '=null if source is null else source - 2'}}",
        "decode",
    ),
    ("gemma4_text-parts", "embed: {per_layer: {scale: 1.0}}", "prompt"),
    ("gemma4_text-parts", "embed: {per_layer: {project_scale: 1.0}}", "prompt"),
    ("gemma4_text-parts", "embed: {per_layer: {sum_scale: 1.0}}", "decode"),
    (
        "gemma4_text-parts",
        "embed: {per_layer: {norm: null}}\n"
        "waive: {'*per_layer_projection_norm*': planted}",
        "prompt",
    ),
    (
        "gemma4_text-parts",
        "weights: {layer_embed: {layout: 'Vp (Ep L)', "
        "name: model.embed_tokens_per_layer}}",
        "prompt",
    ),
    ("gemma4_text-parts", "ops: {part: {act: relu}}", "prompt"),
    (
        "gemma4_text-dense",
        "weights: {layer_scalar: null}\nwaive: {'*layer_scalar': planted}",
        "prompt",
    ),
    ("gemma4_text-dense", "ops: {attn: {v_norm: null}}", "prompt"),
    # What layers of one kind multiply by
    (
        "beam-factors",
        "per_layer: {sums: =2 * i + 3}",
        "prompt",
    ),
    ("beam-factors", "ops: {attn: {q_scale: {exponent: 0.2}}}", "far"),
    ("beam-factors", "ops: {attn: {q_scale: {when: false}}}", "prompt"),
    (
        "beam-factors",
        "ops: {attn: {gate: {head_bias: false}}}\nwaive: {'*.gate_bias': planted}",
        "prompt",
    ),
    # A mixture of attention heads
    (
        "jetmoe-heads",
        "weights: {attn_router: mlp.router.layer}\n"
        "waive: {'*experts.router.*': planted}",
        "prompt",
    ),
    (
        "jetmoe-heads",
        "weights: {o: {bias: false}}\nwaive: {'*experts.bias': planted}",
        "decode",
    ),
    ("jetmoe-heads", "weights: {xbias: null}\nwaive: {'*mlp.bias': planted}", "prompt"),
    # Several residual streams
    (
        "gemma3n_text-streams",
        "streams: {active: 1}\nignore: {altup_active_idx: planted}",
        "prompt",
    ),
    ("gemma3n_text-streams", "streams: {router_scale: 1.0}", "decode"),
    (
        "gemma3n_text-streams",
        "weights: {streams_gather: 'model.altup_projections.{x}'}\n"
        "waive: {'*altup_unembed*': planted}",
        "prompt",
    ),
    (
        "gemma3n_text-streams",
        "weights: {altup_scale: null}\nignore: {altup_correct_scale: planted}",
        "prompt",
    ),
    (
        "gemma3n_text-streams",
        "ops: {mlp: {sparsity: null}}\nignore: {activation_sparsity_pattern: planted}",
        "prompt",
    ),
    (
        "gemma3n_text-streams",
        "block!: [{op: attn, pre: input_layernorm, post: post_attention_layernorm}, "
        "{op: mlp, pre: pre_feedforward_layernorm, post: post_feedforward_layernorm}, "
        "{op: part, post: post_per_layer_input_norm, others: true}]\n"
        "waive: {'*laurel*': planted}\nignore: {laurel_rank: planted}",
        "prompt",
    ),
    (
        "gemma3n_text-streams",
        "ops: {laurel: {norm: null}}\nwaive: {'*laurel_norm*': planted}",
        "decode",
    ),
    # Windows
    ("cohere2-nope", "ops: {attn: {window: =c.sliding_window}}", "prompt"),
    (
        "granite_swa-sinks",
        "ops: {attn: {window: null}}\nignore: {sliding_window: planted}",
        "decode",
    ),
    # Layouts
    (
        "gpt_neox-parallel",
        "weights: {q+k+v: {layout: '[q:(H D)|k:(K D)|v:(K D)] E'}}",
        "prompt",
    ),
    (
        "codegen-four_parts",
        "weights: {q+k+v: {layout: '(M [q:(Hp D)|k:(Hp D)|v:(Hp D)]) E'}}",
        "prompt",
    ),
    ("falcon-40b", "weights: {q+k+v: {layout: '(K [k:D|v:D|q:(G D)]) E'}}", "prompt"),
    ("phi3-window", "weights: {gate+up: {layout: '[up:F|gate:F] E'}}", "prompt"),
    (
        "granitemoe-after",
        "weights: {xgate+xup: {layout: 'X [xup:Fx|xgate:Fx] E'}}",
        "prompt",
    ),
    # Experts
    ("mixtral-experts", "ops: {moe: {renormalise: false}}", "prompt"),
    (
        "qwen2_moe-gated",
        "ops: {moe: {shared: {gate: false}}}\nwaive: {'*_expert_gate*': planted}",
        "prompt",
    ),
    ("deepseek_v2-groups", "ops: {moe: {group_score: top2}}", "prompt"),
    ("deepseek_v3-groups", "ops: {moe: {group_score: max}}", "prompt"),
    ("granitemoe-after", "ops: {moe: {after: sigmoid}}", "prompt"),
    ("granitemoe-after", "ops: {moe: {score: softmax, after: null}}", "decode"),
    (
        "ernie4_5_moe-shared",
        "weights: {correction: null}\nwaive: {'*correction_bias': planted}",
        "prompt",
    ),
    (
        "ernie4_5_moe-shared",
        "ops: {moe: {least_sum: 2.0}}\nignore: {moe_norm_min: planted}",
        "decode",
    ),
    ("mistral4-grown_queries", "ops: {attn: {q_scale: {shift: 1}}}", "decode"),
    ("llama4_text-chunks", "ops: {moe: {weigh: output}}", "prompt"),
    (
        "gpt_oss-sinks",
        "ops: {moe: {glu: {alpha: 1.0}}}\nignore: {swiglu_alpha: planted}",
        "prompt",
    ),
    (
        "gpt_oss-sinks",
        "weights: {xgate+xup: {layout: 'X E [xgate:Fx|xup:Fx]'}}",
        "prompt",
    ),
    (
        "gpt_oss-sinks",
        "weights: {router: {bias: false}}\nwaive: {'*router.bias': planted}",
        "decode",
    ),
    (
        "cohere2_moe-average",
        "ops: {moe: {shared: {averaged: false}}}\nignore: "
        "{shared_expert_combination_strategy: planted}",
        "prompt",
    ),
    ("minimax_m2-corrected", "ops: {moe: {score: softmax}}", "padded"),
    (
        "laguna-capped",
        "ops: {moe: {softcap: null}}\nignore: {moe_router_logit_softcapping: planted}",
        "prompt",
    ),
    (
        "phimoe-mixed",
        "ops: {moe: {jitter: 0.01}}\nignore: {router_jitter_noise: planted}",
        "prompt",
    ),
    (
        "phimoe-mixed",
        "ops: {moe: {score: logit, after: softmax, jitter: null}}\n"
        "ignore: {router_jitter_noise: planted}",
        "prompt",
    ),
    (
        "step3p7-text",
        "ops: {moe: {glu: null}}\nignore: {swiglu_limits: planted}",
        "prompt",
    ),
    (
        "minimax_m3_vl_text-blocks",
        "ops: {mlp: {glu: {alpha: 1.0}}}",
        "prompt",
    ),
    (
        "longcat_flash-zero_experts",
        "block!: [{op: attn, pre: =attn_norm}, {op: moe, when: =first, pre: =ff_norm},"
        " {op: mlp, pre: =ff_norm, parallel: =first}]\n"
        "per_layer: {attn_norm: ='input_layernorm.' + half,"
        " ff_norm: ='post_attention_layernorm.' + half}",
        "prompt",
    ),
    # Values, positions and blocks
    (
        "mimo_v2_flash-windows",
        "ops: {attn: {v_scale: 1.0}}\nignore: {attention_value_scale: planted}",
        "prompt",
    ),
    ("phimoe-longrope", "ops: {attn: {rope: {long_factors: null}}}", "decode"),
    (
        "minimax_m3_vl_text-blocks",
        "ops: {attn: {indexer: {local: 0}}}\nignore: {index_local_blocks: planted}",
        "decode",
    ),
    (
        "minimax_m3_vl_text-blocks",
        "ops: {attn: {indexer: {block: 5}}}\nignore: {index_block_size: planted}",
        "prompt",
    ),
    (
        "gemma4_text-experts",
        "ops: {moe: {norm: null}}\nwaive: {'*_layernorm_2.weight': planted}",
        "prompt",
    ),
    (
        "gemma4_text-experts",
        "ops: {moe: {router_norm: {name: pre_feedforward_layernorm_2, bare: false}}}\n"
        "waive: {'*router.scale': planted}",
        "prompt",
    ),
    ("gemma4_text-experts", "ops: {moe: {router_scale: 1.0}}", "prompt"),
    (
        "gemma4_text-experts",
        "weights: {expert_scale: null}\nwaive: {'*per_expert_scale': planted}",
        "decode",
    ),
    (
        "gemma4_text-experts",
        "ops: {both: {of!: [{op: mlp, pre: pre_feedforward_layernorm, "
        "post: post_feedforward_layernorm_2}, "
        "{op: moe, post: post_feedforward_layernorm_1}]}}",
        "prompt",
    ),
    # Latents
    ("longcat_flash-zero_experts", "ops: {attn: {kv_scale: 1.0}}", "prompt"),
    ("minicpm3-scaled", "ops: {attn: {rope: {style: interleaved}}}", "decode"),
    ("youtu-latent", "ops: {attn: {norm: {eps: =c.rms_norm_eps}}}", "prompt"),
    (
        "deepseek_v32-selects",
        "ops: {attn: {indexer: {style: interleaved}}}",
        "prompt",
    ),
    ("axk2-groups", "ops: {moe: {ineligible: never}}", "prompt"),
    (
        "axk2-light",
        "block!: [{op: attn, pre: input_layernorm.norm}, {op: \"='moe' if kind == "
        "'moe' else 'mlp'\", pre: \"='post_attention_layernorm.norm' if kind == 'moe' "
        "else 'post_attention_layernorm'\"}]\n"
        "waive: {'*.W_down.weight': planted, '*.W_up.weight': planted}\n"
        "ignore: {gated_norm_rank: planted}",
        "prompt",
    ),
    (
        "axk2-light",
        "weights: {q+attn_gate: {layout: '(H [attn_gate:Dv|q:D]) Lqq'}}",
        "decode",
    ),
    ("axk2-light", "ops: {attn: {gate: {act: softplus}}}", "prompt"),
    (
        "dots3_note_text-windows",
        "ops: {attn: {window: null}}\nignore: {sliding_window: planted}",
        "decode",
    ),
    (
        "dots3_note_text-windows",
        "ops: {attn: {k_norm: null}}\nwaive: {'*k_rope_only_layernorm*': planted}",
        "prompt",
    ),
    (
        "dots3_note_text-full",
        "ops: {attn: {indexer: {when: false}}}\nwaive: {'*.indexer.*': planted}",
        "prompt",
    ),
)
