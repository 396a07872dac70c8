"""The async client, for asyncio and trio through anyio: the same operations, driven with `await`.

Cancelling any call is safe: a reply that comes later is undone (its descriptors closed, its leases given
back), and the connection stays usable.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Generic, NoReturn, Self, TypeVar

import anyio
import anyio.to_thread

from shmclient._connection.retry import Attempts, Retry, is_final, others_connect
from shmclient._connection.socket import detach_after_fork
from shmclient._drivers import operations
from shmclient._drivers.following import Changes, Values, once_after
from shmclient._drivers.on_anyio import AsyncChannel, open_channel
from shmclient._drivers.operations import DEFAULT_MODE, Ask, Context, Next, Operation, Step
from shmclient._drivers.transfer import Progress
from shmclient._process.copying import not_copied
from shmclient._regions.builder import RegionBuilder, abort
from shmclient._regions.info import Change, RegionInfo
from shmclient._regions.region import RegionHandle
from shmclient.client import TIMEOUT_S
from shmprotocol.errors import ClientClosed, Closed, HostGone, HostTimeout, RegionClosed
from shmprotocol.wire.names import BackendName, SealName
from shmprotocol.wire.paths import socket_path as choose_socket_path

__all__ = ["AsyncClient", "AsyncFollow", "AsyncRegion", "AsyncWatch", "connect"]

T = TypeVar("T")
INLINE_MAX = 256 * 1024  # bytes: copying this much takes about as long as a trip to a thread and back


class AsyncRegion(RegionHandle):
    """A published region, mapped read-only at its own address. A context manager that closes it."""

    _client: AsyncClient | None = None

    async def is_current(self) -> bool:
        """Whether this generation is still the current one of its name: one short round trip."""
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        return await self._client._run(lambda context: operations.is_current(context, self))

    async def __aenter__(self) -> AsyncRegion:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __enter__(self) -> AsyncRegion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A connection to the host, for the tasks of one event loop. Made by `await connect()`.

    The methods are those of `shmclient.Client`; see there for arguments, results and errors.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.socket_path = choose_socket_path(socket_path, os.environ)
        self._timeout_s = operations.check_timeout(timeout_s)
        self._channel: AsyncChannel | None = None
        self._is_closed = False
        self._attempts = Attempts(self._timeout_s)
        self._connecting = anyio.Lock()
        detach_after_fork(self, AsyncClient._detach)

    async def put(
        self,
        name: str,
        obj: object,
        *,
        mode: int = DEFAULT_MODE,
        backend: BackendName = "memfd",
        replace: bool = True,
        progress: Progress | None = None,
    ) -> AsyncRegion:
        """Store an object as one sealed region; large ones are written in a thread, which then also is
        where `progress` is called.

        On cancellation the name has its old value, or the new one if the host had published already.
        """
        region = await self._run(
            lambda context: operations.put(context, AsyncRegion, name, obj, mode, backend, replace, progress)
        )
        return self._adopt(region)

    async def get(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> Any:
        """Return the stored value, read-only and not copied. Cancelling ends the wait at the host too."""

        def start(context: Context, retry: Retry) -> Operation[Any]:
            value = operations.get(context, name, retry.remaining, anywhere)
            return value if after is None else once_after(context, name, after, retry, value)

        return await self._run_waiting(start, wait)

    async def open(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> AsyncRegion:
        """Return a handle of the current region of a name, mapped."""

        def start(context: Context, retry: Retry) -> Operation[Sequence[AsyncRegion]]:
            regions = operations.open_many(context, AsyncRegion, (name,), retry.remaining, anywhere)
            return regions if after is None else once_after(context, name, after, retry, regions)

        return self._adopt((await self._run_waiting(start, wait))[0])

    async def open_many(
        self, names: Sequence[str], *, wait: float | None = None, anywhere: bool = False
    ) -> list[AsyncRegion]:
        """Return handles of several regions, all or none."""
        regions = await self._run_waiting(
            lambda context, retry: operations.open_many(
                context, AsyncRegion, names, retry.remaining, anywhere
            ),
            wait,
        )
        return [self._adopt(region) for region in regions]

    @contextlib.asynccontextmanager
    async def create(
        self,
        name: str,
        size: int,
        *,
        mode: int = DEFAULT_MODE,
        seal: SealName = "full",
        backend: BackendName = "memfd",
        replace: bool = True,
    ) -> AsyncIterator[RegionBuilder]:
        """Build a region in place: leaving the block publishes; an exception or cancellation undoes it."""
        channel = await self._connected()
        builder = await _drive(
            channel, operations.create(channel.context, name, size, mode, seal, backend, replace)
        )
        try:
            yield builder
        except BaseException:
            abort(builder)
            raise
        self._adopt(await _drive(channel, operations.publish(channel.context, AsyncRegion, builder)))

    async def list(self, prefix: str = "") -> list[RegionInfo]:
        """Return all current regions whose name starts with the prefix, sorted by name."""
        return await self._run(lambda context: operations.list_regions(context, prefix))

    async def stat(self, name: str) -> RegionInfo:
        """Return the host's data about a current region."""
        return await self._run(lambda context: operations.stat(context, name))

    async def unlink(self, name: str) -> None:
        """Hide a name at once; its memory is freed with the last lease."""
        await self._run(lambda context: operations.unlink(context, name))

    async def chmod(self, name: str, mode: int) -> None:
        """Set which users may open (read) and replace or unlink (write) a region; only its owner may."""
        await self._run(lambda context: operations.chmod(context, name, mode))

    def watch(self, prefix: str = "", *, wait: float | None = None) -> AsyncWatch:
        """Return an async iterator of changes: from `await` or `async with` on, or from the first step."""
        return AsyncWatch(self, Changes(prefix, resumes=wait is not None), wait)

    def follow(self, name: str, *, wait: float | None = math.inf, anywhere: bool = False) -> AsyncFollow:
        """Return an async iterator of the value of a name: the current one, then each newer one."""
        return AsyncFollow(self, Values(name, anywhere=anywhere), wait)

    async def aclose(self) -> None:
        """Close the client. Mapped regions stay mapped, with their leases. May be called again."""
        self._close()

    def _detach(self) -> None:  # in the child of a fork: start without the parent's connection
        self._channel = None
        self._connecting = anyio.Lock()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        channel = getattr(self, "_channel", None)
        if channel is not None and not is_finalizing():
            channel.outbox.close()  # no task can be waiting: it would keep the client

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its socket_path, and connect in the other process")

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.socket_path}{', closed' if self._is_closed else ''}>"

    def _close(self) -> None:
        self._is_closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    async def _connected(self, limit_s: float | None = None) -> AsyncChannel:
        """Return a live connection, a new one if necessary, within `limit_s`."""
        channel = self._channel
        if channel is not None and channel.is_alive():
            return channel
        over, end = self._attempts.over, anyio.current_time() + (limit_s or 0)
        async with self._turn_to_connect(limit_s):
            if self._is_closed:
                raise ClientClosed("the client is closed: connect again")
            if self._channel is None or not self._channel.is_alive():
                left = None if limit_s is None else end - anyio.current_time()
                with self._attempts.next(left, over) as connect_s:
                    self._channel = await open_channel(self.socket_path, self._timeout_s, connect_s)
            channel = self._channel
            self._close_if_closed()
            return channel

    @contextlib.asynccontextmanager
    async def _turn_to_connect(self, limit_s: float | None) -> AsyncIterator[None]:
        lock, limit_s = self._connecting, self._attempts.limit(limit_s)
        with anyio.move_on_after(limit_s) as scope:
            await lock.acquire()
        if scope.cancelled_caught:
            raise others_connect(self.socket_path, limit_s)
        try:
            yield
        finally:
            lock.release()

    def _close_if_closed(self) -> None:
        if self._is_closed:  # closed meanwhile, by a task that did not see the new connection
            self._close()
            raise ClientClosed("the client is closed: connect again")

    async def _run(self, start: Callable[[Context], Operation[T]]) -> T:
        channel = await self._connected()
        return await _drive(channel, start(channel.context))

    async def _run_waiting(
        self,
        start: Callable[[Context, Retry], Operation[T]],
        wait_s: float | None,
        ready: Callable[[], T | None] = lambda: None,
    ) -> T:
        """Run an operation that may wait; a wait outlives its host and continues with the next one.

        `ready` is called after each failed attempt: a result or an exception of it ends the wait.
        """
        retry = Retry(wait_s)
        while True:
            try:
                channel = await self._connected(retry.remaining())
                retry.connected()
                return await _drive(channel, start(channel.context, retry))
            except (HostGone, HostTimeout) as error:
                if (result := ready()) is not None:
                    return result
                if is_final(self.socket_path):
                    raise
                pause_s = retry.pause(error)
            await anyio.sleep(pause_s)

    def _adopt(self, region: AsyncRegion) -> AsyncRegion:
        region._client = self
        return region


