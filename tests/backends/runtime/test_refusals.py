"""Every refusal of a call, and that a cache goes on after it as if it had not been."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.backends.runtime import (
    cache,
    checks,
    generation,
    glm_positions,
    inputs,
    prompts,
)
from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.glm_positions import GlmPositions

GMASK, ONE_MASK, SOP = 45, 46, 47
IDS = torch.tensor([[5, 9, 3, GMASK, SOP, 30], [8, 8, 1, GMASK, SOP, 12]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
NEXT = torch.tensor([[7], [11]])
MODULES = (checks, inputs, glm_positions, generation, prompts)

Call = Callable[[CausalLM, Cache], Any]


def step(**given: Any) -> Call:
    """Continues a cache with an argument that is wrong."""
    return lambda model, past: model(
        **({"input_ids": NEXT, "past_key_values": past} | given)
    )


def prompt(*given: Any, **named: Any) -> Call:
    return lambda model, past: model(*given, **named)


def generate(*given: Any, **named: Any) -> Call:
    return lambda model, past: model.generate(*given, **named)


def resume(ids: torch.Tensor, mask: torch.Tensor, *, drafted: bool = False) -> Call:
    """Generates from a cache that these rows do not go on from."""
    return lambda model, past: model.generate(
        ids, mask, past_key_values=past, draft=model if drafted else None
    )


def record(mask: torch.Tensor) -> Call:
    """Records a call with a mask, which continues a cache, as a program."""

    def call(model: CausalLM, past: Cache) -> Any:
        class Masked(torch.nn.Module):
            def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
                return model(ids, mask, past_key_values=past).logits

        return torch.export.export(Masked(), (NEXT, mask), strict=False)

    return call


def longer(row: list[int], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor([[1] * 7, row], dtype=dtype)


class Two:
    """A tokenizer of two texts."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": IDS, "attention_mask": MASK}


SAME = [0, 0, 1, 1, 1, 1, 1]
OTHERS: dict[str, Call] = {
    "ids: list": step(input_ids=[[7], [11]]),
    "ids: shape": step(input_ids=torch.tensor([7, 11])),
    "ids: dtype": step(input_ids=NEXT.int()),
    "ids: empty": step(input_ids=NEXT[:, :0]),
    "ids: large": step(input_ids=NEXT + 50),
    "cache: type": prompt(NEXT, past_key_values=((IDS, IDS),)),
    "cache: rows": step(input_ids=NEXT[:1]),
    "keep": step(logits_to_keep=-1),
    "mask: list": step(attention_mask=[[1] * 7, SAME]),
    "mask: added": step(attention_mask=longer([-1, -1, 0, 0, 0, 0, 0]).float() * 1e38),
    "mask: floats": step(attention_mask=longer(SAME).float()),
    "mask: shape": step(attention_mask=torch.ones(2, 6, dtype=torch.int64)),
    "mask: 4-D": step(attention_mask=torch.ones(2, 1, 7, 7, dtype=torch.bool)),
    "mask: two": step(attention_mask=longer([0, 0, 1, 1, 1, 2, 1])),
    "mask: less": step(attention_mask=longer([0, 0, 1, 1, 1, -1, 1])),
    "mask: none": step(attention_mask=longer([0] * 7)),
    "mask: hole": step(attention_mask=longer([0, 0, 1, 1, 0, 1, 1])),
    "mask: moved": step(attention_mask=longer([0, 1, 1, 1, 1, 1, 1])),
    "mask: recorded": record(longer(SAME)),
    "generate: right padding": generate(IDS, MASK.flip(1)),
    "generate: none": generate(IDS, MASK, max_new_tokens=0),
    "generate: mask": generate(IDS, MASK.float()),
    "temperature": generate(IDS, MASK, temperature=-1.0),
    "top_k": generate(IDS, MASK, top_k=-1),
    "top_p": generate(IDS, MASK, top_p=1.5),
    "generate: length": generate(IDS, MASK, max_length=6),
    "generate: list": generate([[1, 2]]),
    "generate: text": generate("text"),
    "generate: token": generate(IDS, MASK, suppress_tokens=[50]),
    "generate: nothing new": resume(IDS, MASK),
    "generate: cache and draft": resume(
        torch.cat([IDS, NEXT], 1), longer(SAME), drafted=True
    ),
    "generate: pieces": generate(["a", "b"], tokenizer=Two(), stream=True),
}
COUNTED: dict[str, Call] = {
    "positions: list": step(position_ids=[[6], [4]]),
    "positions: dtype": step(position_ids=torch.tensor([[6.0], [4.0]])),
    "positions: below": step(position_ids=torch.tensor([[6], [-1]])),
    "positions: past": step(position_ids=torch.tensor([[6], [12]])),
    "positions: shape": step(position_ids=torch.tensor([[6, 7], [4, 5]])),
    # A mask that is right, and positions that are not: nothing of it may stay.
    "mask and positions": step(
        attention_mask=longer(SAME, torch.bool),
        position_ids=torch.tensor([[6], [12]]),
    ),
    "positions: prompt": prompt(torch.ones(1, 13, dtype=torch.int64)),
    "generate: positions": generate(IDS, MASK, max_new_tokens=8),
}
STREAMS: dict[str, Call] = {
    "no sop": prompt(torch.tensor([[5, 9, GMASK]])),
    "no mask": prompt(torch.tensor([[5, 9, SOP]])),
    "streams: shape": step(position_ids=torch.tensor([[6], [4], [2]])),
    "streams: below": step(position_ids=torch.tensor([[[3], [2]], [[1], [-2]]])),
}


