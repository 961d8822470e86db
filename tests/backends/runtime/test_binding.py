"""Matching the binding table with the headers of a checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from glmc.backends.runtime.binding import resolve
from glmc.backends.runtime.faults import WeightsError
from glmc.backends.runtime.recipes import Bind, cat, names, permute


class Header(NamedTuple):
    """A tensor's entry in a file's header."""

    shape: tuple[int, ...] | None
    dtype: str | None


TABLE = (
    Bind("embed", "base.embed", (10, 4)),
    Bind("layers.{i}.qkv", cat("base.{i}.q", "base.{i}.kv"), (12, 4), range(40)),
    Bind("layers.{i}.o", permute("base.{i}.o", 1, 0), (4, 6), range(40)),
    Bind("head", "head", (10, 4)),
)


def headers() -> dict[str, Header]:
    shapes: dict[str, tuple[int, ...]] = {"base.embed": (10, 4), "head": (10, 4)}
    for i in range(40):
        shapes |= {f"base.{i}.q": (8, 4), f"base.{i}.kv": (4, 4), f"base.{i}.o": (6, 4)}
    return {name: Header(shape, "F16") for name, shape in shapes.items()}


def resolved(given: dict[str, Header], **options: Any) -> list[Bind]:
    return resolve(TABLE, given, where="here", **options)


def refusal(given: dict[str, Header], **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        resolved(given, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_every_parameter_is_bound_once() -> None:
    binds = resolved(headers())
    assert [bind.path for bind in binds[:3]] == [
        "embed",
        "layers.0.qkv",
        "layers.1.qkv",
    ]
    assert len(binds) == 82


@pytest.mark.parametrize("lacking", [True, False])
def test_names_may_lack_the_prefix(lacking: bool) -> None:
    given = headers()
    if lacking:
        given = {name.removeprefix("base."): h for name, h in given.items()}
    binds = resolved(given, optional_prefix="base.")
    assert {n for b in binds for n in names(b.recipe)} == set(given)


def test_control_without_an_optional_prefix_such_names_are_missing() -> None:
    given = {name.removeprefix("base."): h for name, h in headers().items()}
    assert "121 missing: base.*.kv (40 layers)" in refusal(given)


def test_missing_tensors_are_named_by_kind() -> None:
    given = {n: h for n, h in headers().items() if not n.endswith(".kv")}
    given.pop("head")
    message = refusal(given)
    assert "here does not fit this model" in message
    assert "41 missing: base.*.kv (40 layers), head" in message
    assert "config this was compiled from" in message


def test_wrong_shapes_say_both() -> None:
    given = headers() | {"base.embed": Header((11, 4), "F16")}
    given |= {f"base.{i}.kv": Header((2, 4), "F16") for i in range(40)}
    given["base.7.o"] = Header((6, 5), "F16")
    message = refusal(given)
    assert "42 of another shape" in message
    assert "base.embed (is [11, 4], the model needs [10, 4])" in message
    both = "(together [10, 4], the model needs [12, 4]) (40 layers)"
    assert f"base.*.q, base.*.kv {both}" in message


def test_parts_that_do_not_fit_together_are_named() -> None:
    message = refusal(headers() | {"base.3.kv": Header((4, 5), "F16")})
    assert "base.3.q, base.3.kv ([8, 4], [4, 5] do not fit together" in message


def test_dtypes_that_are_no_floats_are_named() -> None:
    given = headers() | {
        "base.3.q": Header((8, 4), "I8"),
        "head": Header((10, 4), "U8"),
    }
    message = refusal(given)
    assert "2 of another shape or dtype: base.3.q (is stored as I8, " in message


def test_unused_tensors_are_an_error_a_warning_or_waived() -> None:
    given = headers() | {f"base.{i}.inv_freq": Header((2,), "F32") for i in range(40)}
    message = refusal(given)
    assert "40 not used by this model: base.*.inv_freq (40 layers)" in message
    assert "strict=False" in message
    with pytest.warns(UserWarning, match="40 not used by this model"):
        resolved(given, strict=False)
    assert resolved(given, waived=[("base.*.inv_freq", "recomputed")])
    bare = {name.removeprefix("base."): h for name, h in given.items()}
    waived = [("base.*.inv_freq", "recomputed")]
    assert resolved(bare, waived=waived, optional_prefix="base.")


def test_strict_or_not_what_is_missing_is_an_error() -> None:
    given = headers()
    given.pop("head")
    refusal(given, strict=False)


def test_many_kinds_are_cut_short() -> None:
    given = headers() | {f"extra{c}": Header((2,), "F32") for c in "abcdefgh"}
    assert "extrae, and 3 more kinds" in refusal(given)
