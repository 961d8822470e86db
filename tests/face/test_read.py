"""``glmc read``: a spec that equals published code, or a reason; never a wrong one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmc.command.cli import main
from glmc.frontends.code.room import roomy
from glmc.frontends.read.hub import Hub
from glmc.ir.errors import UnprovedError
from glmc.prove.comparing import difference
from glmc.prove.references import read_golden
from glmc.prove.texts import child, command, options, reading
from glmc.prove.texts.job import BEYOND, Job, run
from glmc.prove.texts.reading import Reading, read
from glmc.prove.texts.small import make_small
from support import texts
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Change = tuple[str, str]


@pytest.fixture
def llama(tiny: MakeTiny) -> Tiny:
    return tiny(BY_NAME["llama-gqa"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process: the child's own start has tests of its own."""
    monkeypatch.setattr(reading, "run", run_here)


def run_here(job: Job, out: Path) -> dict[str, Any]:
    tensors = child.read_weights(job.weights) if job.weights else {}
    with out.open("wb") as file:
        return roomy(lambda: child.respond(job, tensors, file))


def repository(llama: Tiny, folder: Path, *changes: Change, **config: Any) -> Path:
    own = texts.repository(llama.checkpoint, folder, texts.plain(*changes))
    if config:
        file = own / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return own


def found(llama: Tiny, folder: Path, *changes: Change, **config: Any) -> Reading:
    own = repository(llama, folder / "own", *changes, **config)
    return read(str(own), None, Hub(offline=True), lambda line: None)


@pytest.mark.parametrize("run", first(1, [run_here, run]))
def test_from_code_to_a_build_that_equals_it(
    llama: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[[Job, Path], dict[str, Any]],
) -> None:
    """The whole road, each step a command: read, compile, verify against the text."""
    monkeypatch.setattr(reading, "run", run)
    own, spec = repository(llama, tmp_path / "own"), tmp_path / "plain.yaml"
    assert main(["read", str(own), "-o", str(spec)]) == 0
    out, told = capsys.readouterr()
    assert told.startswith("glmc: reading the code of ")
    assert "\nglmc: modeling_plain.py: PlainForCausalLM, " in told
    assert "extends llama, equal to modeling_plain.py" in out
    tree = yaml.safe_load(spec.read_text())
    assert (tree["verified"], tree["match"]["model_type"]) == ("text", ["plain"])
    build = tmp_path / "build"
    assert main(["compile", str(own), "-o", str(build)]) == 2
    assert "`glmc compile --read` does both" in capsys.readouterr().err
    assert main(["compile", str(own), "--spec", str(spec), "-o", str(build)]) == 0
    command = ["verify", build, "--weights", own, "--against-text", own]
    assert main([str(part) for part in command]) == 0


@dataclass(frozen=True)
class Made:
    """A reading of Plain, and the small models that it was proved with."""

    reading: Reading
    small: list[Any]


