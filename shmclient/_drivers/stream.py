"""The common part of the results of `watch` and `follow`, sync and async."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from shmclient._codecs.libraries import LibraryName
from shmclient._connection.socket import detach_after_fork
from shmclient._drivers.following import Changes
from shmclient._drivers.steps import Operation
from shmclient._drivers.values import Values
from shmclient._process.copying import not_copied
from shmprotocol.errors import Closed

T = TypeVar("T")


class BaseStream(Generic[T]):
    """A source, the client that drives it, and the longest absence of a host; one step at a time."""

    def __init__(self) -> None:
        raise TypeError(f"a {type(self).__name__} has no constructor: use client.watch() or client.follow()")

    _new_turn: Callable[[], Any]  # makes a lock of threads or tasks

    def _begin(self, client: Any, source: Changes | Values, wait_s: float | None) -> None:
        self._client = client  # which must not be collected meanwhile
        self._source: Any = source
        self._wait_s = wait_s
        self._turn = self._new_turn()  # one thread or task drives the source at a time
        detach_after_fork(self, BaseStream._detach)

    def close(self) -> None:
        """End it, and a loop over it in another thread or task. May be called again; never waits."""
        self._source.listener.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_source") and not is_finalizing():
            self._source.listener.give_up()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the name, and watch or follow it in the other process")

    def _detach(self) -> None:  # in the child of a fork: the thread or task that had the turn is not here
        self._turn = self._new_turn()

    def _start(self) -> Operation[None]:
        yield from self._client._core.run_waiting(self._source.start, self._wait_s)

    def _next(self) -> Operation[T]:
        """Return the next item. Closed when it was closed."""
        if (ready := self._ready()) is not None:
            return ready
        source = self._source
        item: T = yield from self._client._core.run_waiting(
            source.next, self._wait_s, self._ready, source.position
        )
        return item

    def _ready(self) -> T | None:
        """Return what needs no host; Closed when it was closed."""
        if self._source.listener.is_closed:
            raise Closed("the watch is closed")
        pending: T | None = self._source.pending(self._client._core.is_alone)
        return pending


# Functions, so that `help(Watch)` does not show them.

S = TypeVar("S", bound=BaseStream[Any])


def watched(kind: type[S], client: Any, prefix: str, wait_s: float | None) -> S:
    """Return the changes of all names with a prefix, for a client that drives them."""
    return _made(kind, client, Changes(prefix, resumes=wait_s is not None), wait_s)


def followed(
    kind: type[S],
    client: Any,
    name: str,
    wait_s: float | None,
    as_: LibraryName | None,
    *,
    anywhere: bool,
    can_sleep: bool,
) -> S:
    """Return the values of a name, perhaps with the arrays of a library, for a client that drives them."""
    if as_ is None:
        return _made(kind, client, Values(name, anywhere=anywhere, can_sleep=can_sleep), wait_s)
    from shmclient._drivers.values_as import ValuesAs

    return _made(kind, client, ValuesAs(name, as_, anywhere=anywhere, can_sleep=can_sleep), wait_s)


def _made(kind: type[S], client: Any, source: Changes | Values, wait_s: float | None) -> S:
    stream = kind.__new__(kind)
    stream._begin(client, source, wait_s)
    return stream
