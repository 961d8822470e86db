"""Models with scans answer the same in however many calls tokens are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.ir.errors import GlmcError
from support import builds, mixers, streams
from support.ondevice import operations
from support.parity import TOLERANCE
from support.ranges import first
from support.reference import padded_batch
from support.tape import Tapes
from support.variants import BY_NAME, Tiny, Variant

KEEPING = {*mixers.FAMILIES, *streams.FAMILIES}
NAMES = [name for name, v in BY_NAME.items() if v.family in KEEPING]
# The first variant of each family in every run, the others by make test-slow.
ONE_EACH = [*{BY_NAME[name].family: name for name in reversed(NAMES)}.values()]
OTHERS = [name for name in NAMES if name not in ONE_EACH]
CALLS = ((24,), (18, 6), (7, 2, 1, 14), (6, *[1] * 18))
"""One call; a second turn; a prompt in chunks; token by token."""
APART = 2 * TOLERANCE
"""Two orders of summing, each as far as it may be from what is exact."""

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]


def read(model: Any, ids: Any, mask: Any, calls: tuple[int, ...]) -> torch.Tensor:
    """Logits of tokens that are read in several calls."""
    cache, begin, found = None, 0, []
    for count in calls:
        end = begin + count
        given = {} if mask is None else {"attention_mask": mask[:, :end]}
        with torch.no_grad():
            out = model(ids[:, begin:end], past_key_values=cache, **given)
        cache, begin = out.past_key_values, end
        found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("name", [*ONE_EACH, *first(0, OTHERS)])
def test_it_reads_the_same_in_any_calls(
    name: str, tiny: MakeTiny, compiled: Compile
) -> None:
    """Two rows, one with padding on its left, and each of them alone."""
    case = tiny(BY_NAME[name])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    batch = padded_batch(128)
    whole = read(model, batch.ids, batch.mask, CALLS[0])
    real = batch.mask.bool()
    for calls in CALLS[1:]:
        got = read(model, batch.ids, batch.mask, calls)
        assert (got - whole)[real].abs().max() <= APART, calls
    for row, start in enumerate((~real).sum(1).tolist()):
        ids = batch.ids[row : row + 1, start:]
        for calls in ((24 - start,), (1,) * (24 - start), (11, 13 - start)):
            got = read(model, ids, None, calls)
            assert (got - whole[row, start:]).abs().max() <= APART, (row, calls)


# The reference of experts asks the host which of them are chosen.
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("qwen3_5_text")])
def test_a_recorded_step_decodes_the_same(
    name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    """A step that is recorded and replayed asks the host for nothing."""
    case = tiny(BY_NAME[name])
    folder = tmp_path / "build"
    compile_model(case.checkpoint, folder, disable=("qkv-attention",))
    build = builds.import_build(folder)
    how = {"device": "cpu", "dtype": "float32"}
    model, recorded = (build.load(case.checkpoint, **how) for _ in range(2))
    recorded.ops = operations(import_module(f"{build.__name__}.reference"))
    recorded.tapes = Tapes()
    decoder = type(recorded.decoder)
    recorded._decoder = decoder(lambda _: recorded.tapes)
    batch = padded_batch(128)
    for ids, mask in ((batch.ids[1:], None), (batch.ids, batch.mask)):
        options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": ()}
        want = model.generate(ids, mask, **options)
        assert torch.equal(recorded.generate(ids, mask, **options), want)
        assert recorded.decode_path.startswith("one graph replay a token")
    assert recorded.tapes.replays > 0


def test_an_infinite_limit_in_any_spelling(tiny: MakeTiny, tmp_path: Path) -> None:
    """As Python writes it, and by name as transformers 5 does."""
    case = tiny(BY_NAME["mamba2-groups"])
    text = (case.checkpoint / "config.json").read_text()
    older = re.sub(r'\{\s*"__float__": "Infinity"\s*\}', "Infinity", text)
    assert older != text
    folder = tmp_path / "older"
    copytree(case.checkpoint, folder)
    (folder / "config.json").write_text(older)
    compile_model(folder, tmp_path / "build")
    for checkpoint in (folder, case.checkpoint):
        model = builds.load(tmp_path / "build", checkpoint)
        assert model(torch.tensor([[3, 4, 5]])).logits.isfinite().all()
    (folder / "config.json").write_text(older.replace("Infinity", "0.5"))
    with pytest.raises(GlmcError, match="transformers applies other limits"):
        compile_model(folder, tmp_path / "other")