@pytest.fixture(scope="module")
def made(tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Plain, with a key in its config that nothing reads; read once."""
    folder = tmp_path_factory.mktemp("plain")
    kept: list[Any] = []

    def keep(at: Path, *given: Any) -> Any:
        kept.append(make_small(folder / at.name, *given))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "run", run_here)
        patch.setattr(reading, "make_small", keep)
        own = found(tiny(BY_NAME["llama-gqa"]), folder, unheard_of=7)
    return Made(own, kept)


def test_compile_reads_and_keeps_the_certificate(
    llama: Tiny, tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = repository(llama, tmp_path / "own", unheard_of=7)
    build = tmp_path / "build"
    monkeypatch.setattr(command, "_read", lambda *_: made.reading)
    assert main(["compile", str(own), "--read", "-o", str(build)]) == 0
    manifest = json.loads((build / "manifest.json").read_text())
    assert manifest["read"]["worst_difference"] < options.TOLERANCE
    assert manifest["spec"] == "plain"


def test_what_the_certificate_says(made: Made) -> None:
    read = made.reading
    facts = read.certificate
    assert read.extends == "llama"
    assert facts["worst_difference"] < 1e-4
    assert facts["longest"] == "beyond the longest trained length"
    assert any("on both sides" in line for line in facts["lengths"])
    sizes = [set(one.values()) for one in facts["sizes"]]
    assert not sizes[0] & sizes[1]
    assert read.tree["ignore"] == {"unheard_of": "the published code does not read it"}
    assert "worst_difference" in read.spec


def some(names: Iterable[str], *quick: str) -> list[Any]:
    """The names, those that are not quick marked slow: each reads a whole model."""
    slow = pytest.mark.slow
    return [n if n in quick else pytest.param(n, marks=slow) for n in names]


SETTLED: dict[str, tuple[Change, str]] = {
    "pairs of rope": (
        (
            "    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]\n"
            "    return torch.cat((-x2, x1), dim=-1)",
            "    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)",
        ),
        "pairs of rope",
    ),
    "norm offset": (
        ("return self.weight * x", "return (1 + self.weight) * x"),
        "norm offset",
    ),
    "epsilon": (("+ self.eps)", "+ 1e-6)"), "epsilon"),
    "scale of embeddings": (
        (
            "x = self.embed_tokens(input_ids)",
            "x = self.embed_tokens(input_ids) * self.config.hidden_size**0.5",
        ),
        "scale of embeddings",
    ),
    "order of gate and up": (
        (
            "self.act_fn(self.gate_proj(x)) * self.up_proj(x)",
            "self.act_fn(self.up_proj(x)) * self.gate_proj(x)",
        ),
        "order of gate and up",
    ),
    "activation": (
        ("self.act_fn(self.gate_proj(x))", "F.relu(self.gate_proj(x)).square()"),
        "activation",
    ),
    "scale of scores": (
        ("/ math.sqrt(self.head_dim)", "* 1.0"),
        "scale of scores",
    ),
    "parallel block": (
        (
            "        residual = x\n"
            "        x = self.mlp(self.post_attention_layernorm(x))\n"
            "        x = residual + x\n",
            "        x = x + self.mlp(self.post_attention_layernorm(residual))\n",
        ),
        "parallel block",
    ),
}
# Rope turned in pairs needs its table in pairs too.
_PAIRED = ("emb = torch.cat((freqs, freqs), dim=-1)",
           "emb = freqs.repeat_interleave(2, dim=-1)")  # fmt: skip


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", some(SETTLED, "epsilon"))
def test_what_no_header_shows_is_settled_by_the_code(
    name: str, llama: Tiny, tmp_path: Path
) -> None:
    change, settled = SETTLED[name]
    changes = [change, _PAIRED] if name == "pairs of rope" else [change]
    made = found(llama, tmp_path, *changes)
    assert settled in made.certificate["settled"]
    assert made.certificate["worst_difference"] <= options.TOLERANCE


REFUSED: dict[str, tuple[Change, str]] = {
    "no option has it": (
        ("x = self.norm(x)", "x = self.norm(x) * 1.01"),
        "ended at the stage 'ends'",
    ),
    "a sine in the feed-forward": (
        ("self.act_fn(self.gate_proj(x))", "torch.sin(self.gate_proj(x))"),
        "ended at the stage 'feed-forward'",
    ),
    "a decision that shrinking flips": (
        ("if times == 1:", "if x.shape[-1] == 16:\n        x = +x\n    if times == 1:"),
        "is true with the real config and false in a small model",
    ),
    "a decision by data": (
        ("x = self.norm(x)", "x = self.norm(x) if x.mean() > -9 else x"),
        "decides by the values of a tensor",
    ),
    "a length beyond the proof": (
        ("x = self.norm(x)", "x = self.norm(x) if length < 4096 else x"),
        "with 4096, and no small model gets beyond that",
    ),
    "a window in a mask": (
        ("hidden = k > q", "hidden = (k > q) | (k <= q - 4096)"),
        "all of them lie on one side",
    ),
    "a window in a chain of calls": (
        ("hidden = k > q", "hidden = k > (q - 4096).clamp(max=4096).clamp(min=0) + q"),
        "all of them lie on one side",
    ),
    "a window beyond short prompts": (
        ("hidden = k > q", "hidden = (k > q) | (k < q - 40)"),
        "ended at the stage 'whole'",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name",
    some(REFUSED, "a sine in the feed-forward", "a decision that shrinking flips"),
)
def test_what_is_refused_and_why(name: str, llama: Tiny, tmp_path: Path) -> None:
    change, says = REFUSED[name]
    with pytest.raises(UnprovedError) as caught:
        found(llama, tmp_path, change)
    assert says in str(caught.value)


MUTANTS: dict[str, Change] = {
    "eps": ("variance + self.eps", "variance + 1.1 * self.eps"),
    "scale": ("/ math.sqrt(self.head_dim)", "/ math.sqrt(self.head_dim + 0.01)"),
    "soft cap": ("weights = weights + attention_mask",
                 "weights = 30 * torch.tanh(weights / 30) + attention_mask"),
    "window": ("hidden = k > q", "hidden = (k > q) | (k <= q - 16)"),
    "rotated half": ("torch.cat((-x2, x1), dim=-1)", "torch.cat((x2, -x1), dim=-1)"),
    "norm offset": ("return self.weight * x", "return (1 + self.weight) * x"),
    "gate and up": ("self.act_fn(self.gate_proj(x)) * self.up_proj(x)",
                    "self.act_fn(self.up_proj(x)) * self.gate_proj(x)"),
    "head order": ("x = x[:, :, None].expand(b, heads, times, length, dim)",
                   "x = x[:, None].expand(b, times, heads, length, dim)"),
    "off by one": ("return q * cos + rotate_half(q) * sin,",
                   "cos, sin = cos.roll(1, 2), sin.roll(1, 2)\n"
                   "    return q * cos + rotate_half(q) * sin,"),
    "tie": ("logits = self.lm_head(outputs[0]).float()",
            "logits = F.linear(outputs[0], self.model.embed_tokens.weight)"),
    "dtype": ("x = self.norm(x)", "x = self.norm(x.to(torch.bfloat16).float())"),
    "residual": ("x = residual + x", "x = residual * 0.999 + x"),
}  # fmt: skip


def test_the_text_itself_is_not_apart(made: Made) -> None:
    assert max(_apart(made.reading.text, one) for one in made.small) == 0


@pytest.mark.parametrize("name", first(4, [*MUTANTS]))
def test_no_mutant_passes_for_what_it_was_made_from(made: Made, name: str) -> None:
    """The spec of Plain against the logits of each mutant, on its two small models."""
    own = made.reading.text
    changed = type(own)(
        texts.plain(MUTANTS[name]), own.file, own.model_class, own.config_file,
        own.config_class,
    )  # fmt: skip
    worst = max(_apart(changed, one) for one in made.small)
    assert worst > 3 * options.TOLERANCE


RESTARTS: Change = ("torch.arange(past, past + length", "torch.arange(0, length")
PREPARES: Change = (
    '{"input_ids": input_ids}',
    '{"position_ids": torch.arange(input_ids.shape[1])[None, -1:]}',
)


@pytest.mark.parametrize("prepared", [True, False])
def test_a_step_has_the_positions_that_the_text_prepares(
    made: Made, prepared: bool
) -> None:
    """Without its own ``prepare_inputs_for_generation`` such a text restarts at 0."""
    own = made.reading.text
    changes = (RESTARTS, PREPARES) if prepared else (RESTARTS,)
    changed = type(own)(
        texts.plain(*changes), own.file, own.model_class, own.config_file,
        own.config_class,
    )  # fmt: skip
    worst = max(_apart(changed, one) for one in made.small)
    assert worst < 1e-6 if prepared else worst > 3 * options.TOLERANCE


def _apart(text: Any, small: Any) -> float:
    """Return how far a text is from the answers of a small model."""
    job = Job(
        text, [reading._plain(small.config)], vocab=small.sizes.vocab, kind="stages",
        stages={"whole": []}, longest=small.sizes.longest + BEYOND,
    )  # fmt: skip
    out = io.BytesIO()
    roomy(lambda: child.respond(job, small.tensors, out))
    file = small.folder / "mutant.safetensors"
    file.write_bytes(out.getvalue())
    got = {given.name: (given, answer["logits"]) for given, answer in read_golden(file)}
    return max(
        difference(got[given.name][1][given.real], want[given.real])
        for given, want in small.answers["whole"]
    )


BEYOND_TRAINED: Change = (
    "q, k = apply_rotary(q, k, cos, sin, position_ids)",
    "q, k = apply_rotary(q, k, cos, sin, position_ids)\n"
    "        beyond = position_ids >= self.rotary_emb.trained\n"
    "        q = q * torch.where(beyond, 2.0, 1.0)[:, None, :, None]",
)

TRAINED: Change = (
    "self._table(longest)",
    "self.trained = longest\n        self._table(longest)",
)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_text_that_differs_beyond_its_trained_length_only(
    llama: Tiny, tmp_path: Path
) -> None:
    """As those that scale queries from there on: proved up to it, and told."""
    read = found(llama, tmp_path, TRAINED, BEYOND_TRAINED)
    assert read.certificate["longest"].startswith("up to the longest trained length")
    assert read.certificate["worst_difference"] < options.TOLERANCE
    assert "beyond the longest trained length" in read.tree["caveat"]


@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_size"])
def test_a_config_without_a_size(key: str, llama: Tiny, tmp_path: Path) -> None:
    own = repository(llama, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    del config[key]
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnprovedError, match="no small model can be made"):
        read(str(own), None, Hub(offline=True), lambda line: None)


def test_the_first_line_comes_before_anything_is_computed(
    llama: Tiny, tmp_path: Path
) -> None:
    own = repository(llama, tmp_path / "own")
    lines: list[str] = []

    class Stop(Exception):
        pass

    def tell(line: str) -> None:
        lines.append(line)
        raise Stop

    with pytest.raises(Stop):
        read(str(own), None, Hub(offline=True), tell)
    assert lines[0].startswith("modeling_plain.py: PlainForCausalLM, ")
