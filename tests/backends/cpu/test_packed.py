"""Weights in blocks are tensors like any other, to whatever is not a kernel."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.use.running import import_build
from support import GOLDEN, builds

CHATGLM3 = GOLDEN / "chatglm3"
IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


@pytest.fixture(scope="module")
def build(shared_folder: Path) -> Any:
    def make(folder: Path) -> None:
        compile_model(CHATGLM3, folder / "build", target="cpu")

    return import_build(builds.once(shared_folder / "cpu" / "golden", make) / "build")


@pytest.fixture
def model(build: Any) -> Any:
    return build.load(CHATGLM3)


def packed(model: Any) -> list[torch.Tensor]:
    kind = "PackedWeight"
    return [w for w in model.parameters() if type(w).__name__ == kind]


def test_ops_and_state_dicts_see_the_published_order(model: Any) -> None:
    assert packed(model)
    weights = model.state_dict()
    assert not any(type(w).__name__ == "PackedWeight" for w in weights.values())
    exact = model(IDS).logits
    engine, model.engine = model.engine, None
    assert torch.allclose(model(IDS).logits, exact, atol=1e-4)
    model.engine = engine
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    buffer.seek(0)
    again = torch.load(buffer)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_what_is_written_to_a_weight_is_packed_again(model: Any) -> None:
    before = model(IDS).logits
    weight = packed(model)[0]
    with torch.no_grad():
        weight.mul_(2)
        doubled = weight * 1
        weight.copy_(doubled / 2)
    assert torch.equal(model(IDS).logits, before)
    with torch.no_grad():
        weight[0] += 1
    changed = model(IDS).logits
    assert not torch.equal(changed, before)
    model.engine = None
    assert torch.allclose(model(IDS).logits, changed, atol=1e-4)


def test_another_weight_is_seen(model: Any) -> None:
    layer = model.layers[0]
    name, weight = next(
        (n, w)
        for n, w in layer.named_parameters()
        if type(w).__name__ == "PackedWeight"
    )
    other = torch.nn.Parameter(weight * 2, requires_grad=False)
    setattr(layer, name, other)
    assert not model.engine.serves(model, IDS, model.new_cache(1, 1))
    found = model(IDS).logits
    model.engine = None
    assert torch.equal(model(IDS).logits, found)


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_compute_the_same(model: Any, through: Callable[[Any], Any]) -> None:
    twin = through(model)
    assert twin.engine is None
    assert not packed(twin)
    assert torch.allclose(twin(IDS).logits, model(IDS).logits, atol=1e-4)


def test_what_must_be_seen_layer_by_layer_runs_by_the_reference(model: Any) -> None:
    exact = model(IDS).logits
    seen: list[torch.Tensor] = []
    handle = model.layers[1].register_forward_hook(lambda *a: seen.append(a[2]))
    assert torch.allclose(model(IDS).logits, exact, atol=1e-4)
    assert seen
    handle.remove()
    seen.clear()
    assert torch.equal(model(IDS).logits, exact)
    assert not seen


def test_saving_writes_the_published_order(
    build: Any, model: Any, tmp_path: Path
) -> None:
    with torch.no_grad():
        for weight in packed(model):
            weight.mul_(1.5)
    saving = importlib.import_module(f"{build.__name__}.saving")
    saving.save(model, tmp_path / "saved")
    again = build.load(tmp_path / "saved").state_dict()
    held = model.state_dict()
    assert all(torch.equal(again[name], held[name]) for name in held)
    weight = packed(model)[0]
    assert torch.equal(saving.published(weight), weight.unpacked())
    assert type(saving.published(weight)) is torch.Tensor


def test_a_long_prompt_in_pieces_is_the_same(model: Any) -> None:
    engine = __import__(type(model.engine).__module__, fromlist=["engine"])
    ids = torch.randint(3, 60, (2, 23))
    whole = model(ids).logits
    size, engine.CHUNK = engine.CHUNK, 10
    pieces, call = [], model.engine._call
    model.engine._call = lambda of, ids, *given: (
        pieces.append(ids.shape[1]),
        call(of, ids, *given),
    )
    try:
        assert torch.allclose(model(ids).logits, whole, atol=1e-4)
        assert pieces == [5, 5, 5, 5, 3], "of ten tokens of both rows"
        last = model(ids, logits_to_keep=7).logits
        assert torch.allclose(last, whole[:, -7:], atol=1e-4)
    finally:
        engine.CHUNK = size


def test_an_error_of_a_step_comes_through(model: Any) -> None:
    engine = model.engine
    engine.error = ValueError("of a step")
    with pytest.raises(ValueError, match="of a step"):
        engine.run(model, IDS, IDS, model.new_cache(2, 8), 0)
    assert torch.isfinite(model(IDS).logits).all()


def test_the_way_of_decoding_is_told(model: Any) -> None:
    list(model.generate(IDS, max_new_tokens=3, stream=True))
    assert model.decode_path == "one call of C++ a token"
