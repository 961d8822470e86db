"""Guard the hub's client: check a server's headers, and give up a silent server.

The client of the hub names files of its cache as the server says, and waits for a body
as long as a byte comes now and then. Here headers are looked at before it sees them,
and a server that is silent, or as good as that, is given up.
"""

import time
from collections.abc import Callable, Iterator
from threading import Lock, Thread, local
from typing import Any, TypeVar

#: Seconds of silence after which a server is given up, unless a caller says otherwise.
SECONDS = 30.0
#: Bytes in such a time that are no silence.
ENOUGH = 1 << 12
#: How often a server is asked that does not answer at all.
ATTEMPTS = 2
#: Headers that become names of files in the cache.
NAMING = ("etag", "x-linked-etag", "x-repo-commit", "x-xet-hash")
#: What no name of a file holds, on some system.
FOREIGN = frozenset('/\\:"<>|?*')
#: What ends a request in its thread is handed on to whoever waits, whatever it is.
WHATEVER = BaseException

Answer = TypeVar("Answer")


class AnswerError(Exception):
    """An answer that no hub gives."""


class _Watch:
    """A server's behaviour while one thread waits for it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.heard = time.monotonic()
        #: Address to how often it was asked without an answer.
        self.asked: dict[str, int] = {}
        #: Whether bytes come by another way than the client's, unseen from here.
        self.unseen = False
        self.given_up = False

    def silent(self) -> bool:
        """Tells whether nothing was heard for too long."""
        return not self.unseen and time.monotonic() - self.heard > self.seconds

    def error(self) -> TimeoutError:
        """Returns the error of a silent server."""
        waited = f"{self.seconds:g} seconds"
        return TimeoutError(f"the server sent next to nothing for {waited}")


_LOCAL = local()
_LOCK = Lock()


def patiently(act: Callable[[], Answer], seconds: float | None) -> Answer:
    """Returns what `act` answers, which asks a server through the hub's client.

    Raises TimeoutError where the server is silent for `seconds`, AnswerError where its
    headers would make the client write elsewhere, and what `act` raises.
    """
    _guard()
    watch = _Watch(seconds or SECONDS)
    done: list[tuple[bool, Any]] = []

    def run() -> None:
        _LOCAL.watch = watch
        try:
            done.append((True, act()))
        except WHATEVER as error:
            done.append((False, error))

    # A daemon: what hangs in it does not keep the process.
    thread = Thread(target=run, daemon=True)
    thread.start()
    while not done:
        thread.join(0.05)
        if not done and watch.silent():
            watch.given_up = True
            raise watch.error()
    good, answer = done[0]
    if good:
        # An answer, or else what was raised: the pair says which, and no type does.
        return answer  # type: ignore[no-any-return]
    raise answer


def _guard() -> None:
    """Let the sessions of the client look at what is asked and answered; once is
    enough. It makes a new session after a connection that failed, so it is the maker
    of sessions that is changed."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    with _LOCK:
        make: Any = _http._GLOBAL_CLIENT_FACTORY
        if __name__ not in getattr(make, "looking", ()):
            set_client_factory(_Looking(make))


class _Looking:
    """A maker of sessions (httpx) that look."""

    def __init__(self, make: Any) -> None:
        self._make = make
        #: The modules that look: one of glmc, and one in each build that is loaded.
        self.looking = (*getattr(make, "looking", ()), __name__)

    def __call__(self) -> Any:
        session = self._make()
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks.get("request", []), _asked],
            "response": [*hooks.get("response", []), _heard],
        }
        return session


def _asked(request: Any) -> None:
    """Counts a request: a server that does not answer is asked ATTEMPTS times."""
    watch: _Watch | None = getattr(_LOCAL, "watch", None)
    if watch is None:
        return
    if watch.given_up:
        raise watch.error()
    address = f"{request.method} {request.url}"
    watch.asked[address] = watch.asked.get(address, 0) + 1
    if watch.asked[address] > ATTEMPTS:
        host = request.url.host
        raise TimeoutError(f"the hub cannot be reached ({host} does not answer)")


def _heard(response: Any) -> None:
    """Checks the headers of an answer before the client sees them."""
    for name in NAMING:
        value = response.headers.get(name)
        if value is not None and not _is_name(value):
            raise AnswerError(
                f"the server's header {name} is {value[:80]!r}, which can be the name"
                " of no file in a cache; nothing was fetched"
            )
    watch: _Watch | None = getattr(_LOCAL, "watch", None)
    if watch is not None:
        watch.asked.clear()
        watch.heard = time.monotonic()
        watch.unseen = watch.unseen or "x-xet-hash" in response.headers
        response.iter_raw = _paced(response.iter_raw, watch)


def _is_name(value: str) -> bool:
    plain = value.removeprefix("W/").strip('"')
    harmless = plain.isascii() and plain.isprintable() and not FOREIGN & set(plain)
    return harmless and 0 < len(plain) <= 200 and set(plain) != {"."}


def _paced(
    read: Callable[..., Iterator[bytes]], watch: _Watch
) -> Callable[..., Iterator[bytes]]:
    """Wraps the reader of a body, whose pieces must not come too slowly."""

    def pieces(*arguments: Any, **named: Any) -> Iterator[bytes]:
        count = 0
        for piece in read(*arguments, **named):
            count += len(piece)
            if count >= ENOUGH:
                count, watch.heard = 0, time.monotonic()
            elif watch.given_up or watch.silent():
                raise watch.error()
            yield piece

    return pieces