async def _drive(channel: AsyncChannel, operation: Operation[T]) -> T:
    """Carry out the steps of an operation and return its result."""
    try:
        step = next(operation)
        while True:
            try:
                outcome = await _carry_out(channel, step)
            except BaseException as error:
                step = operation.throw(error)
            else:
                step = operation.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


async def _carry_out(channel: AsyncChannel, step: Step) -> object:
    if isinstance(step, Ask):
        return await channel.ask(step)
    if isinstance(step, Next):
        return await channel.next_event(step)
    if step.size <= INLINE_MAX:
        return step.call()
    return await anyio.to_thread.run_sync(step.call)  # waits for the thread even when cancelled


class AsyncStream(Generic[T]):
    """The result of `watch` and `follow`: starts when it is awaited, entered, or first iterated."""

    def __init__(self, client: AsyncClient, source: Changes | Values, wait: float | None) -> None:
        self._client = client
        self._source: Any = source
        self._wait = wait
        self._turn = anyio.Lock()  # one task drives the source at a time

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        async with self._turn:
            try:
                return self._ready() or await self._run(self._source.next)
            except Closed:
                if self._source.listener.is_closed:
                    raise StopAsyncIteration from None
                raise

    async def __aenter__(self) -> Self:
        async with self._turn:
            await self._client._run_waiting(self._source.start, self._wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and a loop over it in another task. May be called again; never waits."""
        self._source.listener.close()

    async def aclose(self) -> None:
        """Do what `close` does, for `contextlib.aclosing`."""
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_source") and not is_finalizing():
            self._source.listener.give_up()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the name, and watch or follow it in the other process")

    async def _run(self, start: Callable[[Context, Retry], Operation[T]]) -> T:
        return await self._client._run_waiting(start, self._wait, self._ready)

    def _ready(self) -> T | None:
        """Return what needs no host; Closed when it was closed."""
        if self._source.listener.is_closed:
            raise Closed("the watch is closed")
        pending: T | None = self._source.pending()
        return pending


class AsyncWatch(AsyncStream[Change]):
    """The changes of names, as they happen; see `shmclient.Client.watch`."""


class AsyncFollow(AsyncStream[Any]):
    """The value of a name, and each newer one; see `shmclient.Client.follow`."""


async def connect(
    socket_path: str | os.PathLike[str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    wait: float | None = None,
) -> AsyncClient:
    """Connect to the host at a socket: the given one, $SHMHOST_SOCKET, or the default path.

    HostGone: no host answers there; with `wait`, retry for that many seconds, then raise WaitTimeout.
    AccessDenied: its socket is not for this user.
    """
    client = AsyncClient(socket_path, timeout_s=timeout_s)
    await client._run_waiting(lambda context, retry: operations.nothing(), wait)
    return client
