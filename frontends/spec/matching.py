"""The configs a spec takes, and its demands on them."""

from glmc.frontends.language.kinds import Constant, Formula, Name
from glmc.frontends.language.sections import Section


class Match(Section):
    """The configs a spec is for; ``any_key`` tells namesakes apart by their keys.

    ``borrowed_architectures``: classes of other specs that its configs may name too.
    ``text_model_type``: those of the text part, where namesakes differ in it.
    """

    model_type: tuple[Name, ...] = ()
    architectures: tuple[Name, ...] = ()
    borrowed_architectures: tuple[Name, ...] = ()
    any_key: tuple[Name, ...] = ()
    text_model_type: tuple[Name, ...] = ()


class Refusal(Section):
    """Configs that match but mean something else; looked at before all else."""

    when: Formula
    because: Name


class Check(Section):
    """A condition on sizes that would contradict each other otherwise."""

    that: Formula
    otherwise: Name


class Expectation(Section):
    """A config key of which only some values are supported. Null stands for absent."""

    values: tuple[Constant, ...]
    otherwise: Name = "other values are not supported"
