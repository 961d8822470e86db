"""No text gets out of the reader, and none costs more than it may."""

from __future__ import annotations

import builtins
import os
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from glmc.frontends.code import values
from glmc.frontends.code.library import Library
from glmc.frontends.code.limits import Limits
from glmc.frontends.code.room import roomy
from glmc.ir.errors import GlmcError
from support.escapes import ATTACKS, NOTHING

LIMITS = Limits(steps=150_000, work=300_000_000, live=64 << 20, tensors=5_000)
SECONDS = 10.0
"""Far above what the slowest takes, far below what one that runs away would."""

PLAIN = (int, float, bool, str, type(None), torch.Tensor, torch.dtype, torch.device)
KINDS = tuple(
    kind
    for kind in vars(values).values()
    if isinstance(kind, type) and kind.__module__ == values.__name__
)


@pytest.fixture(autouse=True)
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reaches the machine below fails the test."""

    def reached(*given: Any, **named: Any) -> None:
        pytest.fail(f"the text reached the machine: {given[:2]}")

    for owner, name in (
        (builtins, "input"),
        (os, "system"),
        (subprocess, "Popen"),
        (torch, "load"),
        (torch, "save"),
    ):
        monkeypatch.setattr(owner, name, reached)


def outcome(text: str, limits: Limits = LIMITS) -> tuple[str, str, Any]:
    """The code of the error, its message, and the module where there is none."""
    try:
        library = Library({"modeling_attack": text}, limits)
        return NOTHING, "", roomy(lambda: library.open("modeling_attack"))
    except GlmcError as error:
        return error.code, str(error), None


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    expected, text = ATTACKS[name]
    began = time.perf_counter()
    code, message, module = outcome(text)
    assert time.perf_counter() - began < SECONDS
    assert code == expected, message
    if module is None:
        assert message.startswith("modeling_attack.py")
    else:
        assert_plain(module.names.values())


def assert_plain(found: Iterable[Any]) -> None:
    """Nothing of the host is within reach: plain values, tensors, the reader's own."""
    waiting, seen = list(found), set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, values.Instance):
            waiting += value.names.values()
        else:
            assert isinstance(value, (*PLAIN, *KINDS)), type(value)


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 60


def test_control_what_is_no_attack_runs() -> None:
    text = "import torch\nx = [torch.ones(3) * i for i in range(9)]\ny = f'{len(x):>3}'"
    code, _, module = outcome(text)
    assert code == NOTHING
    assert module.names["y"] == "  9"
    assert_plain(module.names.values())


def test_control_the_check_sees_what_is_not_plain() -> None:
    with pytest.raises(AssertionError):
        assert_plain([[len]])


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(steps=1000), "for i in range(999):\n    i + 1"),
        (Limits(work=1000), "import torch\ntorch.ones(999) + 1"),
        (Limits(live=4000), "import torch\nx = torch.ones(999)"),
        (Limits(items=200), "x = list(range(201))"),
        (Limits(string=100), "x = 'a' * 101"),
        (Limits(bits=64), "x = 2 ** 65"),
        (Limits(depth=9), "def f(n):\n    return f(n - 1) if n else 0\nf(9)"),
    ],
)
def test_each_limit_is_kept_and_is_not_too_strict(limits: Limits, text: str) -> None:
    code, message, _ = outcome(text, limits)
    assert code == "GLMC092", message
    assert outcome(text)[0] == NOTHING
