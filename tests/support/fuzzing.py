"""Mutated inputs for one function, each under limits of time and memory.

A :class:`Target` says what is mutated and what is done with it. Inputs are made from a
seed and their number, so a failure names what makes it again. They are worked on in a
child process: what ends a process (a signal, memory) is a failure as well, of the input
it was at.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import random
import re
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc.ir.errors import GlmcError

SECONDS = 20.0
"""Of CPU, that an input may take; others may be using the machine."""
PATIENCE = 15
"""Times as many may pass before an input counts as one that hangs."""
MEMORY = 3 << 30
"""Bytes that the child may have beyond what it began with."""


Mutation = Callable[[random.Random, str], str]


@dataclass(frozen=True)
class Target:
    """Something that reads what others wrote."""

    name: str
    seeds: tuple[str, ...]
    """Sound inputs, which are mutated."""
    mutate: Mutation
    act: Callable[[str, Path], object]
    """The use that is made of an input; a folder is there to write to."""


@dataclass(frozen=True)
class Fault:
    """An input that did not end as it should."""

    number: int
    text: str
    told: str

    def __str__(self) -> str:
        return f"input {self.number}: {self.told}\n{self.text[:2000]}"


def inputs(target: Target, count: int) -> Iterator[str]:
    """The first inputs of a target: its seeds as they are, then mutations."""
    yield from target.seeds[:count]
    for number in range(len(target.seeds), count):
        rnd = random.Random(f"{target.name} {number}")
        text = rnd.choice(target.seeds)
        for _ in range(rnd.choice((1, 1, 1, 2, 3))):
            text = target.mutate(rnd, text)
        yield text


def faults(target: Target, count: int, folder: Path) -> tuple[list[Fault], int]:
    """The inputs that end in anything but an answer or a GlmcError, and how many had
    an answer."""
    texts = list(inputs(target, count))
    found: list[Fault] = []
    answers = begin = 0
    while begin < count:
        done, fault, answered = _stretch(target, texts, begin, folder)
        answers += answered
        found += [fault] if fault else []
        begin = done
    return found, answers


def _stretch(
    target: Target, texts: list[str], begin: int, folder: Path
) -> tuple[int, Fault | None, int]:
    """Work on inputs from one on until one fails: (where to go on, the fault, the
    number of answers)."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(target, texts, begin, folder, writing)
    os.close(writing)
    at, answers, told = begin, 0, ""
    with os.fdopen(reading, "rb") as reports:
        while True:
            ready, _, _ = select.select([reports], [], [], SECONDS * PATIENCE)
            if not ready:
                os.kill(child, signal.SIGKILL)
                told = "it hangs where no signal of Python's arrives"
                break
            line = reports.readline()
            if not line:
                break
            kind, at, told = pickle.loads(bytes.fromhex(line.decode()))
            answers += kind == "answer"
            if kind == "fault":
                break
            at, told = at + 1, ""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not told and at < len(texts):
        told = f"the process ended with {status}"
    fault = Fault(at, texts[at], told) if told else None
    return at + 1 if fault else at, fault, answers


