"""Passes: what they take, what they refuse and why, and that they mean the same."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.ledger import totals
from glmc.backends.torch.execute import compare
from glmc.backends.triton.passes import products
from glmc.backends.triton.passes.qkv_attention import QKV_ATTENTION
from glmc.ir import model as m
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.passes import Stage, fusions
from glmc.ir.passes.rewrite import Fusion, Rule
from glmc.ir.shrink import shrink
from glmc.ir.text import parse_program, print_program
from support.handed import handing_models
from support.mixtures import mixed_models
from support.models import bert, changed, chatglm, encoders, glm, models, sandwich
from support.ranges import examples
from support.stages import ANY, run

TOLERANCE = 1e-4


def stages(model: m.Model) -> dict[str, Stage]:
    return {stage.name: stage for stage in run(lower(model))}


def block_ops(program: Program) -> list[str]:
    return [op.mnemonic for op in program.blocks[0].ops]


def test_a_chatglm_block_fuses_to_five_ops() -> None:
    final = list(stages(chatglm()).values())[-1].program
    assert block_ops(final) == [
        "rms_norm_linear",
        "qkv_attention",
        "linear_add",
        "rms_norm_linear",
        "linear_add",
    ]
    # Attention and what prepares its operands are two launches.
    assert ANY.launches(op.mnemonic for op in final.blocks[0].ops) == 6
    assert [p.name for p in final.blocks[0].params if p.name == "qkv"] == ["qkv"]
    assert final.carried == ("x",)


def test_a_block_of_the_first_glm_keeps_the_norms_that_two_ops_read() -> None:
    found = stages(glm())
    final = list(found.values())[-1].program
    assert block_ops(final) == [
        "layer_norm",
        "linear",
        "qkv_attention",
        "scale",
        "linear_add",
        "layer_norm",
        "linear_act",
        "scale",
        "linear_add",
    ]
    reasons = [e.reason for e in found["layer-norm-linear"].ledger]
    assert reasons[:2] == ["%h1 is also read by scale", "%h2 is also read by scale"]
    (attend,) = (op for op in final.blocks[0].ops if op.mnemonic == "qkv_attention")
    given = attend.attributes()
    assert (given["sections"], given["learned"]) == (2, 7)
    assert ("prefix", "%", "prefix") in attend.operands()


def test_a_pass_that_finds_nothing_hands_the_same_program_on() -> None:
    found = list(run(lower(chatglm())))
    for before, after in pairwise(found):
        taken = any(entry.status == "applied" for entry in after.ledger)
        assert (after.program is not before.program) == taken
        assert taken or print_program(before.program) == print_program(after.program)


def test_adds_that_no_product_takes_are_carried_to_the_norms() -> None:
    found = stages(sandwich())
    assert block_ops(found["qkv-attention"].program) == [
        "add_rms_norm",
        "linear",
        "qkv_attention",
        "linear",
        "rms_norm",
        "add_rms_norm",
        "linear_act",
        "linear",
        "rms_norm",
    ]
    assert {e.reason for e in found["linear-add"].ledger} == {
        "%attn_normed is made by rms_norm, not linear",
        "%mlp_normed is made by rms_norm, not linear",
    }
    (entry,) = found["rms-norm-linear"].ledger
    wanted = "no linear or linear_act reads an rms_norm in a decode step"
    assert (entry.status, entry.reason) == ("absent", wanted)


def test_where_products_take_every_add_none_is_missed() -> None:
    found = stages(chatglm())
    for name, reason in {
        "carry-residual": "no layer ends in an add",
        "add-rms-norm": "the model has no add",
    }.items():
        (entry,) = found[name].ledger
        assert (entry.status, entry.reason) == ("absent", reason)


def test_last_adds_stay_together() -> None:
    """A layer that scales what it adds ends in an add of its own: so do all layers."""
    model = chatglm()
    first = model.blocks[0].model_copy(update={"name": "plain", "layers": (0,)})
    second = changed(first.model_copy(update={"name": "scaled"}), scale=0.5)
    blocks = (first, second.model_copy(update={"layers": (1,)}))
    found = stages(model.model_copy(update={"blocks": blocks}))
    reasons = {(e.graph, e.at): e.reason for e in found["linear-add"].ledger}
    assert reasons["plain", "%out"] == (
        "scaled does not end in linear + add, and last adds are carried together"
    )
    assert reasons["scaled", "%out"] == "%mlp_scaled is made by scale, not linear"
    assert {e.status for e in found["carry-residual"].ledger} == {"applied"}


@pytest.mark.parametrize("projection", [False, True])
def test_passes_keep_the_meaning_of_a_prefix(projection: bool) -> None:
    found = stages(shrink(glm(projection=projection)))
    programs = [stage.program for stage in found.values()]
    assert max(compare(programs)) <= TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sections=$sections", "sections=1"),
        ("prefix=%prefix,", ""),
        ("learned=$learned", "learned=0"),
    ],
)
def test_a_fusion_that_forgets_the_prefix_is_caught(old: str, new: str) -> None:
    """The control of the test above."""
    before = stages(shrink(glm()))["layer-norm-linear"].program
    after, _ = broken(QKV_ATTENTION, old, new).run(before)
    assert list(compare([before, after]))[1] > TOLERANCE


def test_fused_tensors_are_bound_whole_again() -> None:
    text = print_program(stages(chatglm())["merge-gate-up"].program)
    assert "@qkv: f16[128,32]" in text
    assert '= "qkv.weight"[128,32]\n' in text
    assert '= "h_to_4h.weight"[96,32]\n' in text


@given(st.one_of(models(), encoders(), mixed_models(), handing_models()))
@examples(50)
def test_every_pass_keeps_the_meaning(model: m.Model) -> None:
    found = stages(shrink(model))
    programs = [stage.program for stage in found.values()]
    for name, difference in zip(found, compare(programs), strict=True):
        assert difference <= TOLERANCE, name


def test_a_bert_block_fuses_to_norms_that_add() -> None:
    found = stages(bert())
    final = found["qkv-attention"].program
    assert block_ops(final) == [
        "linear",
        "split",
        *["heads"] * 3,
        "full_attention",
        "linear",
        "add_layer_norm",
        "linear",
        "activation",
        "linear",
        "add_layer_norm",
    ]
    (entry,) = found["carry-residual"].ledger
    assert (entry.status, entry.reason) == ("absent", "no layer ends in an add")
    for name in ("linear-act", "linear-add", "layer-norm-linear"):
        assert [e.status for e in found[name].ledger] == ["absent"]


def broken(fusion: Fusion, old: str, new: str) -> Fusion:
    rules = tuple(
        Rule(match=rule.match, replace=rule.replace.replace(old, new))
        for rule in fusion.rules
    )
    assert rules != fusion.rules
    return replace(fusion, rules=rules)


@pytest.mark.parametrize(
    ("fusion", "old", "new"),
    [
        (fusions.MERGE_GATE_UP, "cat(@wg, @wu)", "cat(@wu, @wg)"),
        (fusions.MERGE_QKV, "cat(@bq, @bk, @bv)", "cat(@bq, @bv, @bk)"),
        (products.LINEAR_ACT, "fn=$fn", "fn=relu"),
        (products.LINEAR_ADD, "linear_add(%x, @w, %r, bias=@b)", "add(%r, %r)"),
        (products.RMS_NORM_LINEAR, "eps=$eps", "eps=0.5"),
        (products.RMS_NORM_LINEAR, "bias=@b, ", ""),
        (products.RMS_NORM_LINEAR, "fn=$fn", "fn=relu"),
        (fusions.ACT_MUL, "fn=$fn", "fn=relu"),
        (QKV_ATTENTION, "style=$style", "style=half"),
        (QKV_ATTENTION, "scale=$scale", "scale=1.0"),
        (QKV_ATTENTION, "window=$window", "window=2"),
    ],
)
def test_a_fusion_that_means_something_else_is_caught(
    fusion: Fusion, old: str, new: str
) -> None:
    """The control of ``--verify-passes``: a planted mistake in each kind of rule."""
    assert difference(chatglm(), fusion, old, new) > TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [("%x, %y, @w, eps=$eps", "%x, %x, @w, eps=$eps"), ("eps=$eps", "eps=0.5")],
)
def test_a_norm_that_adds_something_else_is_caught(old: str, new: str) -> None:
    assert difference(sandwich(), fusions.ADD_RMS_NORM, old, new) > TOLERANCE


@pytest.mark.parametrize(("fn", "taken"), [("silu", True), ("gelu", False)])
def test_a_value_that_a_pattern_names_must_be_that_of_the_op(
    fn: str, taken: bool
) -> None:
    rules = tuple(
        Rule(
            match=rule.match.replace("fn=$fn", f"fn={fn}"),
            replace=rule.replace.replace("fn=$fn", f"fn={fn}"),
        )
        for rule in fusions.ACT_MUL.rules
    )
    own = replace(fusions.ACT_MUL, rules=rules)
    before = lower(shrink(chatglm()))
    for stage in run(before):
        if stage.name == own.name:
            break
        before = stage.program
    program, entries = own.run(before)
    made = [op.mnemonic for block in program.blocks for op in block.ops]
    assert ("act_mul" in made) == taken
    told = [entry.reason for entry in entries if entry.status != "applied"]
    assert any(f"the fusion needs {fn}" in one for one in told) != taken


def difference(model: m.Model, fusion: Fusion, old: str, new: str) -> float:
    """Return how far a broken fusion leads from the program that it is given."""
    before = lower(shrink(model))
    for stage in run(before):
        if stage.name == fusion.name:
            break
        before = stage.program
    after, entries = broken(fusion, old, new).run(before)
    assert any(entry.status == "applied" for entry in entries)
    return list(compare([before, after]))[1]


def test_a_fusion_that_means_something_else_is_caught_in_an_encoder() -> None:
    before = stages(shrink(bert()))["add-rms-norm"].program
    after, _ = broken(fusions.ADD_LAYER_NORM, "%x, %y, @w", "%x, %x, @w").run(before)
    assert list(compare([before, after]))[1] > TOLERANCE


def test_biases_that_do_not_agree_are_refused_by_name() -> None:
    model = chatglm()
    text = print_program(lower(model)).replace("linear(%h1, @k, bias=@k_bias)",
                                               "linear(%h1, @k)")  # fmt: skip
    lines = [line for line in text.splitlines() if "@k_bias:" not in line]
    program = parse_program("\n".join(lines))
    same, entries = fusions.MERGE_QKV.run(program)
    assert same == program
    reasons = {entry.reason for entry in entries if entry.status == "refused"}
    assert "some of the linears have a bias and some have none" in reasons


def test_a_value_read_elsewhere_is_not_lost() -> None:
    program = stages(chatglm())["merge-gate-up"].program
    text = print_program(program).replace("linear(%ff, @", "linear(%act, @")
    kept, entries = fusions.ACT_MUL.run(parse_program(text))
    assert "act_mul" not in block_ops(kept)
    assert [e.reason for e in entries] == ["%act is also read by linear"]


def test_a_missed_fusion_says_what_was_in_the_way() -> None:
    program = lower(chatglm())
    _, entries = fusions.ADD_RMS_NORM.run(program)
    refused = {(e.graph, e.at): e.reason for e in entries if e.status == "refused"}
    assert refused[("layer", "%h1")] == "%x comes into layer, not from add"
    _, entries = QKV_ATTENTION.run(program)
    (entry,) = entries
    assert entry.status == "refused"
    assert "is made by linear, not split" in entry.reason


def test_an_absent_op_is_not_a_missed_fusion() -> None:
    (entry,) = stages(chatglm())["add-layer-norm"].ledger
    assert (entry.status, entry.reason) == ("absent", "the model has no layer_norm")


def test_the_ledger_adds_up() -> None:
    found = stages(chatglm(layers=3))
    launches = [
        ANY.launches(op.mnemonic for g in program.schedule() for op in g.ops)
        + ANY.launches(
            op.mnemonic for g in (program.stem, program.head) for op in g.ops
        )
        for program in (found["lowered"].program, found["qkv-attention"].program)
    ]
    saved, nbytes = totals(ANY.rows(e for s in found.values() for e in s.ledger))
    assert saved == launches[0] - launches[1]
    assert nbytes > 0


def test_disabled_passes_do_not_run() -> None:
    names = [stage.name for stage in run(lower(chatglm()), ["merge-qkv", "act-mul"])]
    assert names == [
        "lowered",
        "merge-gate-up",
        "keep-quantized",
        "linear-act",
        "linear-add",
        "carry-residual",
        "add-rms-norm",
        "add-layer-norm",
        "rms-norm-linear",
        "layer-norm-linear",
        "qkv-attention",
        "mix",
        "mix-norm",
        "merge-selected",
        "step-scan",
        "scan-gate",
        "reduce-add-norm",
    ]
