"""Names that the emitted module and its base classes have for themselves."""

VALUES = frozenset(
    {
        *("self", "ops", "cache", "keep", "layer", "layers", "state", "nn", "torch"),
        *("parameter", "range", "zip", "super"),
    }
)
"""Taken among values: what the statements around the ops use."""

ATTRIBUTES = frozenset(
    {
        # what a module of torch has for itself, and calls
        *("forward", "training", "train", "eval", "apply", "to", "cuda", "cpu"),
        *("children", "modules", "buffers", "parameters", "named_children"),
        *("named_modules", "named_buffers", "named_parameters", "add_module"),
        *("register_buffer", "register_module", "register_parameter", "get_parameter"),
        *("get_submodule", "state_dict", "load_state_dict", "requires_grad_"),
        # what the runtime's classes have
        *("run", "layers", "ops", "device", "dtype", "generate", "encode_prefix"),
        *("to_hidden", "to_logits"),
        *(
            "states",
            "layer_states",
            "max_positions",
            "vocab_size",
            "type_vocab_size",
            "padding",
        ),
        "scheme",
        *(
            "eos_token_id",
            "pad_token_id",
            "default_dtype",
            "learned",
            "new_cache",
            "answers",
        ),
    }
)
"""Taken among parameters and arguments: attributes that a module has already."""

CLASSES = frozenset(
    {
        *("Model", "Block", "CausalLM", "CausalLm", "Encoder", "MaskedLM"),
        "SequenceClassifier",
        "SequenceScorer",
        *("GlmPositions", "States", "KeysValues", "PerToken", "PerRow", "From"),
        *("None", "True", "False"),
    }
)
"""Taken among classes."""

BLOCKS = frozenset(
    {
        *("stem", "head", "prefix_encoder"),
        *("torch", "nn", "parameter", "partial", "super", "range", "zip", "LAYERS"),
    }
)
"""Taken among blocks: what the other graphs of a program are called, and what stands in
the emitted module beside them."""
