"""A draft for a checkpoint that no spec explains: every section, from the evidence."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from glmc.authoring.evidence import Evidence, Module, grouped
from glmc.authoring.norms import Norms, place
from glmc.authoring.roles import Role, Roles, assign
from glmc.authoring.sheet import Sheet, write_match
from glmc.authoring.sizes import Finder, Sizes, measure
from glmc.authoring.vocabulary import Vocabulary
from glmc.ir.errors import DraftError

# Names that no spec has, read as people write them.
_HINTS = {
    "embed_norm": r"emb.*(norm|ln)",
    "positions": r"pos(ition)?_?emb|embed_pos|wpe",
    "embed": r"(^|[._])(tok|word|emb|wte)",
    "final_norm": r"(^|[._])(norm|ln|final|layer_?norm)",
    "head": r"head|output",
}
_ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "rotary")


@dataclass(frozen=True)
class _Outside:
    """The modules that belong to no layer, by what they are."""

    embed: Module
    positions: Module | None
    head: Module | None
    embed_norm: Module | None
    final_norm: Module | None
    unplaced: list[Module]
    final_doubt: str


def write_spec(sheet: Sheet, evidence: Evidence, words: Vocabulary) -> None:
    """Write all sections of a spec.

    Raises:
        GlmcError: when there is no embedding, or no key for the number of heads.
    """
    _Scratch(sheet, evidence, words).write()


class _Scratch:
    def __init__(self, sheet: Sheet, evidence: Evidence, words: Vocabulary) -> None:
        self.sheet, self.evidence, self.words = sheet, evidence, words
        self.find = Finder(evidence.config, words)
        self.outside = _outside(evidence, words)
        self.sizes: Sizes = measure(evidence, self.find, self.outside.embed)
        every = evidence.inner.values()
        # Numbered modules within a layer are experts, which a draft leaves to people.
        plain = [m for m in every if not re.search(r"(^|\.)\d+(\.|$)", m.name)]
        self.roles: Roles = assign(plain, self.sizes, words)
        self.norms: Norms = place(plain, self.sizes, words)
        self.numbered = [m for m in every if m not in plain]

    def write(self) -> None:
        self.sheet.short("extends", "_common")
        write_match(self.sheet, self.evidence.config)
        if self.evidence.text_in:
            self.sheet.short("text_in", self.evidence.text_in)
        for part in (
            self.dims,
            self.stack,
            self.norm,
            self.per_layer,
            self.block,
            self.ops,
            self.ends,
            self.weights,
            self.leftovers,
        ):
            self.sheet.gap()
            part()

    def dims(self) -> None:
        self.sheet.heading("dims")
        for name, guess in self.sizes.dims():
            self.sheet.short(name, guess.text, guess.doubt, "  ")

    def stack(self) -> None:
        sheet, layers = self.sheet, self.sizes.layers
        sheet.short("layers", layers.text, layers.doubt)
        sheet.short("layer_prefix", self.evidence.layer_prefix)
        root = self.evidence.layer_prefix.partition(".")[0] + "."
        if self.outside.embed.name.startswith(root):
            sheet.short("optional_prefix", root)
        table = self.outside.positions
        longest = self.find.named("max_positions")
        if table and table.weight:
            longest = self.find.size("max_positions", table.weight[0])
        if longest:
            sheet.short("max_positions", longest.text, longest.doubt)
        for line in grouped(self.evidence):
            sheet.doubt(f"layers differ: {line}")

    def norm(self) -> None:
        keys = [k for k, _ in self.words.keys["norm.eps"].most_common()]
        keys += [k for k in self.find.config if "eps" in k and k not in keys]
        eps = next((k for k in keys if isinstance(self.find.config.get(k), float)), "")
        kind, doubt = "rms", ""
        if self.norms.biased:
            kind = "layer"
        elif "rms" not in eps:
            doubt = "RMSNorm, or a LayerNorm without bias (layer)?"
        entries: dict[str, object] = {"kind": kind, "eps": f"=c.{eps}" if eps else 1e-5}
        if kind == "layer":
            entries["bias"] = True
        if not eps:
            doubt += " no config key is an epsilon"
        self.sheet.short("norm", entries, doubt.strip())

    def kinds(self) -> list[str]:
        """List the kinds of layer that ``layer_types`` names."""
        given = self.find.config.get("layer_types")
        if not isinstance(given, list) or not all(isinstance(k, str) for k in given):
            return []
        return sorted(set(given))

    def per_layer(self) -> None:
        if self.kinds():
            self.sheet.heading("per_layer")
            entry = {"value": "=c.layer_types[i]", "one_of": self.kinds()}
            self.sheet.short("kind", entry, indent="  ")

    def block(self) -> None:
        names = {"attention": "attn", "mlp": "mlp"}
        steps = [{**step, "op": names[str(step["op"])]} for step in self.norms.steps]
        self.sheet.entry("block", steps, self.norms.steps_doubt)

    def ops(self) -> None:
        sheet = self.sheet
        sheet.heading("ops")
        sheet.heading("attn", indent="  ")
        entries = {"kind": "attention", "heads": "=H", "kv_heads": "=K"}
        for key, value in {**entries, "head_dim": "=D", "scale": "=D ** -0.5"}.items():
            sheet.short(key, value, indent="    ")
        self.window()
        self.rope()
        if self.norms.qk:
            names = dict(sorted(self.norms.qk.items(), reverse=True))
            sheet.short("qk_norm", names, self.norms.qk_doubt, "    ")
        mlp: dict[str, object] = {"kind": "mlp"}
        if not self.roles.has("gate"):
            mlp["gated"] = False
        act, doubt = self.activation()
        sheet.short("mlp", {**mlp, "act": act, "ff": "=F"}, doubt, "  ")

    def activation(self) -> tuple[str, str]:
        keys = [k for k, _ in self.words.keys["mlp.act"].most_common()]
        keys += [k for k in self.find.config if "act" in k and k not in keys]
        for key in keys:
            if isinstance(self.find.config.get(key), str):
                return f"=c.{key}", ""
        return "silu", "no config key names the activation"

    def window(self) -> None:
        found = self.find.named("attention.window")
        kinds = self.kinds()
        if not found or (kinds and not any("sliding" in kind for kind in kinds)):
            return
        if len(kinds) > 1:
            kind = next(kind for kind in kinds if "sliding" in kind)
            text = f"{found.text} if kind == {kind!r} else null"
            self.sheet.short("window", text, indent="    ")
            return
        doubt = "" if kinds else "in every layer, or only in some, or switched off?"
        self.sheet.short("window", found.text, doubt, "    ")

    def rope(self) -> None:
        if self.outside.positions:
            return
        config, doubts = self.find.config, []
        if not any(key.startswith(_ROPE_KEYS) for key in config):
            doubts.append("no config key speaks of rope: are there positions at all?")
        doubts.append("half: channel j turns with j + dim/2; or interleaved: 2j, 2j+1?")
        dim: object = "=int(D * rope().partial)"
        own = self.find.named("attention.rope.dim")
        if own and own.value <= self.sizes.D.value and own.keys != self.sizes.D.keys:
            dim = own.text
        entry = {"params": "=rope()", "dim": dim, "style": "half"}
        self.sheet.short("rope", entry, " ".join(doubts), "    ")

    def ends(self) -> None:
        norm, head = self.outside.final_norm, self.outside.head
        if self.outside.embed_norm:
            self.sheet.short("embed_norm", self.outside.embed_norm.name)
        if norm:
            self.sheet.short("final_norm", norm.name, self.outside.final_doubt)
        tied: object = head is None
        for key, _ in self.words.keys["head.tied"].most_common():
            if self.find.config.get(key) is tied:
                tied = f"=c.{key}"
                break
        self.sheet.short("head", {"tied": tied})

    def weights(self) -> None:
        outside, sheet = self.outside, self.sheet
        sheet.heading("weights")
        sheet.short("embed", outside.embed.name, indent="  ")
        if outside.positions:
            sheet.short("positions", outside.positions.name, indent="  ")
        order = "qkvogud"
        for role in sorted(self.roles.found, key=lambda r: order.index(r.slots[0][0])):
            value = self.entry(role)
            sheet.short("+".join(role.slots), value, role.doubt, "  ")
        head = outside.head.name if outside.head else "lm_head"
        bias = outside.head is not None and outside.head.bias is not None
        value = {"name": head, "bias": True} if bias else head
        sheet.short("head", value, indent="  ")

    def entry(self, role: Role) -> object:
        """Return a name, or a mapping where there is more to say."""
        entry: dict[str, object] = {"name": role.module.name}
        if role.layout:
            entry["layout"] = role.layout
        if role.module.bias:
            entry["bias"] = self.bias(role)
        return entry if len(entry) > 1 else role.module.name

    def bias(self, role: Role) -> object:
        """Return a config key that is true and switches such biases elsewhere, or
        true."""
        for key, _ in self.words.keys[f"weights.{'+'.join(role.slots)}.bias"].items():
            if self.find.config.get(key) is True:
                return f"=c.{key}"
        return True

    def leftovers(self) -> None:
        evidence, sheet = self.evidence, self.sheet
        if evidence.waived:
            reasons = {glob: self.words.waived[glob] for glob in evidence.waived}
            sheet.entry("waive", reasons)
        seen: dict[str, None] = {}
        for module in self.unplaced():
            shape = list(module.weight or module.bias or ())
            name = re.sub(r"(?<=\.)\d+(?=\.|$)", "{j}", module.name)
            seen[f"{name} {shape}"] = None
        for name in evidence.odd:
            seen[re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name)] = None
        for line in seen:
            sheet.doubt(f"tensors without a slot: {line}")

    def unplaced(self) -> Iterator[Module]:
        yield from self.numbered
        yield from self.roles.unplaced
        yield from self.norms.unplaced
        yield from self.outside.unplaced
        for module in self.evidence.inner.values():
            if module.weight is None or len(module.weight) > 2:
                yield module


def _outside(evidence: Evidence, words: Vocabulary) -> _Outside:
    """Sort the modules outside the layers by name and shape."""
    rest = dict(evidence.outer)

    def take(slot: str) -> Module | None:
        for ask in (words.slots, words.slots_by_last, _hinted):
            for name, module in rest.items():
                asked = module.last if ask == words.slots_by_last else name
                # What such a name most often is, not what it is anywhere.
                if (slot,) in ask(asked)[:1]:
                    return rest.pop(name)
        return None

    matrices = [m for m in rest.values() if m.is_matrix and m.weight]
    embed = take("embed") or max(matrices, key=_rows, default=None)
    if embed is None or not embed.is_matrix or embed.weight is None:
        raise DraftError(
            f"{evidence.source.folder}: no matrix outside the layers looks like a token"
            " embedding; is this a language model's checkpoint?"
        )
    rest.pop(embed.name, None)
    head = take("head") or _same_shape(rest, embed)
    positions = take("positions")
    final, before = take("final_norm"), take("embed_norm")
    vectors = [m for m in rest.values() if m.is_vector]
    final = final or (vectors[-1] if vectors else None)
    for module in (head, final):
        if module:
            rest.pop(module.name, None)
    doubt = "which of the norms is the last?" if len(vectors) > 1 else ""
    return _Outside(embed, positions, head, before, final, list(rest.values()), doubt)


def _hinted(name: str) -> list[tuple[str, ...]]:
    return [(slot,) for slot, pattern in _HINTS.items() if re.search(pattern, name)]


def _rows(module: Module) -> int:
    return module.weight[0] if module.weight else 0


def _same_shape(modules: dict[str, Module], embed: Module) -> Module | None:
    return next((m for m in modules.values() if m.weight == embed.weight), None)
