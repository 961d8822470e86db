"""Forms of an op: what differs in structure between the calls that a model makes of it.

Each form has kernels of its own, in which nothing is left open. A choice is the Python
expression by which a call tells it: it is evaluated for each use of the op, and printed
where a launcher has to choose among forms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from glmc.backends.triton.uses import OpUse
from glmc.ir.op import Op, registry

Choice = bool | int | str | None

_CODES = {
    "codes": "bits is not None",
    "groups": "scale is not None and scale.dim() > 1",
    "zeros": "zeros is not None",
    "floats": "floats",
    "divided": "divided",
}
_BIAS = {"bias": "bias is not None"}
_OPENED = {"opened": "opened is not None"}
_ACT = {"fn": "fn", "gated": "gated"}
_SCORES = {
    "prefix": "prefix is not None",
    "slopes": "slopes is not None",
    "sinks": "sinks is not None",
    "window": "window is not None",
    "learned": "learned > 0",
    "chunk": "chunk is not None",
    "softcap": "softcap is not None",
}
_RMS = {"weight_in": "weight_in", "offset": "unit_offset"}
_LAYER = {**_BIAS, "offset": "unit_offset"}
_CODED = {
    "groups": "scale.dim() > 1",
    "zeros": "zeros is not None",
    "floats": "floats",
    "divided": "divided",
    **_BIAS,
}
CHOICES: Mapping[str, Mapping[str, str]] = {
    "rms_norm": _RMS,
    "add_rms_norm": _RMS,
    "layer_norm": _LAYER,
    "add_layer_norm": _LAYER,
    "reduce_add_rms_norm": _RMS,
    "reduce_add_layer_norm": _LAYER,
    "activation": {"fn": "fn"},
    "act_mul": {"fn": "fn"},
    "linear": _BIAS,
    "quantized_linear": _CODED,
    "quantized_gemm": _CODED,
    "linear_add": {**_CODES, **_BIAS},
    "linear_act": {**_CODES, **_BIAS, **_ACT},
    "rms_norm_linear": {**_CODES, **_BIAS, **_RMS, **_ACT},
    "layer_norm_linear": {
        **_CODES,
        "norm_bias": "norm_bias is not None",
        **_BIAS,
        "offset": "unit_offset",
        **_ACT,
    },
    "attention": _SCORES,
    "full_attention": {},
    "qkv_attention": {
        "rope": "cos is not None",
        "norm": "q_norm is not None",
        "style": 'cos is not None and (style or "half")',
        "sections": "cos is not None and sections",
        "weight_in": "q_norm is not None and weight_in",
        "offset": "q_norm is not None and unit_offset",
        **_SCORES,
    },
    "rms_normalize": {},
    "add": {},
    "mul": {},
    "scale": {"rounded": "rounded"},
    "gate": {"fn": "fn"},
    "soft_cap": {},
    "scale_by_factor": {},
    "blend": {},
    "token_shift": {},
    "memory_scan": {},
    "steady_decay": {"factors": "factors is not None"},
    "block_linear": _BIAS,
    "kv_write": {},
    "rope": {"style": "style", "sections": "sections", "reverse": "reverse"},
    "latent_write": {},
    "latent_attention": {"selection": "selection is not None"},
    "short_conv": {"fn": "fn", **_BIAS},
    "gated_norm": {
        "fn": "fn",
        "order": "order",
        "weight_in": "weight_in",
        "centred": "centred",
        "parts": "groups > 1",
        "whole": "groups > 1 and weight.shape[0] == x.shape[-1]",
    },
    "scan": {"keyed": "g.dim() == 4", "beta": "beta is not None", "ready": "True"},
    "selective_scan": {**_BIAS, **_OPENED},
    "lru_scan": _OPENED,
    "wkv_scan": _OPENED,
    "mix": {
        "fn": "fn",
        "l2": "l2_eps is not None",
        "keyed": "step.shape[-1] != a_log.shape[0]",
        "bounded": "floor is not None",
        "lowest": "low > 0",
        "capped": "high is not None",
        "steps": "steps",
        "beta": "beta is not None",
        "skip": "skip is not None",
        **{f"bias_{name}": f"bias_{name} is not None" for name in "qkv"},
        "dt_bias": "dt_bias is not None",
        "norm": "z is not None and norm is not None",
        "gate": "norm is not None and gate",
        "order": "norm is not None and order",
        "weight_in": "norm is not None and weight_in",
    },
    "moe_experts": {
        "clamped": "limit is not None",
        "fn": "limit is None and fn",
        "weigh": "weigh",
        "gate_up_bias": "gate_up_bias is not None",
        "down_bias": "down_bias is not None",
    },
    "quantized_experts": {
        "clamped": "limit is not None",
        "fn": "limit is None and fn",
        "gate_up_bias": "gate_up_bias is not None",
        "down_bias": "down_bias is not None",
        "zeros": "gate_up_zeros is not None",
        "floats": "floats",
        "divided": "divided",
    },
    "moe_router": {
        "score": "score",
        "after": "after",
        "judged": "groups > 1 and group_score",
        "zeroes": 'groups > 1 and ineligible == "zero"',
        "renormalise": "renormalise",
        "least": "renormalise and least_sum is not None",
        "added": "renormalise and sum_eps is not None",
        "correction": "correction is not None",
        "bias": "bias is not None",
    },
}
"""Op -> what its forms are told apart by -> the expression that tells it."""
_OF = {"quantized_gemm": "quantized_linear"}
# Of what most layers have a suffix says nothing.
_USUAL: Mapping[str, Choice] = {
    "style": "half",
    "sections": 1,
    "weight_in": "input",
    "weigh": "output",
}
# Choices whose words would be taken for those of another.
_SAID = {"after", "judged"}


@dataclass(frozen=True)
class Form:
    """The choices of some calls of an op, by name."""

    op: str
    choices: tuple[tuple[str, Choice], ...]

    @classmethod
    def of(cls, use: OpUse) -> "Form":
        """Return the form of a use; an op without choices has one."""
        known = arguments(use)
        told = CHOICES.get(use.name, {}).items()
        return cls(use.name, tuple((name, _told(text, known)) for name, text in told))

    def __getitem__(self, name: str) -> Choice:
        return dict(self.choices).get(name)

    def text(self, name: str) -> str:
        """Return a choice that is a word."""
        return str(self[name])

    def only(self, *names: str, op: str = "") -> "Form":
        """Keep some choices: for kernels that do not depend on the others."""
        kept = tuple((name, value) for name, value in self.choices if name in names)
        return Form(op, kept)


def arguments(use: OpUse) -> Mapping[str, Any]:
    """Map the parameters of an op's function to their values in a call: a stand-in for
    a tensor, None for one that is not given, and attributes with their defaults."""
    cls = op_class(use.name)
    found: dict[str, Any] = {
        name: _tensor(use, name) if required or name in use.operands else None
        for name, (_, required) in cls.operand_fields().items()
    }
    fields = cls.model_fields
    for name in cls.attribute_fields():
        default = None if fields[name].is_required() else fields[name].default
        found[name] = use.attrs.get(name, default)
    return found


def op_class(name: str) -> type[Op]:
    """Return the class of an op, or of the one whose arguments a launcher shares."""
    return registry()[_OF.get(name, name)]


def _tensor(use: OpUse, name: str) -> SimpleNamespace:
    shape = use.shapes.get(name, ())
    kept = SimpleNamespace(shape=shape)
    return SimpleNamespace(shape=shape, dim=lambda: len(shape), values=kept)


@cache
def _compiled(text: str) -> Any:
    return compile(text, "choice", "eval")


def _told(text: str, known: Mapping[str, Any]) -> Choice:
    found: Choice = eval(_compiled(text), {"__builtins__": {}}, dict(known))
    return found


def told(text: str, use: OpUse) -> Any:
    """Evaluate an expression of an op's arguments for a use of it."""
    return eval(_compiled(text), {"__builtins__": {}}, dict(arguments(use)))


