"""The account of a checkpoint: every tensor bound, waived, or reported."""

from dataclasses import dataclass

from glmc.compile.accounting import account, grouped, wanted
from glmc.ir import model as m
from glmc.ir.lower import lower
from support.models import chatglm
from support.stages import run


@dataclass(frozen=True)
class Info:
    shape: tuple[int, ...] | None
    dtype: str | None = "F16"


WAIVER = m.Waiver(pattern="*.inv_freq", reason="computed")
MODEL = chatglm().model_copy(
    update={"waivers": (WAIVER,), "optional_prefix": "encoder."}
)
PROGRAM = list(run(lower(MODEL)))[-1].program
HEADERS = {name: Info(need.shape) for name, need in wanted(PROGRAM).items()}


def test_the_checkpoint_of_a_model_is_accounted_for() -> None:
    found = account(MODEL, PROGRAM, {**HEADERS, "rotary.inv_freq": Info((4,))})
    assert found.ok
    assert found.bound == set(HEADERS)
    assert found.waived == {"computed": ["rotary.inv_freq"]}


def test_fused_and_plain_programs_want_the_same_tensors() -> None:
    assert wanted(PROGRAM) == wanted(lower(MODEL))


def test_missing_unused_and_wrong_are_told_apart() -> None:
    headers = dict(HEADERS)
    del headers["encoder.layers.1.dense.weight"]
    headers["encoder.layers.0.extra"] = Info((1,))
    headers["encoder.layers.0.qkv.weight"] = Info((128, 31))
    headers["embedding.weight"] = Info((61, 32), "I8")
    found = account(MODEL, PROGRAM, headers)
    assert not found.ok
    assert found.missing == ["encoder.layers.1.dense.weight"]
    assert found.unused == ["encoder.layers.0.extra"]
    assert found.wrong == {
        "encoder.layers.0.qkv.weight": "is [128, 31], the model needs [128, 32]",
        "embedding.weight": "is stored as I8, the model needs a float tensor",
    }


def test_names_may_lack_the_prefix() -> None:
    short = {name.removeprefix("encoder."): info for name, info in HEADERS.items()}
    assert account(MODEL, PROGRAM, short).ok
    assert not account(
        MODEL.model_copy(update={"optional_prefix": None}), PROGRAM, short
    ).ok


def test_a_bare_index_is_checked_by_name() -> None:
    bare = dict.fromkeys(HEADERS, Info(None, None))
    found = account(MODEL, PROGRAM, bare)
    assert found.ok
    assert not found.shapes_known


def test_names_of_layers_are_grouped() -> None:
    names = [f"layers.{i}.q.weight" for i in range(80)] + ["norm.weight"]
    assert grouped(names) == ["layers.{i}.q.weight  (80 layers)", "norm.weight"]
