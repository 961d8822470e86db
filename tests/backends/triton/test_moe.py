"""Kernels of experts and of their router against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, moe_use, random, render, router_use
from support.ranges import first

Interpreted = Callable[..., ModuleType]
Tensors = dict[str, torch.Tensor]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}


def inputs(
    tokens: tuple[int, int],
    *,
    experts: int = 5,
    top_k: int = 2,
    width: int = 40,
    ff: int = 72,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[torch.Tensor]:
    """x, experts, weights, gate_up and down; no expert twice for one token."""
    logits = random(*tokens, experts, dtype=torch.float32, seed=seed)
    weights, chosen = logits.softmax(-1).topk(top_k)
    return [
        random(*tokens, width, dtype=dtype, seed=seed + 1),
        chosen,
        weights,
        random(experts, 2 * ff, width, dtype=dtype, seed=seed + 2) / width**0.5,
        random(experts, width, ff, dtype=dtype, seed=seed + 3) / ff**0.5,
    ]


# Attributes and operands: what experts may have beside their two products.
FORMS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, ()),
    "gpt-oss": ({"alpha": 1.5, "limit": 0.8}, ("gate_up_bias", "down_bias")),
    "llama 4": ({"weigh": "input"}, ()),
    "biased, weighed as they read": ({"weigh": "input"}, ("down_bias",)),
}


def biases(names: Iterable[str], given: list[torch.Tensor]) -> Tensors:
    """Those of some products."""
    sizes = {"gate_up_bias": given[3].shape[:2], "down_bias": given[4].shape[:2]}
    dtype = given[0].dtype
    return {n: random(*sizes[n], dtype=dtype, seed=len(n)) for n in names}


def compare(
    module: ModuleType, given: list[torch.Tensor], **more: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare the kernels with the reference."""
    return module.moe_experts(*given, **more), reference.moe_experts(*given, **more)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@examples(6)
@given(
    fn=st.sampled_from(["silu", "gelu_tanh"]),
    dtype=st.sampled_from(list(TOLERANCE)),
    tokens=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 5, 7, 20, 50])),
    experts=st.sampled_from([2, 3, 9, 64]),
    top_k=st.integers(1, 4),
    width=st.sampled_from([16, 40, 130]),
    ff=st.sampled_from([8, 72]),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    form: str,
    fn: str,
    dtype: torch.dtype,
    tokens: tuple[int, int],
    seed: int,
    **sizes: int,
) -> None:
    """From one token to more rows than one program sorts."""
    sizes["top_k"] = min(sizes["top_k"], sizes["experts"])
    attrs, names = FORMS[form]
    module = interpreted(moe_use(fn, *names, **attrs))
    given = inputs(tokens, **sizes, dtype=dtype, seed=seed)  # type: ignore[arg-type]
    got, want = compare(module, given, fn=fn, **attrs, **biases(names, given))
    assert got.dtype == dtype
    close(got, want)


def test_tokens_that_lie_apart(interpreted: Interpreted) -> None:
    module = interpreted(moe_use())
    for tokens in (1, 9):
        x, *rest = inputs((2, tokens))
        apart = torch.cat((x, x + 1), -1)[..., : x.shape[-1]]
        close(*compare(module, [apart, *rest], fn="silu"))


@pytest.mark.parametrize("tokens", [40, 170])
def test_many_rows_for_one_expert(interpreted: Interpreted, tokens: int) -> None:
    """Several blocks of one expert, and none of others; sorted by a kernel, or not."""
    module = interpreted(moe_use())
    x, chosen, weights, *matrices = inputs((2, tokens))
    chosen[..., 0], chosen[..., 1] = 3, 1
    close(*compare(module, [x, chosen, weights, *matrices], fn="silu"))


def test_layers_with_different_functions(interpreted: Interpreted) -> None:
    module = interpreted(moe_use("silu"), moe_use("gelu"))
    for tokens in (1, 9):
        for fn in ("silu", "gelu"):
            close(*compare(module, inputs((1, tokens)), fn=fn))


@examples(10)
@given(
    chosen=st.lists(st.integers(0, 8), min_size=1, max_size=70),
    rows=st.sampled_from([16, 64]),
)
def test_a_program_sorts_as_torch_does(
    interpreted: Interpreted, chosen: list[int], rows: int
) -> None:
    module = interpreted(moe_use())
    ids = torch.tensor(chosen)
    order, experts, firsts, ends = module._expert_blocks(ids, 9, rows)
    assert order.tolist() == ids.argsort(stable=True).tolist()
    filled = [block for block in range(len(ids)) if firsts[block] < len(ids)]
    covered = []
    for block in filled:
        expert, first = int(experts[block]), int(firsts[block])
        places = range(first, min(first + rows, int(ends[expert])))
        assert {int(ids[order[place]]) for place in places} == {expert}
        covered += places
    assert sorted(covered) == list(range(len(ids)))


