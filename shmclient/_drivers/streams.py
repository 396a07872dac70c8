"""The results of `watch` and `follow` of the sync client: iterators, which any thread can close."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shmclient._connection.retry import Retry
from shmclient._drivers.awaited import Awaited
from shmclient._drivers.stream import BaseStream
from shmclient._process.lock import new_lock
from shmprotocol.errors import Closed

if TYPE_CHECKING:
    from shmclient._regions.info import Change

T = TypeVar("T")


class Stream(BaseStream[T]):
    """The result of `watch` and `follow`: an iterator, and a context manager that closes it."""

    _new_turn = staticmethod(new_lock)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._turn:
            try:
                item: T = self._client._drive(self._next())
                return item
            except Closed:
                if self._source.listener.is_closed:
                    raise StopIteration from None
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if TYPE_CHECKING:
    Changed = Stream[Change]
else:
    Changed = Stream


class Watch(Changed):
    """The changes of names, as they happen; see `Client.watch`."""


class Follow(Stream[Any]):
    """The value of a name, and each newer one; see `Client.follow`."""

    def __next__(self) -> Any:
        with self._turn:
            taken = self._await_in_arena()
        return super().__next__() if taken is None else taken[0]

    def _await_in_arena(self) -> tuple[Any] | None:
        """Return the next value in a tuple, if it is in the arena of the last one and needs no host."""
        channel = self._client._core.channel
        target = None if channel is None else self._source.place(channel.context)
        if target is None:
            return None
        awaited = Awaited(channel, target.reader, target.name, target.generation)
        held = channel.await_value(awaited, Retry(math.inf), self._source.listener.has_closed)
        return None if held is None else (target.take(held),)
