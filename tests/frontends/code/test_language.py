"""The reader carries out Python as Python does; what it does not read, it refuses.

The snippets are ours, so here, and only here, Python itself may run them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.frontends.code.library import Library
from glmc.frontends.code.room import roomy
from glmc.ir.errors import GlmcError, TextFailedError, TextRefusedError
from support.escapes import sections

SNIPPETS = sections("snippets.txt")
TENSORS = sections("tensors.txt")


def read(text: str) -> Any:
    return roomy(lambda: Library({"modeling_own": text}).open("modeling_own"))


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_as_python_has_it(name: str) -> None:
    names: dict[str, Any] = {"__name__": __name__}
    exec(SNIPPETS[name], names)
    got = read(SNIPPETS[name]).names["x"]
    assert got == names["x"]
    assert type(got) is type(names["x"])


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_as_torch_has_them(name: str) -> None:
    text = f"import torch\n{TENSORS[name]}"
    names: dict[str, Any] = {}
    exec(text, names)
    got = read(text).names["x"]
    assert got.dtype == names["x"].dtype
    assert torch.equal(got, names["x"])


def test_names_that_no_table_has_raise_when_they_are_used() -> None:
    text = "from somewhere import thing\nx = [thing]\ny = x[0] is None\n"
    assert read(text).names["y"] is False
    with pytest.raises(TextRefusedError, match=r"modeling_own.py:4: somewhere.thing"):
        read(text + "thing(1)\n")


@pytest.mark.parametrize("pair", ["[[1]] < [[2]]", "(1, (2,)) >= (1, (3,))"])
def test_sequences_of_more_than_plain_values_have_no_order(pair: str) -> None:
    with pytest.raises(TextRefusedError, match="more than plain values are ordered"):
        read(f"x = {pair}\n")
    assert read("x = [1, 'a'] < [2, 'b']\n").names["x"] is True


def test_classes_may_have_a_hundred_bases_and_no_more() -> None:
    """Each class of a chain has one more class before it than the last."""
    chain = [f"class C{i}(C{i - 1}): pass" for i in range(1, 101)]
    text = "\n".join(["class C0: pass", *chain])
    assert read(text + "\nx = issubclass(C100, C0)\n").names["x"] is True
    with pytest.raises(GlmcError, match="the bases of C101 have no order"):
        read(text + "\nclass C101(C100): pass\n")


def test_errors_name_the_line_of_the_text_and_not_of_a_contract() -> None:
    text = "import torch\nfrom torch import nn\nlayer = nn.Linear(2, 3)\n"
    with pytest.raises(TextFailedError, match=r"modeling_own.py:4: the text raised"):
        read(text + "layer(torch.ones(5))\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nx.y", "'int' has no attribute 'y'"),
        ("x = [1][5]", "IndexError"),
        ("x = {}['k']", "KeyError"),
        ("def f(a): pass\nf()", "missing a required argument: 'a'"),
        ("def f(a): pass\nf(1, 2)", "takes 1 positional arguments but 2"),
        ("def f(a): pass\nf(b=1)", "unexpected keyword argument 'b'"),
        ("def f(a): pass\nf(1, a=1)", "multiple values for argument 'a'"),
        ("a, b = [1]", "2 values to unpack, and there are 1"),
        ("raise ValueError(f'no {1 + 1}')", "ValueError: no 2"),
        ("x = y", "name 'y' is not defined"),
        ("class A:\n    @property\n    def p(self): return 1\nA().p = 2", "be set"),
    ],
)
def test_errors_that_python_would_raise(text: str, says: str) -> None:
    names: dict[str, Any] = {}
    with pytest.raises((LookupError, NameError, TypeError, ValueError, AttributeError)):
        exec(text, names)
    with pytest.raises(GlmcError) as caught:
        read(text)
    assert caught.value.code == "GLMC093"
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"modeling_own.py:{text.count(chr(10)) + 1}: ")


@pytest.mark.parametrize(
    ("pattern", "given", "expected"),
    [
        (
            "b t (h d) -> b h t d",
            {"h": 2},
            lambda x: x.view(2, 3, 2, 4).transpose(1, 2),
        ),
        ("b t (n h d) -> b t n h d", {"n": 2, "d": 2}, lambda x: x.view(2, 3, 2, 2, 2)),
        ("b t d -> (b t) d", {}, lambda x: x.reshape(6, 8)),
        ("b t d -> d b t", {}, lambda x: x.permute(2, 0, 1)),
        ("... (n d) -> ... n d", {"n": 2}, lambda x: x.view(2, 3, 2, 4)),
        ("b t d -> b 1 t 1 d", {}, lambda x: x[:, None, :, None]),
    ],
)
def test_einops_in_its_plain_forms(
    pattern: str, given: dict[str, int], expected: Any
) -> None:
    text = (
        "import torch\nfrom einops import rearrange, repeat\n"
        "y = torch.arange(48).view(2, 3, 8)\n"
        f"x = rearrange(y, {pattern!r}, **{given!r})\n"
        "z = repeat(y, 'b t d -> b (t k) d', k=2)\n"
    )
    names = read(text).names
    assert torch.equal(names["x"], expected(names["y"]))
    assert torch.equal(names["z"], names["y"].repeat_interleave(2, dim=1))
    with pytest.raises(TextRefusedError, match="of einops is not read"):
        read(text + "rearrange(y, 'b t d -> b t')\n")
