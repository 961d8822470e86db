"""What is believed of a server, and for how long it is waited for.

The client of the hub names files of its cache as the server says, and waits for a body
as long as a byte comes now and then. Here headers are looked at before it sees them,
and a server that is silent, or as good as that, is given up.
"""

import time
from collections.abc import Callable, Iterator
from threading import Lock, Thread
from typing import Any, TypeVar

#: Seconds of silence after which a server is given up, unless a caller says otherwise.
SECONDS = 30.0
#: Bytes in such a time that are no silence.
ENOUGH = 1 << 12
#: Headers that become names of files in the cache.
NAMING = ("etag", "x-linked-etag", "x-repo-commit", "x-xet-hash")
#: What no name of a file holds, on some system.
FOREIGN = frozenset('/\\:"<>|?*')

Answer = TypeVar("Answer")


class AnswerError(Exception):
    """An answer that no hub gives."""


class _Watch:
    """When a server was heard of last, whichever it was; for all threads."""

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.seconds = SECONDS
        #: Whether bytes come by another way than the client's, unseen from here.
        self.unseen = False

    def silent(self, since: float) -> bool:
        """Whether nothing was heard for too long."""
        waited = time.monotonic() - max(self.heard, since)
        return not self.unseen and waited > self.seconds


_WATCH = _Watch()
_LOCK = Lock()


def patiently(session: Any, act: Callable[[], Answer], seconds: float | None) -> Answer:
    """What `act` answers, which asks a server through `session`.

    Raises TimeoutError where the server is silent for `seconds`, AnswerError where its
    headers would make the client write elsewhere, and what `act` raises.
    """
    guard(session)
    _WATCH.seconds, _WATCH.unseen = seconds or SECONDS, False
    done: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            done.append((True, act()))
        except BaseException as error:  # handed on to whoever waits
            done.append((False, error))

    begin = time.monotonic()
    # A daemon: what hangs in it does not keep the process.
    thread = Thread(target=run, daemon=True)
    thread.start()
    while not done:
        thread.join(0.05)
        if not done and _WATCH.silent(begin):
            raise TimeoutError(silence())
    good, answer = done[0]
    if good:
        return answer  # type: ignore[no-any-return]
    raise answer


def silence() -> str:
    """What is said of a server that was given up."""
    return f"the server sent next to nothing for {_WATCH.seconds:g} seconds"


def guard(session: Any) -> None:
    """Let a session of the client (httpx) look at answers first; once is enough."""
    with _LOCK:
        hooks = getattr(session, "event_hooks", None)
        if hooks is None:  # not the client's own
            return
        if _heard not in hooks.get("response", []):
            session.event_hooks = {
                **hooks,
                "response": [*hooks.get("response", []), _heard],
            }


def _heard(response: Any) -> None:
    """An answer begins: its headers, before anything is made of them."""
    for name in NAMING:
        value = response.headers.get(name)
        if value is not None and not _is_name(value):
            raise AnswerError(
                f"the server's header {name} is {value[:80]!r}, which can be the name"
                " of no file in a cache; nothing was fetched"
            )
    _WATCH.heard = time.monotonic()
    _WATCH.unseen = _WATCH.unseen or "x-xet-hash" in response.headers
    response.iter_raw = _paced(response.iter_raw)


def _is_name(value: str) -> bool:
    plain = value.removeprefix("W/").strip('"')
    harmless = plain.isascii() and plain.isprintable() and not FOREIGN & set(plain)
    return harmless and 0 < len(plain) <= 200 and set(plain) != {"."}


def _paced(read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
    """The pieces of a body, which must not come too slowly."""

    def pieces(*arguments: Any, **named: Any) -> Iterator[bytes]:
        count, begin = 0, time.monotonic()
        for piece in read(*arguments, **named):
            count += len(piece)
            if count >= ENOUGH:
                count, begin = 0, time.monotonic()
                _WATCH.heard = begin
            elif time.monotonic() - begin > _WATCH.seconds:
                raise TimeoutError(silence())
            yield piece

    return pieces