ONE, FEW, SORTED, MANY = (1, 1), (1, 20), (1, 60), (2, 70)


@pytest.mark.parametrize(
    ("form", "tokens", "old", "new"),
    first(
        1,
        [
            ("plain", FEW, "(row // TOP_K)[:, None]", "(row % TOP_K)[:, None]"),
            ("plain", MANY, "weights + F * E + depth, mask", "weights + depth, mask"),
            ("plain", SORTED, "before % ROWS == 0, place, M", "before == 0, place, M"),
            ("plain", MANY, "[expert] + begun * rows", "[expert]"),
            ("plain", FEW, "shares + row, mask", "shares + place, mask"),
            ("plain", ONE, "part * tl.load(shares + row)", "part"),
            ("plain", ONE, "down + (expert * E + column)", "down + (row * E + column)"),
            ("gpt-oss", ONE, "biases + F, mask", "biases, mask"),
            ("gpt-oss", FEW, "down_bias + expert * E", "down_bias + 0 * E"),
            ("gpt-oss", ONE, "(up + 1.0)", "up"),
            ("gpt-oss", ONE, "tl.maximum(up, -LIMIT)", "up"),
            ("llama 4", ONE, "state = (state * share)", "state = state"),
            ("llama 4", FEW, "state = (state * share)", "state = state"),
        ],
    ),
)
def test_control_a_wrong_line_shows(
    interpreted: Interpreted, form: str, tokens: tuple[int, int], old: str, new: str
) -> None:
    attrs, names = FORMS[form]

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    use = moe_use("silu", *names, **attrs)
    given = inputs(tokens)
    given[1][..., 0], given[1][..., 1] = 3, 1
    more = {"fn": "silu", **attrs, **biases(names, given)}
    close(*compare(interpreted(use), given, **more))
    got, want = compare(interpreted(use, edit=edit), given, **more)
    assert not torch.allclose(got, want, atol=1e-2)


def test_experts_of_unlike_forms_have_kernels_and_something_new_has_none() -> None:
    plain = moe_use()
    for other in (moe_use(weigh="input"), moe_use("silu", "down_bias")):
        text = render(plain, other)
        assert "reference" not in text.partition("import triton")[2]
        assert text.count("def _moe_experts") == 2
    for other in (moe_use(skipped=3), moe_use("silu", "norm")):
        assert "import moe_experts" in render(other)
        assert "return reference.moe_experts(" in render(plain, other)
    assert "reference.moe" not in render(plain, moe_use(skipped=0))
    for new in (router_use(jitter=0.1), router_use("norm")):
        assert "import moe_router" in render(new)
    assert "MOE_ROUTER_FORMS" in render(router_use(), router_use(score="sigmoid"))
    assert "import moe_router" in render(router_use(experts=2048))
    assert "import moe_router" not in render(router_use(experts=512, jitter=0.0))


# Attributes and operands of routers, as published models have them.
ROUTERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "mixtral": ({"score": "softmax", "renormalise": True}, ()),
    "qwen": ({"score": "softmax"}, ()),
    "gpt-oss": ({"score": "logit", "after": "softmax"}, ("bias",)),
    "llama 4": ({"score": "logit", "after": "sigmoid"}, ()),
    "deepseek v2": (
        {"score": "softmax", "groups": 3, "top_groups": 2, "group_score": "max"},
        (),
    ),
    "deepseek v3": (
        {
            "score": "sigmoid",
            "groups": 3,
            "top_groups": 2,
            "renormalise": True,
            "scale": 2.5,
        },
        ("correction",),
    ),
    "deepseek v4": (
        {"score": "sqrt_softplus", "renormalise": True, "scale": 1.5},
        ("correction",),
    ),
    "ernie": (
        {"score": "softmax", "renormalise": True, "least_sum": 0.4},
        ("correction",),
    ),
}


