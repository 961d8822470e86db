"""Specs of one's own, and the mistakes one makes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.frontends.build.provenance import sized_by
from glmc.frontends.spec.library import _match, _naming, builtin_specs
from support.configs import LLAMA, MISTRAL
from support.loading import Load, Refusal

MOE = "kind: moe, act: silu, experts: 4, ff: 8"
EXPERTS = "{router: r, xgate: g, xup: u, xdown: d}"
ALTUP = (
    "{altup_router: a, altup_predict: b, altup_correct: c, streams_spread: d,"
    " streams_gather: e}"
)


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_spec_of_ones_own(load: Load, tmp_path: Path) -> None:
    spec = write(tmp_path, "extends: llama\nops: {mlp: {act: gelu}}\n")
    config = LLAMA | {"model_type": "something_new", "architectures": None}
    loaded = load(config, spec_path=spec)
    assert loaded.model.blocks[0].steps[1].op.act == "gelu"
    assert loaded.spec == "my"
    names = [Path(file.name).name for file in loaded.spec_files]
    assert names == ["my.yaml", "llama.yaml", "_common.yaml"]


def test_names_of_norms_of_biases_and_of_activations(
    load: Load, tmp_path: Path
) -> None:
    text = (
        "extends: llama\ntensor_prefix: outer.\n"
        "final_norm: {name: last, bare: true, kind: layer, bias: true}\n"
        "block: [{op: mlp, pre: {name: first, weight: false, bias: true}}]\n"
        f"ops: {{mlp!: {{{MOE.replace('silu', 'relu_squared')}, top_k: 2,"
        " score: softmax}}\n"
        "weights: {router: {name: r, bias: true}, xgate: g, xup: u,"
        " xdown: {name: d, bias: true}}\n"
    )
    model = load(LLAMA, spec_path=write(tmp_path, text)).model
    last = model.final_norm
    assert last
    assert last.weight
    assert last.weight.tensor == "outer.last"
    assert last.bias
    assert last.bias.tensor == "outer.last.bias"
    (step,) = model.blocks[0].steps
    assert step.pre
    assert (step.pre.weight, step.pre.bias) == (None, None)
    assert step.op.act == "relu2"
    assert step.op.router.bias.tensor == "outer.model.layers.{i}.r.bias"
    assert step.op.router.weight.tensor == "outer.model.layers.{i}.r.weight"
    assert step.op.down_bias.tensor == "outer.model.layers.{i}.d.bias"
    assert step.op.up_bias is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ops:\n  attn: {hedas: =H}", "my.yaml:3: ops.attn.hedas: no such key"),
        (
            "ops:\n  attn: {heads: many}",
            "my.yaml:3: ops.attn.heads: expected an integer",
        ),
        ("ops:\n  attn:\n    heads: null", "attn.heads: this key is required"),
        ("norm: {kind: batch}", "my.yaml:2: norm.kind: expected 'rms' or 'layer'"),
        ("opps: {}", "my.yaml:2: opps: no such key"),
        ("layers: true", "my.yaml:2: layers: expected an integer or an expression"),
        ("dims: {E: =c.hiden_size}", "hidden_size (64; did you mean hiden_size?)"),
        ("dims: {E: =c.hidden_size // M}", "unknown name 'M'"),
        ("dims: {V: null}\nignore: {vocab_size: rows}", "dims must define V"),
        ("block:\n  - {op: attention}", "block.op must be one of the ops attn, mlp"),
        (
            "ops:\n  attn:\n    rope: {style: sideways}",
            "my.yaml:4: ops.attn.rope.style: expected 'half' or 'interleaved', found",
        ),
        (
            "ops:\n  attn:\n    rope: {style: =c.model_type}",
            "model_type is 'llama'; it must be half or interleaved [",
        ),
        ("ops: {attn: {heads: =H +}}", "`=H +`: invalid syntax where it ends"),
        ("ops: {mlp!: {act: silu}}", "ops.mlp: the key 'kind' is required and missing"),
        ("ops: {mlp: {kind: mpl}}", "the key 'kind' must be one of attention, mlp, "),
        ("weights: {qq: x}", "there is no slot 'qq'"),
        ("weights: {q+k: x}", "the slot 'q' has two entries"),
        ("weights: {q: null}", "weights has no entry for 'q'"),
        ("head: {tied: =c.hidden_size}", "hidden_size is 64; it must be true or false"),
        ("extends: glm", "my.yaml:2: the key 'extends' is already on line 1"),
        (
            "checks: {a: {that: =c.hidden_size}}",
            "checks.a.otherwise: this key is",
        ),
        ("ops: {attn: {window: =0 - 3}}", "ops.attn.window must be a positive whole"),
        ("ops: {attn: {rope: {dim: =D + 2}}}", "must be at most head_dim (16)"),
        ("ops: {attn: {rope: {params: =3}}}", "must be an object, as rope() gives"),
        ("ops: {attn: {kv_from: =i}}", "must be the number of a layer before layer 0"),
        ("ops: {attn: {kv_from: '=i - 1'}}", "of a layer before layer 0, found -1"),
        (
            "ops: {attn: {kv_from: '=0 if i > 1 else null', kv_heads: '=4 - i'}}",
            "layer 2 reads the keys and values of layer 0 (kv_from), and needs 2 key "
            "heads, 16 wide; layer 0 has 4 key heads, 16 wide",
        ),
        (
            "ops: {attn: {kv_from: '=i - 1 if i else null'}}",
            "`i` is 0, not true, false or null",
        ),
        (
            "ops: {attn: {kv_from: '=i - 1 if i > 0 else null'}}",
            "layer 2 reads the keys and values of layer 1 (kv_from), and needs 2 key "
            "heads, 16 wide; layer 1 has none of its own",
        ),
        (
            "ops: {attn: {mask: full, kv_from: '=0 if i > 0 else null'}}",
            "must be null where the mask is full and nothing is cached",
        ),
        (
            "block: [{op: two}]\nops: {two: {kind: branches, of: [{op: attn}]}}",
            "ops.two.of must be an op of kind mlp or moe, found 'attn'",
        ),
        (
            "block: [{op: two}]\nops: {two: {kind: branches, of: [{op: feed}]}}",
            "ops.two.of must be one of the ops attn, mlp, two, found 'feed'",
        ),
        (
            "block: [{op: part}]\nops: {part: {kind: per_layer_input, act: silu}}",
            "weights has no entry for 'part_gate'",
        ),
        ("weights: {gate: null}", "weights has no entry for 'gate'"),
        ("ops: {mlp: {sparsity: 1.0}}", "ops.mlp.sparsity must be below 1, found 1.0"),
        (
            "ops: {attn: {rope: {sections: 3}}}",
            "ops.attn.rope.sections must pair channels in 16 // 3 each",
        ),
        (
            "ops: {attn: {experts: {experts: 4, top_k: 3}}}\nweights: {attn_router: x}",
            "ops.attn.experts.top_k must be heads / kv_heads, 2, found 3",
        ),
        (
            f"streams: {{count: 1, router_norm: x}}\nweights: {ALTUP}",
            "streams.count must be a whole number of at least 2, found 1",
        ),
        (
            f"streams: {{count: 2, active: 2, router_norm: x}}\nweights: {ALTUP}",
            "streams.active must be at most 1, found 2",
        ),
        (
            f"streams: {{count: 2, router_norm: {{name: null}}}}\nweights: {ALTUP}",
            "streams.router_norm must be the name of a norm, found null",
        ),
        (
            f"ops: {{mlp!: {{{MOE}, top_k: 2, score: logit}}}}\nweights: {EXPERTS}",
            "ops.mlp.after must be softmax or sigmoid with score: logit, and else null",
        ),
        (
            f"ops: {{mlp!: {{{MOE}, top_k: 2, score: sigmoid, after: softmax}}}}\n"
            f"weights: {EXPERTS}",
            "ops.mlp.after must be softmax or sigmoid with score: logit, and else null",
        ),
        (
            f"ops: {{mlp!: {{{MOE}, top_k: 7, score: softmax, zero_experts: 2}}}}\n"
            f"weights: {EXPERTS}",
            "ops.mlp: 7 of 6 experts cannot be chosen",
        ),
        ("variants: {a: 3}", "my.yaml:2: variants.a must be a mapping"),
        ("variants: {a: {when: =true}}", "variants.a.about: this key is required"),
        ("expect: {a: 3}", "my.yaml:2: expect.a: "),
        ("defaults: {a: =c.b}", "my.yaml:2: defaults.a: expected a value as a config"),
        ("defaults: {a: {b: [1, =c.b]}}", "defaults.a: expected a value as a config"),
        ("expect: {a: [1, =c.b]}", "expect.a.1: expected a value as a config"),
    ],
)
def test_mistakes(refusal: Refusal, tmp_path: Path, text: str, expected: str) -> None:
    spec = write(tmp_path, f"extends: llama\n{text}\n")
    assert expected in refusal(LLAMA, spec_path=spec).replace(f"{tmp_path}/", "")


def test_circles_and_unknown_parents(refusal: Refusal, tmp_path: Path) -> None:
    write(tmp_path, "extends: two\n", "one.yaml")
    spec = write(tmp_path, "extends: one\n", "two.yaml")
    assert "extends this spec itself" in refusal(LLAMA, spec_path=spec)
    spec = write(tmp_path, "extends: lama\n")
    assert "there is no spec 'lama' (nearest: llama" in refusal(LLAMA, spec_path=spec)
    spec = write(tmp_path, "extends: ../secret\n")
    assert "expected the name of a spec" in refusal(LLAMA, spec_path=spec)


def test_what_a_spec_is_for_is_not_inherited(refusal: Refusal) -> None:
    message = refusal(MISTRAL | {"architectures": ["LlamaForCausalLM"]})
    assert "describes MistralForCausalLM" in message


def test_a_name_that_a_spec_is_for_stands_in_its_text() -> None:
    """:func:`identify` looks for a name in a spec's text before it reads it."""
    for path in builtin_specs().values():
        match = _match(path)
        for name in (*match.model_type, *match.architectures):
            assert path in _naming([name]), f"{path.name}: {name}"
    assert not _naming(["no_such_model"])


@pytest.mark.parametrize(
    ("axis", "keys"),
    [
        ("H", "num_attention_heads"),
        ("K", "num_key_value_heads, num_attention_heads"),
        ("F", "intermediate_size"),
        ("T", ""),
        (None, ""),
    ],
)
def test_keys_of_a_config_that_say_the_size_of_an_axis(
    axis: str | None, keys: str, load: Load
) -> None:
    assert sized_by(load(LLAMA | {"num_key_value_heads": 2}).lines, axis) == keys
