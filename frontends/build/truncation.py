"""Waive the layers that ``--set`` leaves out of a model with fewer than its
checkpoint."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from glmc.ir.model import Block, Model, Waiver


def cut_lists(
    config: Mapping[str, object], before: int, after: int, set_keys: Collection[str]
) -> dict[str, object]:
    """Cut a config's lists of layers, such as ``layer_types``, to ``after``.

    Lists of another length than ``before`` and those the user has set stay as they are.
    """
    result = dict(config)
    for key, value in config.items():
        listed = key.endswith("_types") and key not in set_keys
        if listed and isinstance(value, list) and after < len(value) == before:
            result[key] = value[:after]
    return result


def waive_left_out(model: Model, published: Model) -> Model:
    """Add waivers for the layers of ``published`` that the model does not have.

    What the published config waives stays waived as it says it: such a waiver may name
    tensors by the number of layers.
    """
    kept = {number for block in model.blocks for number in _numbers(block)}
    by_prefix: dict[str, set[int]] = {}
    for block in published.blocks:
        by_prefix.setdefault(block.prefix, set()).update(_numbers(block) - kept)
    reason = "a layer that --set leaves out"
    found = [
        Waiver(pattern=prefix.replace("{i}", glob) + "*", reason=reason)
        for prefix, layers in by_prefix.items()
        for glob in number_globs(layers)
    ]
    if not found:
        return model
    said = {waiver.reason for waiver in published.waivers}
    own = [waiver for waiver in model.waivers if waiver.reason not in said]
    others = (*published.waivers, *own)
    return model.model_copy(update={"waivers": (*found, *others)})


def _numbers(block: Block) -> set[int]:
    return set(block.numbers or block.layers)


def number_globs(numbers: Iterable[int]) -> Iterator[str]:
    """Yield globs that match these numbers in decimal, and no other: ``[5-9]``,
    ``1[0-9]``.

    >>> list(number_globs(range(7, 24)))
    ['[7-9]', '1[0-9]', '2[0-3]']
    """
    tens: dict[int, list[int]] = {}
    for number in sorted(numbers):
        tens.setdefault(number // 10, []).append(number % 10)
    for front, digits in tens.items():
        shown = f"{front}" if front else ""
        first, last = digits[0], digits[-1]
        if len(digits) == last - first + 1 > 1:
            yield f"{shown}[{first}-{last}]"
        else:
            yield from (f"{shown}{digit}" for digit in digits)
