"""Builds that vLLM runs too, against a stand-in: requests in one row, chunks, slots."""

from __future__ import annotations

import importlib
import json
import random
import re
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glmc import compile_model
from glmc.backends.runtime.ranks import Ranks
from glmc.backends.torch.threads import on_ranks
from glmc.backends.vllm.emit import introduced
from glmc.ir.errors import NotServedError
from glmc.look.builds import Build
from glmc.use.wheel import write_wheel
from support import ROOT, builds, cli, edits, tiny
from support.paged import Context, Engine, Group, config, stand_in
from support.tiny import tensors_of
from support.variants import BY_NAME, VARIANTS, Variant

TOLERANCE = 5e-5
Made = Callable[[str], tuple[Path, Path]]

#: A kind of each thing that is vLLM's, or that is done around it.
KINDS = (
    "llama-gqa",
    "glm4-sandwich",
    "gemma2-capped",
    "gemma4_text-shared",
    "gpt_oss-sinks",
    "mimo_v2_flash-windows",
    "mpt-alibi",
    "gpt2-tied",
    "olmo2-gqa",
    "deepseek_v2-groups",
    "qwen3_next-interval",
    "lfm2-gates",
    "jamba-hybrid",
)


@pytest.fixture
def vllm() -> Iterator[Context]:
    with stand_in() as now:
        yield now


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A checkpoint of a variant, and its build for vLLM."""
    known: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            tiny.make(BY_NAME[name], folder / "checkpoint")
            build = compile_model(
                folder / "checkpoint", folder / "build", engine="vllm"
            )
            known[name] = folder / "checkpoint", build
        return known[name]

    return make


def texts(vocab: int) -> list[torch.Tensor]:
    """Four texts of unequal lengths, one of a single token before what is decoded."""
    generator = torch.Generator().manual_seed(1)
    lengths = (23, 6, 31, 14)
    return [torch.randint(3, vocab, (n,), generator=generator) for n in lengths]


def loaded(build: Path, checkpoint: Path, **changes: Any) -> Engine:
    """A model in the stand-in, its weights in the order of the files."""
    engine = Engine(build, checkpoint, **changes)
    wanted = {name for name, _ in engine.model.named_parameters()}
    assert engine.model.load_weights(tensors_of(checkpoint).items()) == wanted
    return engine


def difference(build: Path, checkpoint: Path, engine: Engine) -> float:
    """The largest difference of all logits to those of the build by itself."""
    model = builds.load(build, checkpoint)
    rows = texts(model.vocab_size)
    with torch.no_grad():
        wanted = [model(row[None]).logits[0] for row in rows]
    pairs = zip(engine.answer(rows), wanted, strict=True)
    return max((got - want).abs().max().item() for got, want in pairs)


@pytest.mark.parametrize("name", KINDS)
def test_requests_in_one_row(name: str, made: Made, vllm: Context) -> None:
    checkpoint, build = made(name)
    assert difference(build, checkpoint, loaded(build, checkpoint)) <= TOLERANCE


def dealt(
    name: str, folder: Path, vllm: Context, group: type[Group] = Group
) -> tuple[float, float]:
    """The largest difference that a rank of two has to the build by itself, and the
    part of its parameters that each has."""
    checkpoint = folder / "checkpoint"
    tiny.make(BY_NAME[name], checkpoint)
    build = compile_model(
        checkpoint, folder / "build", engine="vllm", tensor_parallel=2
    )
    package = builds.import_build(build).__name__
    ranks = importlib.import_module(f"{package}.ranks")
    own = importlib.import_module(f"{package}.vllm_ranks")
    alone = builds.load(compile_model(checkpoint, folder / "alone"), checkpoint)
    rows = texts(alone.vocab_size)
    with torch.no_grad():
        wanted = [alone(row[None]).logits[0] for row in rows]

    def one(of: Ranks) -> tuple[float, float]:
        vllm.group = group(of)
        with ranks.use(own.EngineRanks()):
            engine = loaded(build, checkpoint, tensor_parallel_size=2)
            pairs = zip(engine.answer(rows), wanted, strict=True)
            size = sum(p.numel() for p in engine.model.parameters())
        return max((got - want).abs().max().item() for got, want in pairs), size

    found = on_ranks(2, one)
    whole = sum(p.numel() for p in alone.parameters())
    return max(far for far, _ in found), max(size for _, size in found) / whole


#: A kind of each thing that ranks divide. Matrices that a product on CPUs has laid out
#: anew are no parameters any more; embeddings and experts are.
DEALT = ("llama-gqa", "mixtral-window", "deepseek_v2-groups", "qwen3_next-interval")


@pytest.mark.parametrize("name", DEALT)
def test_ranks_of_vllms_group(name: str, tmp_path: Path, vllm: Context) -> None:
    far, part = dealt(name, tmp_path, vllm)
    assert far <= TOLERANCE
    assert part < 0.65


def test_control_a_sum_that_is_left_out(tmp_path: Path, vllm: Context) -> None:
    class Alone(Group):
        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            return x

    far, _ = dealt("llama-gqa", tmp_path, vllm, Alone)
    assert far > 100 * TOLERANCE


def test_a_build_of_ranks_wants_as_many(tmp_path: Path, vllm: Context) -> None:
    tiny.make(BY_NAME["llama-gqa"], tmp_path / "checkpoint")
    build = compile_model(
        tmp_path / "checkpoint", tmp_path / "build", engine="vllm", tensor_parallel=2
    )
    with pytest.raises(ValueError, match=r"for 2 ranks, and .* is 1: give 2, or"):
        Engine(build, tmp_path / "checkpoint")


OTHERS = [variant for variant in VARIANTS if str(variant) not in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_every_variant_is_served_or_refused(
    variant: Variant, tmp_path: Path, vllm: Context
) -> None:
    """None is computed wrongly: what is not equal was refused when it was compiled."""
    tiny.make(variant, tmp_path / "checkpoint")
    try:
        build = compile_model(
            tmp_path / "checkpoint", tmp_path / "build", engine="vllm"
        )
    except NotServedError:
        return
    module = (build / "vllm_model.py").read_text()
    limit = re.search("steady_until = (.*)", module)
    changes = {"max_model_len": int(limit[1])} if limit else {}
    engine = loaded(build, tmp_path / "checkpoint", **changes)
    model = builds.load(build, tmp_path / "checkpoint")
    rows = [text[: changes.get("max_model_len")] for text in texts(model.vocab_size)]
    with torch.no_grad():
        wanted = [model(row[None]).logits[0] for row in rows]
    for got, want in zip(engine.answer(rows), wanted, strict=True):
        assert (got - want).abs().max() <= TOLERANCE


def test_control_positions_that_are_one_too_large(made: Made, vllm: Context) -> None:
    checkpoint, build = made("llama-gqa")
    engine = loaded(build, checkpoint)
    run = engine.model.model.forward
    engine.model.model.forward = lambda ids, at: run(ids, at + (at > 20))
    assert difference(build, checkpoint, engine) > 100 * TOLERANCE


REFUSED = {
    "glm_moe_dsa-selects": ("GlmMoeDsa", "has token_write, which keeps %index"),
    "llama4_text-chunks": ("Llama4", "chunks of the text"),
    "minimax_m3_vl_text-blocks": ("MiniMaxM3VL", "has token_write, which keeps"),
    "deepseek_v4-rates": ("DeepseekV4", "which keeps"),
    "axk2-groups": ("AXK2", "has token_write, which keeps %index"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(name: str, tmp_path: Path) -> None:
    variant, (stem, message) = BY_NAME[name], REFUSED[name]
    names = {"model_type": variant.family, "architectures": [f"{stem}ForCausalLM"]}
    edits.write_config(tmp_path, variant.config | names)
    with pytest.raises(NotServedError, match=message):
        compile_model(tmp_path, tmp_path / "build", engine="vllm")
    assert compile_model(tmp_path, tmp_path / "build")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("chatglm-6b", "two streams of positions"),
        ("bert", "is an encoder"),
    ],
)
def test_other_kinds_of_models_are_refused(
    source: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NotServedError, match=message):
        compile_model(source, tmp_path / "build", engine="vllm")


def test_stages_and_configs_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotServedError, match="runs by torchrun"):
        compile_model(
            "qwen3-0.6b", tmp_path / "build", engine="vllm", pipeline_parallel=2
        )
    said = BY_NAME["llama-gqa"].config | {"model_type": "llama"}
    edits.write_config(tmp_path, said)
    with pytest.raises(NotServedError, match="architectures is None"):
        compile_model(tmp_path, tmp_path / "build", engine="vllm")
    for hostile in ("X(object): import os", "", 7, "x.y"):
        with pytest.raises(NotServedError, match="looks up the class"):
            introduced({"architectures": [hostile]}, "config.json", "0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel_size": 2}, "again with --engine vllm and --tensor-par"),
        ({"pipeline_parallel_size": 2}, "it has one stage"),
        ({"decode_context_parallel_size": 2}, "keep whole texts"),
        ({"enable_expert_parallel": True}, "--expert-parallel deals them whole"),
        ({"hf_overrides": {"rope_theta": 1}}, r"hf_overrides \(rope_theta\)"),
        ({"hf_overrides": lambda found: found}, "by a function"),
        ({"model": "another"}, "rms_norm_eps is 0.5, compiled was 0.01"),
    ],
)
def test_what_a_build_cannot_do_is_refused(
    changes: dict[str, Any], message: str, made: Made, vllm: Context, tmp_path: Path
) -> None:
    checkpoint, build = made("llama-gqa")
    if "model" in changes:
        other = edits.read_config(checkpoint) | {"rms_norm_eps": 0.5}
        changes = {"model": str(edits.write_config(tmp_path, other))}
    with pytest.raises(ValueError, match=message):
        Engine(build, checkpoint, **changes)


def test_texts_end_where_positions_or_a_rope_do(made: Made, vllm: Context) -> None:
    for name, limit in (("gpt2-tied", 64), ("llama-longrope", 16)):
        checkpoint, build = made(name)
        with pytest.raises(ValueError, match=f"Give --max-model-len {limit}"):
            Engine(build, checkpoint, max_model_len=limit + 1)
        assert Engine(build, checkpoint, max_model_len=limit)


def test_weights_come_in_any_order_and_are_let_go(made: Made, vllm: Context) -> None:
    checkpoint, build = made("mixtral-experts")
    engine = Engine(build, checkpoint)
    module = importlib.import_module(f"{engine.build.__name__}.vllm_weights")
    tensors = [*tensors_of(checkpoint).items()]
    random.Random(0).shuffle(tensors)
    engine.model.load_weights(tensors)
    assert difference(build, checkpoint, engine) <= TOLERANCE
    # Sorted by name, as files have them, hardly more is held than a layer has.
    arriving = module.Arriving(engine.model.weights)
    most = 0
    for name, tensor in sorted(tensors):
        for bind in arriving.take(name, tensor):
            arriving.let_go(bind)
        most = max(most, len(arriving.held))
    assert not arriving.held
    assert most < len(tensors) / engine.build.Model().layers.__len__() + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing: model.norm.weight"),
        (lambda t: t.update(extra=torch.ones(2)), "not used by this model: extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(1)}),
            r"model.norm.weight \(is \[1\], the model needs \[64\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.full((64,), torch.nan)}),
            "holds nan or infinities",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            "is stored as I8",
        ),
    ],
)
def test_other_weights_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, made: Made, vllm: Context
) -> None:
    checkpoint, build = made("llama-gqa")
    engine = Engine(build, checkpoint)
    tensors = tensors_of(checkpoint)
    change(tensors)
    with pytest.raises(ValueError, match=message):
        engine.model.load_weights(tensors.items())


def test_a_dtype_that_a_checkpoint_cannot_have(
    made: Made, vllm: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, build = made("llama-gqa")
    tensors = tensors_of(checkpoint)
    tensors["model.norm.weight"] = torch.full((64,), 1e5)
    loaded = Engine(build, checkpoint).model.load_weights(tensors.items())
    assert "model.model.norm" in loaded
    torch.set_default_dtype(torch.float16)  # as vLLM does it for --dtype
    try:
        engine = Engine(build, checkpoint)
        with pytest.raises(ValueError, match=r"model.norm.weight .* float16"):
            engine.model.load_weights(tensors.items())
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_vllm_without_a_name_that_builds_take(
    made: Made, vllm: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, build = made("llama-gqa")
    name = builds.import_build(build).__name__
    versions = importlib.import_module(f"{name}.vllm_versions")
    monkeypatch.setattr(versions, "installed", lambda: "0.32.9")
    monkeypatch.delattr(sys.modules["vllm.distributed"], "get_tp_group")
    with pytest.raises(versions.VersionError, match=r"0.32.9 has no get_tp_group in"):
        versions.taken("get_tp_group")


def test_a_build_from_a_dump_has_no_engine(
    made: Made, vllm: Context, tmp_path: Path
) -> None:
    _, build = made("llama-gqa")
    dump = str(build / "ir" / "1-lowered.glmc")
    options = ("--engine", "vllm", "-o", tmp_path / "b")
    said = cli.refused(cli.glmc("compile", "--from-ir", dump, *options))
    assert "--engine would have no effect" in said


def test_the_ledger_tells_what_vllm_runs(made: Made) -> None:
    _, build = made("qwen3_next-interval")
    rows = {(row.op, row.reason.partition(",")[0]) for row in Build(build).served}
    assert {row.where for row in Build(build).served} == {"engine"}
    assert ("qkv_attention", "its attention") in rows
    assert any(reason.startswith("pages of its own") for _, reason in rows)
    assert ("linear", "its products") in rows
    assert "inside vLLM\n  engine" in cli.glmc("inspect", build, "--ledger").stdout


def test_vllm_is_told_of_the_build(made: Made, vllm: Context) -> None:
    _, build = made("llama-gqa")
    plugin = importlib.import_module(
        f"{builds.import_build(build).__name__}.vllm_plugin"
    )
    registration = importlib.import_module(f"{plugin.__package__}.vllm_registration")
    registration.installed = lambda: "0.32.7"
    for _ in range(2):  # it is called in every process, and perhaps twice
        plugin.register()
    name = "LlamaForCausalLM"
    assert vllm.registered == {name: f"{plugin.__package__}.vllm_model:{name}"}
    changed = config(build, tensor_parallel_size=2)
    with pytest.raises(ValueError, match="build of glmc for 1 rank, and"):
        vllm.checks[name].verify_and_update_config(changed)
    assert vllm.checks[name].__bases__[0].__name__ == "Check"  # wrapped once
    (codes,) = vllm.codes.values()
    of = types.SimpleNamespace(architectures=[name])
    method = codes.override_quantization_method({}, None, hf_config=of)
    assert method == f"glmc-{name}"
    of.architectures = ["AnotherForCausalLM"]
    assert codes.override_quantization_method({}, None, hf_config=of) is None


@pytest.mark.parametrize("found", ["0.31.4", "0.33.0", "1.0", "dev"])
def test_another_vllm_is_refused(found: str, made: Made, vllm: Context) -> None:
    _, build = made("llama-gqa")
    plugin = importlib.import_module(
        f"{builds.import_build(build).__name__}.vllm_plugin"
    )
    registration = importlib.import_module(f"{plugin.__package__}.vllm_registration")
    registration.installed = lambda: found
    with pytest.raises(RuntimeError, match=rf"vLLM >=0.32,<0.33, and this is {found}"):
        plugin.register()
    assert not vllm.registered


def test_a_config_is_registered_for_a_type_that_nobody_knows(
    made: Made, vllm: Context
) -> None:
    _, build = made("llama-gqa")
    name = builds.import_build(build).__name__
    registration = importlib.import_module(f"{name}.vllm_registration")
    registration.installed = lambda: "0.32.0"
    registration.register(
        registration.Registered("p", "OwnLM", "own-kind", {"hidden_size": 64}, 1)
    )
    found = transformers.AutoConfig.for_model("own-kind", layers=3)
    assert (found.model_type, found.hidden_size, found.layers) == ("own-kind", 64, 3)


#: As pip calls what pyproject.toml names.
AS_PIP = """
import sys
sys.path.insert(0, "")
sys.dont_write_bytecode = True
import wheels
print(wheels.build_wheel(sys.argv[1]))
"""


def test_pip_makes_a_package_of_it(made: Made, tmp_path: Path) -> None:
    _, build = made("llama-gqa")
    before = sorted(path for path in build.rglob("*") if "__pycache__" not in str(path))
    ran = cli.python(AS_PIP, tmp_path, cwd=build)
    file = ran.stdout.strip()
    assert file, ran.stderr
    after = sorted(path for path in build.rglob("*") if "__pycache__" not in str(path))
    assert before == after
    with zipfile.ZipFile(tmp_path / file) as archive:
        names = archive.namelist()
        points = archive.read("glmc_llamaforcausallm-0.1.0.dist-info/entry_points.txt")
    assert points.decode() == (
        "[vllm.general_plugins]\n"
        "glmc_llamaforcausallm = glmc_llamaforcausallm.vllm_plugin:register\n"
    )
    inside = {n.partition("/")[2] for n in names if n.startswith("glmc_llamafor")}
    assert {"model.py", "vllm_model.py", "compiled.json"} <= inside


def test_a_wheel_that_glmc_writes_is_a_plugin_too(made: Made, tmp_path: Path) -> None:
    _, build = made("llama-gqa")
    with zipfile.ZipFile(write_wheel(Build(build), tmp_path)) as archive:
        points = archive.read("build-0.1.0.dist-info/entry_points.txt").decode()
    assert points == "[vllm.general_plugins]\nbuild = build.vllm_plugin:register\n"


def test_no_file_of_a_build_hides_a_module_from_pip() -> None:
    runtime = (ROOT / "backends/runtime").iterdir()
    assert not {path.stem for path in runtime} & sys.stdlib_module_names - {"__init__"}


def test_matrices_are_laid_out_as_vllm_reads_them(made: Made, vllm: Context) -> None:
    checkpoint, build = made("llama-gqa")
    engine = loaded(build, checkpoint)
    left = {n.split(".")[-1] for n, p in engine.model.named_parameters() if p.numel()}
    norms = {"input_layernorm", "post_attention_layernorm", "norm"}
    assert left == {"embed_tokens", *norms}


@pytest.mark.parametrize("name", ["gemma2-capped", "qwen3_next-interval", "mpt-alibi"])
def test_emitted_files_are_formatted(name: str, made: Made) -> None:
    _, build = made(name)
    emitted = ("model", "ops", "plugin", "products")
    files = [build / f"vllm_{one}.py" for one in emitted]
    files += [file for file in (build / "vllm_attention.py",) if file.exists()]
    rules = ROOT / "pyproject.toml"
    for command in (["format", "--check"], ["check", "--config", rules]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout


def test_builds_without_an_engine_have_nothing_of_it(tmp_path: Path) -> None:
    build = compile_model("qwen3-0.6b", tmp_path / "build")
    assert not [*build.glob("*vllm*"), *build.glob("pyproject.toml")]
    assert "engine" not in json.loads((build / "manifest.json").read_text())["options"]
