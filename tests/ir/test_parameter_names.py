"""Names of parameters: those of the checkpoint, and by the module that holds them."""

import pytest

from glmc.ir import model as m
from glmc.ir.lower.emitter import names_of

NAMES = {
    "transformer.wte.weight": ["wte", "transformer_wte"],
    "model.norm.weight": ["norm", "model_norm"],
    "h.{i}.attn.c_proj.weight": ["c_proj", "attn_c_proj"],
    "h.{i}.mlp.router.weight": ["router", "mlp_router"],
    # Too vague without what holds it.
    "h.{i}.mlp.router.bias": ["router_bias", "mlp_router_bias"],
    "h.{i}.mlp.gate.weight": ["mlp_gate"],
    "h.{i}.mlp.bias": ["mlp_bias"],
    "h.{i}.input_layernorm.norm.weight": ["input_layernorm_norm"],
    # In a part of a sublayer that has the same names again.
    "h.{i}.attn.indexer.k_norm.weight": ["indexer_k_norm", "attn_indexer_k_norm"],
    "h.{i}.mlp.shared_experts.down.weight": ["shared_experts_down"],
    "h.{i}.attn.output.dense.weight": ["dense", "output_dense"],
    # Numbers are no names, and neither is the index of a stack.
    "h.{i}.attn.0.o_proj.weight": ["o_proj"],
    "h.{i}.ffn.2.weight": ["ffn_2"],
    "h.{i}.q_norm.norms.{x}.weight": ["q_norm_norms"],
    "per_layer.{x}.weight": ["per_layer"],
}


@pytest.mark.parametrize("tensor", NAMES)
def test_a_parameter_is_called_as_its_tensor_is(tensor: str) -> None:
    names = names_of(m.Weight(tensor=tensor))
    want = NAMES[tensor]
    assert names[: len(want)] == want
    for name in names:
        assert name.isidentifier()
        assert not name.startswith("_")


def test_a_part_of_a_tensor_is_called_like_its_slot() -> None:
    weight = m.Weight(tensor="h.{i}.mlp.gate_up.weight", part="gate")
    assert names_of(weight) == ["gate"]