def routed(
    module: ModuleType,
    router: str,
    tokens: tuple[int, int],
    *,
    experts: int = 12,
    top_k: int = 3,
    width: int = 40,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Experts and weights: what the kernels choose, and what the reference does."""
    attrs, names = ROUTERS[router]
    x = random(*tokens, width, dtype=dtype, seed=seed)
    f32 = torch.float32
    weight = random(experts, width, dtype=f32, seed=seed + 1) / width**0.5
    more = {n: random(experts, dtype=f32, seed=len(n)) / 5 for n in names}
    given = {"top_k": top_k, **attrs, **more}
    sides: list[Any] = [module, reference]
    return [side.moe_router(x, weight, **given) for side in sides]


@pytest.mark.parametrize("router", ROUTERS)
@examples(3)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    tokens=st.tuples(st.integers(1, 3), st.integers(1, 7)),
    experts=st.sampled_from([6, 12, 30, 33, 66]),
    top_k=st.integers(1, 4),
    width=st.sampled_from([16, 40, 130]),
    seed=st.integers(0, 99),
)
def test_routers(
    interpreted: Interpreted,
    router: str,
    tokens: tuple[int, int],
    **sizes: Any,
) -> None:
    """With few tokens and with more than a kernel scores."""
    attrs, names = ROUTERS[router]
    module = interpreted(router_use(*names, **attrs))
    (experts, weights), wanted = routed(module, router, tokens, **sizes)
    assert torch.equal(experts, wanted[0])
    assert experts.dtype == wanted[0].dtype
    torch.testing.assert_close(weights, wanted[1])


def test_of_equal_experts_the_first_is_taken(interpreted: Interpreted) -> None:
    use = router_use(score="sigmoid", groups=2, top_groups=1)
    x, weight = torch.ones(1, 1, 16), torch.ones(8, 16)
    weight[5:7] += 1
    given = {"top_k": 3, "score": "sigmoid", "groups": 2}
    experts, weights = interpreted(use).moe_router(x, torch.ones(8, 16), **given)
    assert experts.tolist() == [[[0, 1, 2]]]
    assert weights[0, 0].unique().numel() == 1
    experts, _ = interpreted(use).moe_router(x / 16, weight, **given)
    assert experts.tolist() == [[[5, 6, 4]]]


def test_experts_of_other_groups_count_as_zero(interpreted: Interpreted) -> None:
    """Above an eligible one whose score is corrected to less than nothing."""
    for ineligible, expert in (("zero", 0), ("never", 1)):
        attrs = {"groups": 2, "group_score": "max", "ineligible": ineligible}
        module = interpreted(router_use("correction", score="sigmoid", **attrs))
        given = {"correction": torch.tensor([-0.7, -0.6]), "score": "sigmoid"} | attrs
        if ineligible == "never":  # as model.py says it: not at all
            del given["ineligible"]
        for side in (module, reference):
            chosen, weights = side.moe_router(
                torch.zeros(1, 1, 16), torch.ones(2, 16), top_k=1, **given
            )
            assert chosen.tolist() == [[[expert]]]
            assert weights.tolist() == [[[0.5]]]


def test_what_is_no_number_is_no_index(interpreted: Interpreted) -> None:
    """A token whose state overflowed must not read beyond the experts."""
    x = torch.full((1, 2, 16), torch.nan)
    x[:, 1] = 0.5
    for attrs in ({}, {"groups": 2, "top_groups": 1}):
        use = router_use(score="sigmoid", experts=12, **attrs)
        given = {"top_k": 3, "score": "sigmoid", **attrs}
        experts, weights = interpreted(use).moe_router(x, torch.ones(12, 16), **given)
        assert ((experts >= 0) & (experts < 12)).all()
        assert weights[0, 0].isnan().all()
        assert weights[0, 1].isfinite().all()


@pytest.mark.parametrize(
    ("router", "old", "new"),
    first(
        1,
        [
            ("qwen", "/ tl.sum(tl.sum(powers", "/ tl.max(tl.max(powers"),
            ("qwen", "choice = tl.where(mine, LOWEST, choice)", "choice = choice"),
            (
                "gpt-oss",
                "logit += tl.load(bias + expert",
                "logit -= tl.load(bias + expert",
            ),
            (
                "gpt-oss",
                "tl.where(inside, shares, LOWEST)",
                "tl.where(inside, shares, 9.0)",
            ),
            ("llama 4", "shares = tl.sigmoid(shares)", "shares = shares"),
            ("deepseek v2", "eligible |= group == at", "eligible |= group != at"),
            (
                "deepseek v3",
                "tl.where(member == first[:, None], LOWEST, choice)",
                "choice",
            ),
            (
                "deepseek v3",
                "tl.where(mine, scores, 0.0)",
                "tl.where(mine, choice, 0.0)",
            ),
            ("deepseek v3", "shares * SCALE", "shares"),
            ("ernie", "tl.maximum(total, LEAST)", "total"),
            ("mixtral", "shares /= total + 1e-20", "shares /= 1.0"),
        ],
    ),
)
def test_control_a_wrong_router_shows(
    interpreted: Interpreted, router: str, old: str, new: str
) -> None:
    attrs, names = ROUTERS[router]

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    use = router_use(*names, **attrs)
    for module, wrong in (
        (interpreted(use), False),
        (interpreted(use, edit=edit), True),
    ):
        got, want = routed(module, router, (1, 5))
        same = torch.equal(got[0], want[0]) and torch.allclose(got[1], want[1])
        assert same is not wrong
