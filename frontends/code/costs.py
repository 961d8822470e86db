"""The cost of an op, from the shapes of its arguments, before it runs.

Every function takes the arguments of a torch function and gives (elements written,
elements touched). What it gives may be too much and must never be too little.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

Given = Sequence[Any]
Named = Mapping[str, Any]
Cost = tuple[int, int]

_VIEW = 32
"""The elements that a view counts as: it takes some 256 bytes, however little it
shows."""


def tensors_of(given: Given, named: Named) -> Iterator[Tensor]:
    """Yield all tensors among the arguments, those in lists too."""
    for value in (*given, *named.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, Tensor))


def spread(shapes: Sequence[Sequence[int]]) -> int:
    """Count the elements of shapes that are broadcast against each other."""
    rows = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return math.prod(0 if 0 in row else max(row) for row in rows)


def like(given: Given, named: Named) -> Cost:
    """Count an elementwise op, or a reduction."""
    found = list(tensors_of(given, named))
    made = spread([t.shape for t in found]) if found else 1
    return made, made + sum(t.numel() for t in found)


def many(given: Given, named: Named) -> Cost:
    """Count an op that sorts."""
    made, work = like(given, named)
    return 2 * made, 16 * work


def view(given: Given, named: Named) -> Cost:
    """Count a view: no element is touched."""
    return _VIEW, 1


def pieces(given: Given, named: Named) -> Cost:
    """Count as many views as the longest axis could give."""
    longest = max(
        (max(t.shape, default=1) for t in tensors_of(given, named)), default=1
    )
    return _VIEW * longest, longest


def joined(given: Given, named: Named) -> Cost:
    """Count ``cat`` and ``stack``."""
    total = sum(t.numel() for t in tensors_of(given, named))
    return total, 2 * total


def _ints(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        return [int(value)]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _ints(part)]
    return []


def sizes(given: Given, named: Named) -> Cost:
    """Count a new tensor of the sizes given: ``zeros``, ``rand``."""
    found = [abs(n) for part in (*given, named.get("size", ())) for n in _ints(part)]
    made = math.prod(found)
    return made, made


def filled(given: Given, named: Named) -> Cost:
    """Count ``full(sizes, value)``."""
    return sizes([*given[:1]], named)


def new_sizes(given: Given, named: Named) -> Cost:
    """Count ``tensor.new_zeros(sizes)``."""
    return sizes(given[1:], named)


def new_filled(given: Given, named: Named) -> Cost:
    """Count ``tensor.new_full(sizes, value)``."""
    return sizes(given[1:2], named)


def square(given: Given, named: Named) -> Cost:
    """Count ``eye(n)``, ``eye(n, m)``."""
    found = [n for part in given for n in _ints(part)]
    made = abs(found[0]) * abs(found[-1]) if found else 1
    return made, made


def counted(given: Given, named: Named) -> Cost:
    """Count ``arange``."""
    ends = [float(v) for v in given if isinstance(v, int | float | Tensor)]
    ends += [float(named[k]) for k in ("start", "end", "step") if k in named]
    if not ends:
        return 1, 1
    start, end = (0.0, ends[0]) if len(ends) == 1 else ends[:2]
    step = ends[2] if len(ends) > 2 else 1.0
    span = abs(end - start) / max(abs(step), 1e-300)
    made = int(min(span, 1e30)) + 1
    return made, made


def spaced(given: Given, named: Named) -> Cost:
    """Count ``linspace(start, end, steps)``."""
    steps = _ints(named.get("steps", given[2] if len(given) > 2 else 100))
    return max(steps or [100]), max(steps or [100])


def literal(given: Given, named: Named) -> Cost:
    """Count ``tensor(nested lists)``."""
    count, waiting = 0, [given[:1]]
    while waiting:
        for value in waiting.pop():
            count += value.numel() if isinstance(value, Tensor) else 1
            if isinstance(value, list | tuple):
                waiting.append(value)
            if count > 1 << 24:
                return 1 << 40, 1 << 40
    return count, 8 * count


def repeated(given: Given, named: Named) -> Cost:
    """Count ``repeat`` and ``tile``."""
    times = math.prod(abs(n) for part in given[1:] for n in _ints(part))
    made = given[0].numel() * max(times, 1)
    return made, made


def interleaved(given: Given, named: Named) -> Cost:
    """Count ``repeat_interleave`` by a number or by a tensor of numbers."""
    repeats = named.get("repeats", given[1] if len(given) > 1 else given[0])
    whole = given[0].numel() if len(given) > 1 or "repeats" in named else 1
    if isinstance(repeats, Tensor):
        if repeats.is_meta:
            return whole, whole
        total = int(repeats.sum()) if whole == 1 else int(repeats.max())
    else:
        total = abs(int(repeats))
    return whole * total, whole * total + whole


def hot(given: Given, named: Named) -> Cost:
    """Count ``one_hot``."""
    classes = named.get("num_classes", given[1] if len(given) > 1 else -1)
    index = given[0]
    if not isinstance(classes, int) or classes < 0:
        known = index.numel() and not index.is_meta
        classes = int(index.max()) + 1 if known else 1
    return index.numel() * classes, index.numel() * classes


def padded(given: Given, named: Named) -> Cost:
    """Count ``pad``."""
    pad = _ints(named.get("pad", given[1] if len(given) > 1 else ()))
    shape = list(given[0].shape)
    for at in range(len(pad) // 2):
        if at < len(shape):
            shape[-1 - at] += abs(pad[2 * at]) + abs(pad[2 * at + 1])
    made = math.prod(shape)
    return made, 2 * made


def matmul(given: Given, named: Named) -> Cost:
    """Count a product of the last two tensors; a tensor before them is added to it."""
    found = list(tensors_of(given, named))
    left, right = found[-2:] if len(found) > 1 else (found[0], found[0])
    inner = left.shape[-1] if left.ndim else 1
    rows = left.shape[-2] if left.ndim > 1 else 1
    columns = right.shape[-1] if right.ndim > 1 else 1
    made = spread([left.shape[:-2], right.shape[:-2]]) * rows * columns
    return made, made * max(inner, 1) + left.numel() + right.numel()


def outer(given: Given, named: Named) -> Cost:
    """Count all pairs."""
    made = math.prod(t.numel() for t in tensors_of(given, named))
    return made, made


def diagonals(given: Given, named: Named) -> Cost:
    """Count ``diag(x, diagonal)``, which makes a whole matrix of a vector."""
    x = next(iter(tensors_of(given, named)))
    if x.ndim > 1:
        return 0, max(x.shape)
    offset = sum(_ints([*given[1:], named.get("diagonal", 0)]))
    made = (x.numel() + abs(offset)) ** 2
    return made, made


def grid(given: Given, named: Named) -> Cost:
    """Count ``meshgrid``: as many views of the product."""
    found = list(tensors_of(given, named))
    made = math.prod(t.numel() for t in found) * max(len(found), 1)
    return made, made


def linear(given: Given, named: Named) -> Cost:
    """Count ``linear(x, weight, bias)``."""
    x = given[0] if given else named["input"]
    weight = named.get("weight", given[1] if len(given) > 1 else x)
    made = x.numel() // max(x.shape[-1] if x.ndim else 1, 1) * weight.shape[0]
    return made, made * max(weight.shape[-1], 1)


def conv(given: Given, named: Named) -> Cost:
    """Count a convolution: every output is a sum over a kernel."""
    found = list(tensors_of(given, named))
    x, weight = found[0], found[1]
    pads = [abs(n) for part in given[3:] for n in _ints(part)]
    pads += [abs(n) for part in named.values() for n in _ints(part)]
    length = math.prod(n + 2 * max(pads, default=0) for n in x.shape[2:])
    made = x.shape[0] * weight.shape[0] * length
    return made, made * weight.numel() // max(weight.shape[0], 1)


def attention(given: Given, named: Named) -> Cost:
    """Count ``scaled_dot_product_attention(q, k, v)``."""
    q, k = list(tensors_of(given, named))[:2]
    made = spread([q.shape[:-2], k.shape[:-2]]) * q.shape[-2] * k.shape[-2]
    return made + q.numel(), 2 * made * max(q.shape[-1], 1)


def embedding(given: Given, named: Named) -> Cost:
    """Count ``embedding(ids, weight)``."""
    found = list(tensors_of(given, named))
    made = found[0].numel() * found[1].shape[-1]
    return made, 2 * made


def chosen(given: Given, named: Named) -> Cost:
    """Count ``gather`` and its like: as many elements as there are indices."""
    found = list(tensors_of(given, named))
    index = max((t.numel() for t in found[1:]), default=1)
    return max(index, found[0].numel()), index + found[0].numel()


def selected(given: Given, named: Named) -> Cost:
    """Count ``index_select(x, dim, index)``."""
    found = list(tensors_of(given, named))
    rows = found[0].numel() // max(min(found[0].shape, default=1), 1)
    made = rows * found[-1].numel()
    return made, 2 * made


def places(given: Given, named: Named) -> Cost:
    """Count ``nonzero``."""
    made, work = like(given, named)
    most = max((t.ndim for t in tensors_of(given, named)), default=1)
    return made * max(most, 1), work


def bins(given: Given, named: Named) -> Cost:
    """Count ``bincount`` and ``histc``."""
    x = given[0]
    known = x.numel() and not x.is_meta
    most = int(x.max()) + 1 if known else 1
    asked = [abs(n) for part in (*given[1:], *named.values()) for n in _ints(part)]
    made = max([most, *asked])
    return made, made + x.numel()


def summed(given: Given, named: Named) -> Cost:
    """Count ``einsum``: every combination of the letters."""
    equation = given[0] if given and isinstance(given[0], str) else ""
    known: dict[str, int] = {}
    rest = 1
    found = list(tensors_of(given, named))
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    for term, tensor in zip(terms, found, strict=False):
        before, dots, after = term.partition("...")
        letters = before + after
        ahead = tensor.shape[: len(before)]
        behind = tensor.shape[tensor.ndim - len(after) :] if after else ()
        known |= dict(zip(letters, (*ahead, *behind), strict=False))
        if dots:
            hidden = math.prod(tensor.shape) // max(math.prod((*ahead, *behind)), 1)
            rest = max(rest, hidden)
    work = math.prod(known.values()) * rest
    return max([t.numel() for t in found] + [1]) + work // max(
        min(known.values(), default=1), 1
    ), work


def indexed(tensor: Tensor, index: Any) -> Cost:
    """Count ``tensor[index]``: views, and tensors of indices that are broadcast."""
    parts = index if isinstance(index, tuple) else (index,)
    shapes, used, axis = [], 1, 0
    for part in parts:
        if isinstance(part, list):
            part = torch.empty(len(part), dtype=torch.long, device="meta")
        if isinstance(part, Tensor):
            taken = max(part.ndim, 1) if part.dtype == torch.bool else 1
            shapes.append([part.numel()] if part.dtype == torch.bool else part.shape)
            used *= max(math.prod(tensor.shape[axis : axis + taken]), 1)
            axis += taken
        elif part is Ellipsis:
            axis = 0  # what an ellipsis skips is counted as kept
        elif part is not None and not isinstance(part, bool):
            axis += 1
    if not shapes:
        return _VIEW, 1
    if Ellipsis in [p for p in parts if not isinstance(p, Tensor)]:
        used = 1
    made = spread(shapes) * max(tensor.numel() // max(used, 1), 1)
    return made, made
