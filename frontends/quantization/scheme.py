"""The result of reading a quantisation config, and checks of such configs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from glmc.frontends.quantization.modules import NO_MODULES, Modules
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import (
    ConfigValueError,
    UnknownKeyError,
    UnsupportedQuantizationError,
)

UNQUANTISED = "compile the repository of the unquantised model"

Config = Mapping[str, object]


@dataclass(frozen=True)
class Scheme:
    """The matrices of a model that are quantised, and their formats."""

    storages: tuple[tuple[Modules | None, m.Storage], ...]
    """Modules and the format of those; None: of every linear map. The first that holds
    a module counts, and what none holds is left as floats."""
    skipped: Modules = NO_MODULES
    """Modules that are left as floats, whatever holds them."""
    waived: Mapping[str, str] = field(default_factory=dict)
    """Tensors that nothing is computed with: glob pattern to reason."""
    expected: tuple[m.Expected, ...] = ()
    """The values that tensors are assumed to have which are not read, or not in
    full."""
    head: bool = False
    """True where the head is a linear map like the others."""
    routers: bool = False
    """True where routers are quantised like other linear maps."""
    experts_only: bool = False


@dataclass(frozen=True)
class Keys:
    """The keys of a method's config, and their permitted values.

    ``valued``   key to the values that say what glmc does
    ``read``     keys that the method reads
    ``harmless`` keys that say nothing about how weights are stored
    """

    valued: Mapping[str, tuple[object, ...]]
    read: frozenset[str]
    harmless: frozenset[str] = frozenset()

    def check(self, config: Config, where: str = "quantization_config") -> None:
        """Refuse what the method does not know.

        Raises:
            GlmcError: on an unknown key, or a value that glmc does not read.
        """
        for key, value in config.items():
            if key in self.read or key in self.harmless:
                continue
            known = self.valued.get(key)
            if known is None:
                raise UnknownKeyError(
                    f"{where}.{show(key)} is {show(value)}, and glmc does not know what"
                    " it says about the weights. If it has no effect on them, compile"
                    f" with --ignore-key {where}.{key}"
                )
            if not any(value is one or value == one for one in known):
                supported = " or ".join(map(show, known))
                raise UnsupportedQuantizationError(
                    f"{where}.{key} is {show(value)}, supported is {supported};"
                    f" {UNQUANTISED}"
                )


def names_in(config: Config, key: str) -> tuple[str, ...]:
    """Read a list of module names or patterns; absent or null is none.

    Raises:
        GlmcError: when it is no list.
    """
    value = config.get(key)
    names = [] if value is None else value
    if not isinstance(names, list | tuple):
        raise ConfigValueError(
            f"quantization_config.{key} is {show(value)}, expected a list of module"
            " names"
        )
    return tuple(name for name in names if isinstance(name, str) and name)


def whole(config: Config, key: str, least: int) -> int:
    """Read a whole number of a sane size.

    Raises:
        GlmcError: when it is none.
    """
    value = config.get(key)
    plain = isinstance(value, int) and not isinstance(value, bool)
    if plain and isinstance(value, int) and least <= value < 1 << 20:
        return value
    raise UnsupportedQuantizationError(
        f"quantization_config.{key} is {show(value)}, expected a whole number from"
        f" {least}; {UNQUANTISED}"
    )


def flag(config: Config, key: str, default: bool) -> bool:
    """Read a truth value.

    Raises:
        GlmcError: when it is something else.
    """
    value = config.get(key, default)
    if isinstance(value, bool):
        return value
    raise ConfigValueError(
        f"quantization_config.{key} is {show(value)}, expected true or false"
    )


def in_order(pattern: str, group: int | None, key: str) -> m.Expected:
    """Expect columns in groups of so many, one after the other; None: in one group."""
    return m.Expected(
        pattern=pattern,
        kind="order" if group else "all",
        value=group or 0,
        otherwise="is not in order, and the config says that columns are; compile the"
        f" model again with --set {key}",
    )
