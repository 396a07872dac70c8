"""The async client, for asyncio and trio through anyio: the same operations, driven with `await`.

Cancelling any call is safe: a reply that comes later is undone (its descriptors closed, its leases given
back), and the connection stays usable.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import anyio

from shmclient._codecs.libraries import LibraryName
from shmclient._connection.loop import EventLoop
from shmclient._connection.retry import Retry
from shmclient._drivers import arenas, operations, putting
from shmclient._drivers.async_handles import AsyncRegion
from shmclient._drivers.async_streams import AsyncArenaView, AsyncFollow, AsyncWatch, make_async_view
from shmclient._drivers.awaited import awaited, never
from shmclient._drivers.core import Core
from shmclient._drivers.getting import values_of
from shmclient._drivers.naming import AsyncNames
from shmclient._drivers.news import AsyncNews
from shmclient._drivers.objects import AsyncObjects
from shmclient._drivers.on_anyio import AsyncChannel, in_thread, open_channel
from shmclient._drivers.operations import DEFAULT_MODE
from shmclient._drivers.saving import AsyncSnapshots
from shmclient._drivers.steps import (
    Acquire,
    Ask,
    Connect,
    Context,
    Drive,
    Fetch,
    Look,
    Next,
    Operation,
    Run,
    Sleep,
    Stay,
    Step,
)
from shmclient._drivers.transfer import Progress
from shmclient._process.copying import not_copied
from shmclient.client import TIMEOUT_S
from shmprotocol.wire import paths
from shmprotocol.wire.names import BackendName, SealName

__all__ = ["AsyncArenaView", "AsyncClient", "AsyncFollow", "AsyncRegion", "AsyncWatch", "connect"]

if TYPE_CHECKING:
    from shmclient._arenas.owner import Arena
    from shmclient._regions.builder import RegionBuilder

P = ParamSpec("P")
T = TypeVar("T")
MAX_INLINE = 256 * 1024  # bytes: copying this much takes about as long as a trip to a thread and back


class AsyncClient(AsyncNames, AsyncNews, AsyncObjects, AsyncSnapshots):
    """A connection to the host, for the tasks of one event loop.

    `await connect()` connects at once; a client made without it, at its `async with` (with `wait`, as there)
    or with its first request.
    The methods are those of `shmclient.Client`; see there for arguments, results and errors. In another event
    loop, on another thread or after its loop has ended, each is WrongEventLoop. A child of a
    fork can use it in a loop of its own, with a new connection.
    """

    def __init__(
        self,
        socket_path: paths.AnyPath | None = None,
        *,
        timeout: float = TIMEOUT_S,
        wait: float | None = None,
        reserve: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        timeout = timeout if timeout_s is None else timeout_s
        self.socket_path: str = paths.socket_path(socket_path, os.environ)
        self._core: Core[AsyncChannel] = Core(self.socket_path, timeout, anyio.Lock, reserve)
        self._wait_s = wait
        self._loop = EventLoop()

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
        region = await self._run(putting.put, AsyncRegion, name, obj, mode, backend, replace, progress)
        return self._adopt(region)

    async def get(
        self,
        name: str,
        *,
        after: int | None = None,
        wait: float | None = None,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> Any:
        """Return the stored value, read-only and not copied. Cancelling ends the wait at the host too."""
        self._loop.check()
        if as_ is not None:
            with await self.open(name, after=after, wait=wait, anywhere=anywhere) as handle:
                return handle.value(as_=as_)
        if after is None and (value := self._core.mapped_value(name)) is not None:
            return value
        retry, short = Retry(wait), awaited(self._core.channel, name, after)
        if short is not None and (held := await short.channel.await_value(short, retry, never)) is not None:
            return short.value(held)
        return await self._drive(self._core.get(name, after, retry, anywhere, short))

    async def get_many(
        self,
        names: Sequence[str],
        *,
        wait: float | None = None,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> list[Any]:
        """Return the values of several names, all or none, with one round trip for each 64 of them."""
        if as_ is not None:
            return values_of(await self.open_many(names, wait=wait, anywhere=anywhere), as_)
        return await self._drive(self._core.get_many(names, wait, anywhere))

    async def open(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> AsyncRegion:
        """Return a handle of the current region of a name, mapped."""
        self._loop.check()
        retry, short = Retry(wait), awaited(self._core.channel, name, after)
        if short is not None and (held := await short.channel.await_value(short, retry, never)) is not None:
            handle: AsyncRegion = short.handle(held)
            return handle
        regions = await self._drive(self._core.open(AsyncRegion, name, after, retry, anywhere, short))
        return self._adopt(regions[0])

    async def open_many(
        self, names: Sequence[str], *, wait: float | None = None, anywhere: bool = False
    ) -> list[AsyncRegion]:
        """Return handles of several regions, all or none."""
        regions = await self._drive(self._core.open_many(AsyncRegion, names, wait, anywhere))
        return [self._adopt(region) for region in regions]

    @contextlib.asynccontextmanager
    async def create(
        self,
        name: str,
        size: int,
        *,
        max_size: int | None = None,
        mode: int = DEFAULT_MODE,
        seal: SealName = "full",
        backend: BackendName = "memfd",
        replace: bool = True,
        keep: bool = True,
    ) -> AsyncIterator[RegionBuilder]:
        """Build a region in place: leaving the block publishes; an exception or cancellation undoes it."""
        from shmclient._regions.builder import abort  # not at the end, where nothing can be imported

        channel = await self._connected()
        creation = operations.create(
            channel.context, name, size, mode, seal, backend, replace, keep, max_size
        )
        builder = await self._drive(creation, channel)
        try:
            yield builder
            self._loop.check()
        except BaseException:
            abort(builder)
            raise
        publication = operations.publish(channel.context, AsyncRegion, builder)
        self._adopt(await self._drive(publication, channel))

    async def arena(
        self,
        name: str,
        size: int,
        *,
        max_size: int | None = None,
        names: int | None = None,
        mode: int = DEFAULT_MODE,
        keep: bool = True,
        replace: bool = True,
        populate: bool = False,
    ) -> Arena:
        """Make an arena, which this process writes, as `shmclient.Client.arena` does."""
        return await self._run(
            arenas.create, name, size, max_size, names, mode, keep, replace, bool(populate)
        )

    async def open_arena(
        self, name: str, *, wait: float | None = None, anywhere: bool = False
    ) -> AsyncArenaView:
        """Return the values of an arena as a mapping; `wait` and errors as for `get`."""
        reader = await self._drive(self._core.open_arena(name, wait, anywhere))
        return make_async_view(self, reader, anywhere)

    async def aclose(self) -> None:
        """Close the client. Mapped regions stay mapped, with their leases. May be called again.

        WrongEventLoop: tasks of another event loop wait in the client.
        """
        if self._core.channel is not None and self._core.channel.has_waits:
            self._loop.check()  # only their own loop can wake them
        self._core.close()

    async def __aenter__(self) -> AsyncClient:
        await self._drive(self._core.start(self._wait_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_core") and not is_finalizing():
            self._core.give_up()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its socket_path, and connect in the other process")

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.socket_path}{', closed' if self._core.is_closed else ''}>"

    async def _connected(self) -> AsyncChannel:
        channel = self._core.live()
        return await self._drive(self._core.connected()) if channel is None else channel

    async def _run(
        self, start: Callable[Concatenate[Context, P], Operation[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        channel = await self._connected()
        return await self._drive(start(channel.context, *args, **kwargs), channel)

    async def _drive(self, operation: Operation[T], channel: AsyncChannel | None = None) -> T:
        """Carry out the steps of an operation, on a channel if it talks to the host; return its result."""
        self._loop.check()
        try:
            step = next(operation)
            while True:
                try:
                    outcome = await self._carry_out(step, channel)
                except BaseException as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _carry_out(self, step: Step, channel: AsyncChannel | None) -> object:
        if channel is not None:
            match step:
                case Ask():
                    return await channel.ask(step)
                case Stay():
                    return await channel.stay(step)
                case Sleep():
                    await channel.pause(step)
                    return None
                case Next():
                    return await channel.next_event(step)
        return await self._carry_out_alone(step)

    async def _carry_out_alone(self, step: Step) -> object:
        match step:
            case Drive():
                return await self._drive(step.operation, step.channel)
            case Look() | Fetch():
                return False  # an event loop neither sleeps on memory nor waits in a call
            case Run() if step.size <= MAX_INLINE:
                return step.call()
            case Run():
                return await in_thread(step.call)
            case Acquire():
                with anyio.move_on_after(step.limit_s) as scope:
                    await step.lock.acquire()
                return not scope.cancelled_caught
            case Connect():
                return await open_channel(self.socket_path, self._core.timeout_s, step.connect_s)
            case Sleep():
                await anyio.sleep(step.pause_s)
        return None

    def _adopt(self, region: AsyncRegion) -> AsyncRegion:
        region._client = self
        return region


async def connect(
    socket_path: paths.AnyPath | None = None,
    *,
    timeout: float = TIMEOUT_S,
    wait: float | None = None,
    reserve: int = 0,
    timeout_s: float | None = None,
) -> AsyncClient:
    """Connect to the host at a socket: the given one, $SHMHOST_SOCKET, or the default path.

    HostGone: no host answers there; with `wait`, retry for that many seconds, then raise WaitTimeout.
    AccessDenied: its socket is not for this user. `timeout` and `reserve` are as for `Client`.
    """
    return await AsyncClient(
        socket_path, timeout=timeout, wait=wait, reserve=reserve, timeout_s=timeout_s
    ).__aenter__()
