"""The sync client: a thin driver of the operations. Safe to use from any number of threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar

from shmclient._codecs.libraries import LibraryName
from shmclient._connection.hosts import OPENER
from shmclient._connection.retry import Retry
from shmclient._drivers import answers, arenas, operations, putting
from shmclient._drivers.awaited import awaited, never
from shmclient._drivers.core import Core
from shmclient._drivers.getting import values_of
from shmclient._drivers.handles import Region
from shmclient._drivers.naming import Names
from shmclient._drivers.news import News
from shmclient._drivers.objects import Objects
from shmclient._drivers.operations import DEFAULT_MODE
from shmclient._drivers.saving import Snapshots
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
    Stay,
)
from shmclient._drivers.transfer import Progress
from shmclient._drivers.trips import Channel
from shmclient._process.copying import not_copied
from shmprotocol.native.builtins import value_again
from shmprotocol.wire import paths
from shmprotocol.wire.names import BackendName, SealName

if TYPE_CHECKING:
    from shmclient._arenas.owner import Arena
    from shmclient._drivers.arena_views import ArenaView
    from shmclient._regions.builder import RegionBuilder

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT_S = 30.0  # a host answers in microseconds; one that takes so long is stopped


class Client(Names, News, Objects, Snapshots):
    """A connection to the host at a socket; it reconnects by itself after a fork or a restart of the host.

    While there is no host, requests raise HostGone at once, and those with a `wait` retry for that
    time; mapped regions stay mapped. `timeout` is how many seconds the host may take for any request but a
    `wait` (`timeout_s` is its former name). `reserve` is how many bytes of regions are kept ahead for
    the next puts, filled with pages by a thread: worth it where a CPU is idle and puts of one size follow
    each other. The host may allow less. A `with` block closes the client.
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
        self._core: Core[Channel] = Core(self.socket_path, timeout, threading.RLock, reserve)
        self._drive(self._core.start(wait))

    def put(
        self,
        name: str,
        obj: object,
        *,
        mode: int = DEFAULT_MODE,
        backend: BackendName = "memfd",
        replace: bool = True,
        progress: Progress | None = None,
    ) -> Region:
        """Store a bytes-like object, an array, a tensor, text, a number, None, a list, tuple or dict of such.

        It becomes one sealed region. `put_object` takes what else can be pickled.

        A published name gets a new generation; readers of the old one keep it. `mode` says which users may
        open (read) and replace (write) it, as for a file. `progress` is called with the bytes written so
        far, every 16 MiB; if it raises, the put ends, and nothing is published.

        NumPy scalars come back as arrays without dimensions, a memmap as a plain array. TypeError: the object
        cannot be stored without loss, such as a masked array; the text says what to do. RegionExists: the
        name is taken and `replace` is False.
        AccessDenied, QuotaExceeded, RegionBusy.
        """
        channel = self._core.channel
        if channel is not None and progress is None and backend == "memfd":
            region: Region | Literal[False] = channel.put(Region, self, name, obj, mode, replace)
            if region is not False:
                return region
        value = putting.encode(name, obj, mode, replace, progress)
        channel = self._core.live()
        if channel is not None and putting.can_be_filled(channel.context, value, backend):
            region = channel.fill(Region, self, value)
            if region is not False:
                return region
        return self._adopt(self._run(putting.put_value, Region, value, backend))

    def get(
        self,
        name: str,
        *,
        after: int | None = None,
        wait: float | None = None,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> Any:
        """Return the value that was put: arrays and memoryviews in it are read-only, and not copied.

        A dict of more than 64 keys is a RegionDict, a Mapping whose values are made when they are looked up.
        The memory stays mapped while the value or any view of it exists. `wait` is the number of seconds
        to wait for the name, and for a stopped host to come back; WaitTimeout after that
        (`math.inf`: never). `after`: accept only a generation greater than this one (see `stat` and `open`
        for a value's generation); older ones count as missing. `as_="torch"` gives tensors, which can be
        written: that copies the page, for this process alone. `as_="jax"`: arrays on jax's default device.
        RegionNotFound: no such name. AddressConflict: its address is occupied in this process;
        `anywhere=True` maps it elsewhere. BadRegion: its content does not match its metadata.
        """
        if as_ is not None:
            with self.open(name, after=after, wait=wait, anywhere=anywhere) as handle:
                return handle.value(as_=as_)
        if after is None:
            core = self._core
            value = value_again(core.mapped, core.arenas, name)
            if value is not None:
                return value
            if (value := self._core.mapped_value(name)) is not None:
                return value
            channel = self._core.channel
            if wait is None and channel is not None and self._core.may_be_fetched(name):
                got = channel.attach(None, None, name, anywhere)
                if got is not False:
                    return got.value
        retry, short = Retry(wait), awaited(self._core.channel, name, after)
        if short is not None and (held := short.channel.await_value(short, retry, never)) is not None:
            return short.value(held)
        return self._drive(self._core.get(name, after, retry, anywhere, short))

    def get_many(
        self,
        names: Sequence[str],
        *,
        wait: float | None = None,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> list[Any]:
        """Return the values of several names, all or none, as `get` does.

        One round trip for each 64 of them; those that are mapped and current need none.
        """
        if as_ is not None:
            return values_of(self.open_many(names, wait=wait, anywhere=anywhere), as_)
        if wait is None and (channel := self._core.channel) is not None:
            values = channel.get_many(names, self._core.mapped_value, anywhere)
            if values is not None:
                return values
        return self._drive(self._core.get_many(names, wait, anywhere))

    def open(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> Region:
        """Return a handle of the current region of a name, mapped; `after` and errors as for `get`."""
        if after is None and wait is None and (channel := self._core.channel) is not None:
            region: Region | Literal[False] = channel.attach(Region, self, name, anywhere)
            if region is not False:
                return region
        retry, short = Retry(wait), awaited(self._core.channel, name, after)
        if short is not None and (held := short.channel.await_value(short, retry, never)) is not None:
            handle: Region = short.handle(held)
            return handle
        return self._adopt(self._drive(self._core.open(Region, name, after, retry, anywhere, short))[0])

    def open_many(
        self, names: Sequence[str], *, wait: float | None = None, anywhere: bool = False
    ) -> list[Region]:
        """Return handles of several regions, all or none, with one round trip for each 64 of them."""
        if wait is None and (channel := self._core.channel) is not None:
            several: list[Region] | None = channel.attach_many(Region, self, names, anywhere)
            if several is not None:
                return several
        regions = self._drive(self._core.open_many(Region, names, wait, anywhere))
        return [self._adopt(region) for region in regions]

    @contextlib.contextmanager
    def create(
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
    ) -> Iterator[RegionBuilder]:
        """Build a region of `size` payload bytes in place: leaving the block publishes it.

        Views and arrays over it stay valid, but **read-only: a write through one is SIGSEGV** from then
        on, in every thread. An exception in the block undoes the creation: the name is free at once, and
        remaining views are private memory. `seal="writer"` lets this process continue to write through the
        builder; `seal="shared"` lets all whom `mode` lets write do so, by what `get` and `open` return: its
        size is sealed, its content is not. With either, and a `max_size`, it grows in place by
        `builder.region.resize(size)`. Without `keep` the name is unlinked when this client closes, or its
        process ends, in whatever way. RegionBusy at the end of the block: it still has a pin, or a child
        that was forked in the block has it mapped.
        """
        from shmclient._regions.builder import abort  # not at the end, where nothing can be imported

        channel = self._connected()
        creation = operations.create(
            channel.context, name, size, mode, seal, backend, replace, keep, max_size
        )
        builder = self._drive(creation, channel)
        try:
            yield builder
        except BaseException:
            abort(builder)
            raise
        self._adopt(self._drive(operations.publish(channel.context, Region, builder), channel))

    def arena(
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
        """Make an arena: memory of `size` bytes that this process writes, and others read.

        It grows by itself up to `max_size`. It has room for so many `names`, which take 200 bytes each: by
        default 65,536, in less than 128 MiB fewer. `mode` says which users may open it, and with it all that
        is in it. With `keep` its values stay readable after its owner's end, until the name is unlinked or
        has another arena. With `populate` its memory is made here, and where it grows, in 0.7 s for a GiB;
        otherwise by the first writes, which take twice as long for that. OutOfMemory: there is not so much.
        """
        return self._run(arenas.create, name, size, max_size, names, mode, keep, replace, bool(populate))

    def open_arena(self, name: str, *, wait: float | None = None, anywhere: bool = False) -> ArenaView:
        """Return the values of an arena as a mapping; `wait` and errors as for `get`."""
        from shmclient._drivers.arena_views import make_view

        reader = self._drive(self._core.open_arena(name, wait, anywhere))
        return make_view(self, reader, anywhere)

    def fileno(self) -> int:
        """Return the descriptor of the connection, which holds the leases. The client still owns it."""
        return self._connected().fileno()

    def close(self) -> None:
        """Close the client. Mapped regions stay mapped, with their leases. May be called again."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_core") and not is_finalizing():
            self._core.give_up()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its socket_path, and connect in the other process")

    def __repr__(self) -> str:
        return f"<Client of {self.socket_path}{', closed' if self._core.is_closed else ''}>"

    def _connected(self) -> Channel:
        channel = self._core.live()
        return self._drive(self._core.connected()) if channel is None else channel

    def _run(
        self, start: Callable[Concatenate[Context, P], Operation[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        channel = self._connected()
        return self._drive(start(channel.context, *args, **kwargs), channel)

    def _drive(self, operation: Operation[T], channel: Channel | None = None) -> T:
        """Carry out the steps of an operation, on a channel if it talks to the host; return its result.

        Ctrl-C outside of a step may lose what the last one granted: the channel is retired then.
        """
        is_inside = False
        outcome: Any = None
        try:
            step = next(operation)
            while True:
                try:
                    outcome = self._carry_out(step, channel)
                except BaseException as error:
                    is_inside = isinstance(error, KeyboardInterrupt)
                    step = operation.throw(error)
                else:
                    step = operation.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result
        except KeyboardInterrupt:
            if channel is not None and not is_inside:
                answers.undo_creation(channel.context, outcome)
                channel.retire()
            raise

    def _carry_out(self, step: Any, channel: Any) -> object:
        kind = type(step)  # `match` costs a microsecond more
        if kind is Ask:
            return channel.ask(step)
        if kind is Run:
            return step.call()
        if kind is Drive:
            return self._drive(step.operation, step.channel)
        if kind is Next:
            return channel.next_event(step)
        if kind is Look:
            return channel.look(step)
        if kind is Stay:
            return channel.stay(step)
        if kind is Fetch:
            return channel.attach(None, None, step.name, step.anywhere)
        if kind is Acquire:
            return step.lock.acquire(timeout=step.limit_s)
        if kind is Connect:
            return Channel(self.socket_path, self._core.timeout_s, step.connect_s)
        time.sleep(step.pause_s) if channel is None else channel.pause(step)
        return None

    def _adopt(self, region: Region) -> Region:
        region._client = self
        return region


def connect(
    socket_path: paths.AnyPath | None = None,
    *,
    timeout: float = TIMEOUT_S,
    wait: float | None = None,
    reserve: int = 0,
    timeout_s: float | None = None,
) -> Client:
    """Connect to the host at a socket: the given one, $SHMHOST_SOCKET, or the default path.

    HostGone: no host answers there; with `wait`, retry for that many seconds, then raise WaitTimeout.
    AccessDenied: its socket is not for this user. `timeout` and `reserve` are as for `Client`.
    """
    return Client(socket_path, timeout=timeout, wait=wait, reserve=reserve, timeout_s=timeout_s)


OPENER.connect = connect