def named(op: str, choices: Iterable[str] | None = None) -> set[str]:
    """Name the arguments of an op that its choices depend on, or that some of these
    do."""
    told = CHOICES.get(op, {})
    texts = [told[name] for name in (told if choices is None else choices)]
    return {name for text in texts for name in _compiled(text).co_names}


def forms(uses: Iterable[OpUse]) -> list[Form]:
    """List the forms of some uses, each once, in an order that does not depend on
    theirs."""
    return sorted({Form.of(use) for use in uses}, key=repr)


def differing(among: Sequence[Form]) -> list[str]:
    """Name the choices in which some forms differ."""
    names = [name for name, _ in among[0].choices] if among else []
    return [name for name in names if len({repr(form[name]) for form in among}) > 1]


def suffix(form: Form, among: Sequence[Form]) -> str:
    """Return the suffix that tells a form from others; empty for an only one."""
    names = differing(among)
    if not names:
        return ""
    said = {other: _words(other, names) for other in among}
    assert len(set(said.values())) == len(said), "two forms have one name"
    return f"_{said[form]}"


def _words(form: Form, names: Sequence[str]) -> str:
    words = [_word(name, form[name]) for name in names]
    return "_".join(filter(None, words)) or "plain"


def _word(name: str, value: Choice) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return name
    if value == _USUAL.get(name):
        return ""
    alone = isinstance(value, str) and name not in _SAID
    word = str(value) if alone else f"{name}_{value}"
    assert word.isidentifier(), word
    return word


def key(names: Sequence[str], op: str) -> list[str]:
    """Return the expressions by which a call tells its form."""
    return [CHOICES[op][name] for name in names]
