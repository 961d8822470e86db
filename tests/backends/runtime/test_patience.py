"""A server is watched: names in its headers, and how long it says next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from glmc.backends.runtime import patience
from glmc.backends.runtime.patience import ENOUGH, AnswerError


@pytest.fixture
def watch() -> Iterator[Any]:
    patience._LOCAL.watch = patience._Watch(60.0)
    yield patience._LOCAL.watch
    del patience._LOCAL.watch


def answer(pieces: tuple[bytes, ...] = (), **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(headers=named, iter_raw=lambda: iter(pieces))


def test_bytes_that_come_another_way_are_not_waited_for(watch: Any) -> None:
    watch.heard -= 61
    assert watch.silent()
    patience._heard(answer())
    assert not watch.silent()
    watch.heard -= 61
    assert watch.silent()
    patience._heard(answer(x_xet_hash="abc"))
    patience._heard(answer())
    watch.heard -= 61
    assert not watch.silent()


@pytest.mark.parametrize("name", ["a" * 200, '"abc"', 'W/"a-b.c"', "...a", "0"])
def test_what_can_be_the_name_of_a_file(watch: Any, name: str) -> None:
    patience._heard(answer(etag=name))


@pytest.mark.parametrize(
    "name", ["", '""', ".", "..", "../a", "a\\b", "a:b", "a" * 201, "é", "a\nb", "W/"]
)
@pytest.mark.parametrize("header", ["etag", "x_repo_commit"])
def test_what_cannot(watch: Any, name: str, header: str) -> None:
    with pytest.raises(AnswerError, match="which can be the name of no file"):
        patience._heard(answer(**{header: name}))


def test_a_body_that_trickles_is_given_up(watch: Any) -> None:
    """Enough bytes count as heard, fewer do not."""
    made = answer((b"x" * ENOUGH, b"y", b"z"))
    patience._heard(made)
    pieces = made.iter_raw()
    watch.heard -= 61
    assert len(next(pieces)) == ENOUGH
    assert next(pieces) == b"y"
    watch.heard -= 61
    with pytest.raises(TimeoutError, match="next to nothing for 60 seconds"):
        next(pieces)


def test_an_answer_and_an_error_come_back_as_they_are() -> None:
    assert patience.patiently(lambda: 7, None) == 7
    with pytest.raises(KeyError, match="mine"):
        patience.patiently(lambda: {}["mine"], None)


def test_silence_is_given_up_and_patience_is_not() -> None:
    assert patience.patiently(lambda: time.sleep(0.2) or "late", 60.0) == "late"
    with pytest.raises(TimeoutError, match=r"next to nothing for 0\.1 seconds"):
        patience.patiently(lambda: time.sleep(5), 0.1)
