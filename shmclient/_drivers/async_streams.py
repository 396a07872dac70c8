"""The results of `watch`, `follow` and `open_arena` of the async client."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from shmclient._arenas.held import ArenaValue
from shmclient._arenas.reader import Reader
from shmclient._arenas.view import ArenaChange, BaseArenaView
from shmclient._connection.retry import Retry
from shmclient._drivers import arena_waits
from shmclient._drivers.awaited import Awaited, Since, awaited_in, never
from shmclient._drivers.bell import Notice
from shmclient._drivers.stream import BaseStream
from shmprotocol.errors import Closed

if TYPE_CHECKING:
    from shmclient._regions.info import Change

T = TypeVar("T")


class AsyncStream(BaseStream[T]):
    """The result of `watch` and `follow`: starts when it is awaited, entered, or first iterated."""

    _new_turn = staticmethod(anyio.Lock)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        self._client._loop.check()
        async with self._turn:
            try:
                item: T = await self._client._drive(self._next())
                return item
            except Closed:
                if self._source.listener.is_closed:
                    raise StopAsyncIteration from None
                raise

    async def __aenter__(self) -> Self:
        self._client._loop.check()
        async with self._turn:
            await self._client._drive(self._start())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and a loop over it in another task. May be called again; never waits.

        WrongEventLoop: a task of another event loop waits for it.
        """
        if self._turn.locked():
            self._client._loop.check()  # only its own loop can wake that task
        super().close()

    async def aclose(self) -> None:
        """Do what `close` does, for `contextlib.aclosing`."""
        self.close()


if TYPE_CHECKING:
    Changed = AsyncStream[Change]
else:
    Changed = AsyncStream


class AsyncWatch(Changed):
    """The changes of names, as they happen; see `shmclient.Client.watch`."""


class AsyncFollow(AsyncStream[Any]):
    """The value of a name, and each newer one; see `shmclient.Client.follow`."""

    async def __anext__(self) -> Any:
        self._client._loop.check()
        channel, turn = self._client._core.channel, self._turn
        target = None if channel is None or turn.locked() else self._source.place(channel.context)
        if target is None:
            return await super().__anext__()
        awaited = Awaited(channel, target.reader, target.name, target.generation)
        turn.acquire_nowait()
        try:
            held = channel.notice(awaited, Retry(math.inf), self._source.listener.has_closed)
            if isinstance(held, Notice):
                held = await held
            else:
                await anyio.lowlevel.checkpoint()  # so that a loop over values lets others run
            if held is not None:
                return target.take(held)
        finally:
            turn.release()
        return await super().__anext__()


class AsyncArenaView(BaseArenaView):
    """The values of an arena: a read-only mapping, whose look-ups make no system call, and need no `await`.

    Look-ups are in the arena that was opened, or that the last `wait` or `changes` has found in its place.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        from shmclient._drivers.references import reduce_view

        return reduce_view(self)

    async def wait(self, name: str, *, after: int = 0, wait: float = math.inf) -> ArenaValue:
        """Return a handle of the value of a name once its generation is greater than `after`.

        The owner's next value wakes the event loop. As `shmclient.ArenaView.wait`.
        """
        self._client._loop.check()
        retry, short = Retry(wait), awaited_in(self._client._core.channel, self._reader, name, after)
        if short is not None and (held := await short.channel.await_value(short, retry, never)) is not None:
            handle: ArenaValue = short.handle(held)
            return handle
        full, since = f"{self.name}/{name}", Since(after, self._reader)
        operation = self._client._core.run_waiting(
            lambda context, retry: arena_waits.value_after(context, self.name, name, since, retry),
            retry,
            lambda: since.newer(full),
            lambda: since.position(full),
        )
        value: ArenaValue = await self._client._drive(operation)
        self._reader = value._reader
        return value

    async def changes(
        self, *, since: int | None = None, wait: float = math.inf
    ) -> AsyncIterator[ArenaChange]:
        """Yield each change of a name after the generation `since`, as `shmclient.ArenaView.changes` does."""
        source = arena_waits.Changes(self._reader, self.generation if since is None else since)
        while True:
            operation = self._client._core.run_waiting(source.next, wait, source.ready, source.position)
            changes: list[ArenaChange] = await self._client._drive(operation)
            if not changes:
                return
            self._reader = source.reader
            for change in changes:
                yield change


def make_async_view(client: Any, reader: Reader, anywhere: bool) -> AsyncArenaView:
    """Return a view of an arena for an async client."""
    view = AsyncArenaView.__new__(AsyncArenaView)
    view._begin(client, reader, anywhere)
    return view