def refused(call: Call, model: CausalLM, past: Cache) -> tuple[str, int]:
    """Return where a call is refused: the file and line of the raise."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(model, past)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert frame.lineno is not None
    return frame.filename, frame.lineno


def goes_on(model: CausalLM, calls: dict[str, Call]) -> set[tuple[str, int]]:
    """Calls all that is refused; the cache answers as one that saw nothing of it."""
    whole, where = longer(SAME, torch.bool), set()
    clean = model(IDS, MASK).past_key_values
    want = model(NEXT, whole, past_key_values=clean)
    further = model(NEXT, past_key_values=clean)
    for name, call in calls.items():
        past = model(IDS, MASK).past_key_values
        assert past is not None
        where.add(refused(call, model, past))
        got = model(NEXT, whole, past_key_values=past)
        assert torch.equal(got.logits, want.logits), name
        again = model(NEXT, past_key_values=past)
        assert torch.equal(again.logits, further.logits), name
        # Without a mask: the padding that the first call told still counts.
        past = model(IDS, MASK).past_key_values
        refused(call, model, past)
        assert torch.equal(model(NEXT, past_key_values=past).logits, want.logits), name
    return where


def raises() -> set[tuple[str, int]]:
    """Every `raise ValueError` of the modules that check a call."""
    found = set()
    for module in MODULES:
        file = str(module.__file__)
        for node in ast.walk(ast.parse(Path(file).read_text("utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "ValueError":
                found.add((file, node.lineno))
    return found


@pytest.fixture
def seen(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Return where calls are refused, each followed by a correct one."""
    where = goes_on(model, OTHERS)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "max_positions", 12)
        where |= goes_on(model, COUNTED)
    with monkeypatch.context() as patch:
        scheme = GlmPositions(gmask=GMASK, mask=ONE_MASK, sop=SOP)
        patch.setattr(type(model), "scheme", staticmethod(scheme))
        run = type(model).run
        patch.setattr(
            type(model), "run", lambda s, i, pos, *a: run(s, i, pos[:, 0], *a)
        )
        where |= goes_on(model, STREAMS)
    cached = model(IDS).past_key_values
    del cached.layers[-1]  # type: ignore[union-attr]
    where.add(refused(step(), model, cached))
    cached = model(IDS, MASK.flip(1)).past_key_values
    where.add(refused(step(), model, cached))
    cached = model(IDS).past_key_values
    cached.broken = True  # type: ignore[union-attr]
    where.add(refused(step(), model, cached))
    return where


def test_every_refusal_leaves_the_cache_as_it_was(seen: set[tuple[str, int]]) -> None:
    lacking = sorted(f"{Path(f).name}:{line}" for f, line in raises() - seen)
    assert not lacking, f"no call here is refused at {', '.join(lacking)}"


def test_control_a_refusal_that_leaves_something_is_seen(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: padding is noted before positions are looked at."""
    monkeypatch.setattr(type(model), "max_positions", 12)
    wrong = {
        "mask and positions": step(
            attention_mask=longer([0, 0, 1, 1, 1, 1, 0]),
            position_ids=torch.tensor([[6], [12]]),
        )
    }
    goes_on(model, wrong)
    monkeypatch.setattr(cache.Cache, "unless_refused", lambda self: nullcontext())
    with pytest.raises(ValueError, match="padding on the right"):
        goes_on(model, wrong)


def test_masks_of_every_right_kind_say_the_same(model: CausalLM) -> None:
    want = model(IDS, MASK).logits
    for dtype in checks.MASKS:
        assert torch.equal(model(IDS, MASK.to(dtype)).logits, want)
    assert not torch.equal(model(IDS).logits, want)