def _work(
    target: Target, texts: list[str], begin: int, folder: Path, writing: int
) -> None:
    """The child: a line for every input that is done, until one fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_long)
    faulthandler.disable()  # the parent says what ended
    for number in range(begin, len(texts)):
        kind, told = _outcome(target, texts[number], folder)
        line = pickle.dumps((kind, number, told)).hex().encode() + b"\n"
        while line:
            line = line[os.write(writing, line) :]
        if kind == "fault":
            break
    os._exit(0)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"it takes more than {SECONDS} seconds")


def _outcome(target: Target, text: str, folder: Path) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.act(text, folder)
    except GlmcError as error:
        short = "\n\n" not in str(error) and len(str(error)) < 5000
        return ("refusal", "") if short else ("fault", f"no paragraph: {error}"[:3000])
    except BaseException:
        return "fault", traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "answer", ""


# --- mutations ---

WHOLE = ("0", "1", "-1", "3", "4096", "2147483648", "9" * 19, "1" + "0" * 23)
NUMBERS = (*WHOLE, "1e999", "-1e999", "1e-320", "0.5", "-0.0", "9" * 5000)
NAMES = (
    *("none", "true", "_", "Model", "__debug__", "self", "ops", "class", "x" * 300),
    *("layer", "head", "stem", "a.b", "\u0661", "", "..", "/etc/passwd", "{i}", "{x}"),
)
MARKS = (*"()[]{},:=.?%@#\"'\n", "[" * 2000, "(" * 2000, "{" * 2000, "\0", "\u2028")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z_]\w*")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def mutate_text(rnd: random.Random, text: str) -> str:
    """One change to a text of names, numbers and marks."""
    changes = (_number, _number, _name, _name, _token, _span, _lines, _mark)
    change: Mutation = rnd.choice(changes)
    return change(rnd, text)


def _replaced(
    rnd: random.Random, text: str, what: re.Pattern[str], by: tuple[str, ...]
) -> str:
    places = list(what.finditer(text))
    if not places:
        return text
    at = rnd.choice(places)
    return text[: at.start()] + rnd.choice(by) + text[at.end() :]


def _number(rnd: random.Random, text: str) -> str:
    others = tuple(rnd.choice(_NUMBER.findall(text) or ["1"]) for _ in range(4))
    return _replaced(rnd, text, _NUMBER, (*NUMBERS, *others, *others))


def _name(rnd: random.Random, text: str) -> str:
    words = _NAME.findall(text) or ["x"]
    others = tuple(rnd.choice(words) for _ in range(10))
    return _replaced(rnd, text, _NAME, (*NAMES, *others))


def _token(rnd: random.Random, text: str) -> str:
    """A token goes, comes twice, or takes the place of another."""
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return text
    one, other = rnd.choice(tokens), rnd.choice(tokens)
    put = rnd.choice(("", one[0] * 2, f"{one[0]} {one[0]}", other[0]))
    return text[: one.start()] + put + text[one.end() :]


def _span(rnd: random.Random, text: str) -> str:
    """A piece goes, comes twice, or is all that is left."""
    at, to = sorted(rnd.randrange(len(text) + 1) for _ in range(2))
    to = min(to, at + 200)
    return rnd.choice((text[:at] + text[to:], text[:to] + text[at:], text[:to]))


def _lines(rnd: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    at, to = rnd.randrange(len(lines)), rnd.randrange(len(lines))
    match rnd.randrange(3):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, lines[at])
        case _:
            lines[at], lines[to] = lines[to], lines[at]
    return "".join(lines)


def _mark(rnd: random.Random, text: str) -> str:
    at = rnd.randrange(len(text) + 1)
    mark: str = rnd.choice(MARKS)
    return text[:at] + mark + text[at:]


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e308, 2**31, 2**63, 10**23),
    *("", "x", "none", "../../x", "/etc/passwd", "x" * 300, "\ud800", "{i}", "a\nb"),
    *([], [0], [1, "x"], [None], {}, {"a": 1}, {"type": "yarn"}, [[1] * 50] * 50),
)


def mutate_json(rnd: random.Random, text: str) -> str:
    """One change to a JSON text: mostly of what it says, sometimes of how."""
    if rnd.random() < 0.15:
        return mutate_text(rnd, text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return mutate_text(rnd, text)
    places = list(_places(value))
    if not places:
        return text
    holder, key = rnd.choice(places)
    match rnd.randrange(5):
        case 0:
            del holder[key]
        case 1:
            odd: Any = [holder[key]] * 1000 if rnd.random() < 0.2 else {"a": value}
            holder[key] = json.loads(json.dumps(odd)) if odd != {"a": value} else [odd]
        case 2:
            other, there = rnd.choice(places)
            holder[key] = json.loads(json.dumps(other[there]))
        case _:
            holder[key] = rnd.choice(ODD)
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):  # it holds itself now
        return mutate_text(rnd, text)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key or number there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def timed(target: Target, count: int, folder: Path) -> float:
    """Seconds for the first inputs, in this process: to see what a target costs."""
    begin = time.perf_counter()
    for text in inputs(target, count):
        _outcome(target, text, folder)
    return time.perf_counter() - begin
