"""A model of a text: made from a config, given weights, and called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from glmc.frontends.code.library import Library
from glmc.frontends.code.limits import Limits
from glmc.frontends.code.text import Text
from glmc.frontends.code.values import (
    MISSING,
    Class,
    Function,
    Instance,
    Module,
    Static,
)
from glmc.frontends.code.words import words
from glmc.ir.errors import (
    TextFailedError,
    TextRefusedError,
    TextUnreadableError,
    TextWeightsError,
)

Tensors = Mapping[str, torch.Tensor]

_NOT_PASSED = words("""
    auto_map _name_or_path _commit_hash model_type quantization_config
    attn_implementation _attn_implementation
""")
_INPUTS = ("input_ids", "attention_mask", "position_ids", "past_key_values")


@dataclass
class Slot:
    """A tensor of a model: who holds it, and all names that it has."""

    tensor: torch.Tensor
    holders: list[tuple[Instance, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class TextModel:
    """A model of a text with a config; called like a model of transformers."""

    def __init__(
        self,
        text: Text,
        config: Mapping[str, Any],
        limits: Limits | None = None,
        attention: str = "eager",
    ) -> None:
        """Read the text and make the model, with weights that are all zero or one.

        Raises:
            GlmcError: with file and line, where the text cannot be carried out.
        """
        self.library = Library(text.texts, limits)
        self.machine = self.library.machine
        module = self.library.open(text.file)
        cls = _class(module, text.model_class)
        self.config = self._configure(text, module, cls, config)
        self.config.names["_attn_implementation"] = attention
        made = self.machine.run(cls, self.config)
        if not isinstance(made, Instance):
            raise TextUnreadableError(f"{text.model_class} makes no model.")
        self.root: Instance = made
        self.cache: Any = None
        self._tie()

    @property
    def records(self) -> Any:
        """The records of the runs so far."""
        return self.machine.records

    def _configure(
        self, text: Text, module: Module, cls: Class, config: Mapping[str, Any]
    ) -> Instance:
        if text.config_file and text.config_class:
            found = _class(self.library.open(text.config_file), text.config_class)
        else:
            found = self._config_class(module, cls)
        made = self.machine.run(found, **_plain(config))
        if not isinstance(made, Instance):
            raise TextUnreadableError(f"{found.name} makes no configuration.")
        return made

    def _config_class(self, module: Module, cls: Class) -> Class:
        """Return the configuration class that the model names: by a value or an
        annotation."""
        found = cls.find("config_class")
        if isinstance(found, Class):
            return found
        for one in cls.order:
            annotation = one.fields.get("config")
            if annotation is not None:
                name = getattr(annotation.annotation, "id", "")
                found = one.module.names.get(name)
                if isinstance(found, Class):
                    return found
        raise TextUnreadableError(
            f"{module.file}: {cls.name} does not say which class its config is of."
        )

    # -- tensors

    def slots(self) -> list[Slot]:
        """List every parameter and saved buffer once, with all names that lead to
        it."""
        found: dict[int, Slot] = {}
        base = self.library.tables["torch.nn"].names["Module"]
        waiting: list[tuple[str, Instance]] = [("", self.root)]
        while waiting:
            path, module = waiting.pop(0)
            known = module.names.get("_buffer_names")
            saved = known if isinstance(known, dict) else {}
            for name, value in module.names.items():
                full = f"{path}.{name}" if path else name
                if isinstance(value, Instance) and value.cls.derives(base):
                    waiting.append((full, value))
                elif isinstance(value, torch.Tensor) and _is_saved(name, value, saved):
                    slot = found.setdefault(id(value), Slot(value))
                    slot.holders.append((module, name))
                    slot.names.append(full)
        return list(found.values())

    def load(self, tensors: Tensors) -> None:
        """Give the model its weights; a tensor has one name, or those it is tied by.

        Raises:
            GlmcError: when a tensor is missing, left over, or of another shape.
        """
        slots = self.slots()
        left = set(tensors)
        wrong: list[str] = []
        for slot in slots:
            named = [name for name in slot.names if name in tensors]
            left -= set(named)
            if not named:
                wrong.append(f"{slot.names[0]} is missing")
                continue
            tensor = tensors[named[0]]
            if tensor.shape != slot.tensor.shape:
                shapes = f"{list(tensor.shape)}, not {list(slot.tensor.shape)}"
                wrong.append(f"{named[0]} has the shape {shapes}")
                continue
            _place(slot, tensor)
        wrong += [f"{name} is left over" for name in sorted(left)]
        if wrong:
            more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
            raise TextWeightsError(
                f"the text and the weights disagree: {'; '.join(wrong[:6])}{more}."
            )

    def _tie(self) -> None:
        """Tie what the base class ties, where the config says so."""
        config = self.config.names
        inner = config.get("text_config")
        tied = config.get("tie_word_embeddings")
        if tied is None and isinstance(inner, Instance):
            tied = inner.names.get("tie_word_embeddings")
        keys = self.root.cls.find("_tied_weights_keys")
        if not tied or keys is MISSING or not keys:
            return
        if isinstance(keys, dict):
            by_name = {name: slot for slot in self.slots() for name in slot.names}
            for target, source in keys.items():
                if target in by_name and source in by_name:
                    _share(by_name[source], by_name[target])
            return
        ends = [
            self.machine.run(self.machine.get(self.root, name))
            for name in ("get_input_embeddings", "get_output_embeddings")
        ]
        if all(isinstance(end, Instance) for end in ends):
            ends[1].names["weight"] = ends[0].names["weight"]

    # -- calls

    def __call__(self, **given: Any) -> "Answer":
        """Return logits [B,T,V] and the cache; takes the arguments of a model of
        transformers."""
        forward = self.root.cls.find("forward")
        while isinstance(forward, Function) and "__wrapped__" in forward.attributes:
            forward = forward.attributes["__wrapped__"]
        if not isinstance(forward, Function):
            raise TextRefusedError(f"{self.root.cls.name} has no forward to be called.")
        spec = forward.node.args
        known = {a.arg for a in (*spec.args, *spec.kwonlyargs)}
        more = {"use_cache": True, "return_dict": True, **given}
        named = {
            name: value
            for name, value in more.items()
            if value is not None and (name in known or (spec.kwarg and name in _INPUTS))
        }
        result = self.machine.run(self.root, **named)
        return Answer(self._part(result, "logits", 0), self._part(
            result, "past_key_values", 1))  # fmt: skip

    def positions(
        self, ids: torch.Tensor, mask: torch.Tensor | None, cache: Any, new: int
    ) -> torch.Tensor | None:
        """Return the positions of the last ``new`` tokens of ``ids`` [B,S] that the
        text's own ``prepare_inputs_for_generation`` says, [B,new] or [B,2,new]; None
        where the text has none, or says nothing of them."""
        prepare = self.root.cls.find("prepare_inputs_for_generation")
        if not isinstance(prepare, Function) or prepare.scope.module.contract:
            return None
        spec = prepare.node.args
        known = {a.arg for a in (*spec.args, *spec.kwonlyargs)}
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "past_key_values": cache,
            "past": cache,
            "use_cache": True,
            "is_first_forward": False,
        }
        named = {name: value for name, value in given.items() if name in known}
        method = self.machine.get(self.root, "prepare_inputs_for_generation")
        try:
            said = self.machine.run(method, **named)
        except (TextFailedError, TextRefusedError):
            return None  # it is asked for positions only, and forward has its own
        found = said.get("position_ids") if isinstance(said, dict) else None
        return found[..., -new:] if isinstance(found, torch.Tensor) else None

    def _part(self, result: Any, name: str, at: int) -> Any:
        if isinstance(result, Instance):
            return result.names.get(name)
        if isinstance(result, tuple) and len(result) > at:
            return result[at]
        return None

    def watch(self, keep: Callable[[int, Any], None], count: int) -> None:
        """Show what each of ``count`` layers gives to ``keep``, with its number."""
        layers = self.layers(count)
        self.machine.watching = {
            id(layer): partial(keep, at) for at, layer in enumerate(layers)
        }

    def layers(self, count: int) -> list[Instance]:
        """Return the members of the first list of modules that has so many."""
        listed = self.library.tables["torch.nn"].names["ModuleList"]
        waiting, seen = [self.root], {id(self.config)}
        while waiting:
            one = waiting.pop(0)
            if one.cls.derives(listed) and one.names.get("_count") == count:
                return [one.names[str(at)] for at in range(count)]
            inner = [v for v in one.names.values() if isinstance(v, Instance)]
            waiting += [v for v in inner if id(v) not in seen]
            seen |= {id(v) for v in inner}
        return []


@dataclass(frozen=True)
class Answer:
    """The result of a call: logits [B,T,V] and the cache, as the text has it."""

    logits: torch.Tensor
    past_key_values: Any


def _is_saved(name: str, value: torch.Tensor, known: dict[str, Any]) -> bool:
    if isinstance(value, torch.nn.Parameter):
        return True
    if isinstance(value, torch.nn.Buffer):
        return bool(value.persistent)
    return bool(known.get(name))


def _place(slot: Slot, tensor: torch.Tensor) -> None:
    made: Any = tensor.to(slot.tensor.dtype).detach()
    if isinstance(slot.tensor, torch.nn.Parameter):
        made = torch.nn.Parameter(made, requires_grad=False)
    for holder, name in slot.holders:
        holder.names[name] = made


def _share(source: Slot, target: Slot) -> None:
    for holder, name in target.holders:
        holder.names[name] = source.tensor


def _class(module: Module, name: str) -> Class:
    found = module.names.get(name)
    if isinstance(found, Static) or not isinstance(found, Class):
        made = sorted(n for n, v in module.names.items()
                      if isinstance(v, Class) and v.module is module)  # fmt: skip
        raise TextUnreadableError(
            f"{module.file} has no class {name}; it has {', '.join(made[:12])}."
        )
    return found


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json that a configuration is made from."""
    return {key: value for key, value in config.items() if key not in _NOT_PASSED}
