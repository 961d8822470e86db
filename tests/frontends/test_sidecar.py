"""hf_quant_config.json: quantised files that config.json does not mention."""

import json
from pathlib import Path

import pytest

from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from support import EXAMPLES


def folder(tmp_path: Path, sidecar: object) -> Path:
    config = (EXAMPLES / "configs" / "llama-3.1-70b.json").read_text()
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(sidecar))
    return tmp_path


def test_a_quantised_repository_is_not_compiled_as_float(tmp_path: Path) -> None:
    given = folder(tmp_path, {"quantization": {"quant_algo": "NVFP4"}})
    model = load_model(resolve_source(str(given))).model
    attention, mlp = (step.op for step in model.blocks[0].steps)
    assert isinstance(attention, m.Attention)
    assert isinstance(mlp, m.Mlp)
    maps = (attention.q, attention.k, attention.v, attention.o)
    for one in (*maps, mlp.gate, mlp.up, mlp.down):
        assert one is not None
        assert isinstance(one.weight.storage, m.FloatQuantized)
        assert (one.weight.storage.bits, one.weight.storage.group) == (4, 16)


def test_a_sidecar_of_an_unknown_algorithm_is_refused(tmp_path: Path) -> None:
    given = folder(tmp_path, {"quantization": {"quant_algo": "W4A8_AWQ"}})
    with pytest.raises(GlmcError, match=r"config\.json: .*W4A8_AWQ.*unquantised"):
        load_model(resolve_source(str(given)))


@pytest.mark.parametrize("sidecar", [{}, {"quantization": {"quant_algo": None}}])
def test_a_sidecar_that_quantises_nothing_is_nothing(
    sidecar: object, tmp_path: Path
) -> None:
    assert load_model(resolve_source(str(folder(tmp_path, sidecar)))).model.layers == 80


@pytest.mark.parametrize("said", ["FP8", ["FP8"], 8])
def test_a_sidecar_that_says_nothing_readable_is_refused(
    said: object, tmp_path: Path
) -> None:
    given = folder(tmp_path, {"quantization": said})
    with pytest.raises(GlmcError, match=r"hf_quant_config\.json: quantization is"):
        load_model(resolve_source(str(given)))
