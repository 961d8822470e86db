"""The constants in which layers of one block differ: a row for each layer, made in the
stem."""

from collections.abc import Iterator, Sequence

from glmc.ir import model as m

FACTORS = "factors"
"""A layer's row of constants."""
LAYER_FACTORS = "layer_factors"
"""The stem's value with the rows of all layers."""

Factor = float | tuple[float, ...]


def varied(steps: Sequence[m.Step]) -> list[tuple[float, ...]]:
    """Return the factors of steps that are not the same in every layer of their
    block."""
    given = (each for step in steps for each in _factors(step))
    return list(dict.fromkeys(each for each in given if isinstance(each, tuple)))


def _factors(step: m.Step) -> Iterator[Factor]:
    yield step.residual_scale
    yield step.scale
    if isinstance(step.op, m.Mixer) and step.op.steady:
        yield step.op.steady.scale


def rows(model: m.Model) -> tuple[tuple[float, ...], ...]:
    """Return a row of factors for each layer, where they differ among layers of a kind,
    rounded to the digits of fp32. Rows of layers with fewer factors are filled with
    ones."""
    every = [(block, varied(block.steps)) for block in model.blocks]
    most = max(len(factors) for _, factors in every)
    found = {
        layer: [float(f"{each[at]:.9g}") for each in factors]
        for block, factors in every
        for at, layer in enumerate(block.layers)
    }
    if not most:
        return ()
    return tuple((*found[n], *[1.0] * (most - len(found[n]))) for n in sorted(found))
