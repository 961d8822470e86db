"""A build works where neither glmc nor what it was made with can be imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc import compile_model
from support import GOLDEN
from support.cli import python
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

BLOCKED = "glmc transformers pydantic jinja2 yaml networkx"

SCRIPT = f"""
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}.split():
            raise ImportError(f"the build reached for {{name}}")

sys.meta_path.insert(0, Blocker())
folder, checkpoint = sys.argv[1:]
sys.path.insert(0, folder)
import build
import torch

torch.set_num_threads(1)
model = build.load(checkpoint, device="cpu", dtype="float32")
ids = torch.tensor([[5, 6, 7, 8]])
out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
streamed = [int(t) for t in model.generate(ids, max_new_tokens=4, stream=True)]
print(json.dumps(dict(
    name=build.Model.__name__,
    text=str(model),
    first=int(out.logits[0, -1].argmax()),
    streamed=streamed,
    cached=out.past_key_values is not None,
    seen=sorted(n for n in sys.modules if n in {BLOCKED!r}.split()),
)))
"""


@pytest.fixture(params=first(1, ["chatglm3", "llama-gqa", "gpt2-tied"]))
def case(
    request: pytest.FixtureRequest,
    tiny: Callable[[Variant], Tiny],
    compiled: Callable[[Path], Path],
) -> tuple[Path, Path]:
    """A build's folder and a checkpoint for it."""
    golden = GOLDEN / request.param
    checkpoint = golden if golden.exists() else tiny(BY_NAME[request.param]).checkpoint
    return compiled(checkpoint), checkpoint


def test_build_alone(case: tuple[Path, Path], tmp_path: Path) -> None:
    build, checkpoint = case
    shutil.copytree(build, tmp_path / "build")  # away from the repository
    run = python(SCRIPT, tmp_path, checkpoint, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["name"] == "Model"
    assert said["seen"] == []
    assert said["cached"]
    assert len(said["streamed"]) <= 4
    assert said["streamed"][0] == said["first"]
    assert "Layer" in said["text"]


ENCODER = (
    SCRIPT.partition("ids = torch")[0]
    + """
ids = torch.tensor([[5, 6, 7, 8]])
out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
print(json.dumps(dict(hidden=list(out.last_hidden_state.shape), text=str(model))))
"""
)


def test_encoder_alone(tmp_path: Path) -> None:
    from support import encoders

    encoders.make(encoders.BY_NAME["gelu"], tmp_path / "checkpoint")
    compile_model(tmp_path / "checkpoint", tmp_path / "build")
    run = python(ENCODER, tmp_path, tmp_path / "checkpoint", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["hidden"] == [1, 4, 64]
    assert "Layer" in said["text"]


def test_control_the_blocker_blocks(tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text("import glmc\n")
    run = python(SCRIPT, tmp_path, tmp_path, cwd=tmp_path)
    assert "the build reached for glmc" in run.stderr
