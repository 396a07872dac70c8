"""The sync client: a thin driver of the operations. Safe to use from any number of threads."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NoReturn, Self, TypeVar

from shmclient._connection.retry import Attempts, Retry, is_final, others_connect
from shmclient._connection.socket import detach_after_fork
from shmclient._drivers import operations
from shmclient._drivers.following import Changes, Values, once_after
from shmclient._drivers.operations import DEFAULT_MODE, Ask, Context, Next, Operation, Step
from shmclient._drivers.sync import Channel
from shmclient._drivers.transfer import Progress
from shmclient._process.copying import not_copied
from shmclient._regions.builder import RegionBuilder, abort
from shmclient._regions.info import Change, RegionInfo
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import ClientClosed, Closed, HostGone, HostTimeout, RegionClosed, RegionNotFound
from shmprotocol.wire.names import BackendName, SealName
from shmprotocol.wire.paths import socket_path as choose_socket_path

T = TypeVar("T")
TIMEOUT_S = 30.0  # a host answers in microseconds; one that takes so long is stopped


class Region(RegionHandle):
    """A published region, mapped read-only at its own address. A context manager that closes it."""

    _client: Client | None = None

    def is_current(self) -> bool:
        """Whether this generation is still the current one of its name: one short round trip."""
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        return self._client._run(lambda context: operations.is_current(context, self))

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """A connection to the host at a socket; it reconnects by itself after a fork or a restart of the host.

    While there is no host, requests raise HostGone at once, and those with a `wait` retry for that
    time; mapped regions stay mapped. `timeout_s` limits every request except a `wait`. A
    `with` block closes the client.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        wait: float | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._is_closed = False
        self._timeout_s = operations.check_timeout(timeout_s)
        self._attempts = Attempts(self._timeout_s)
        self.socket_path = choose_socket_path(socket_path, os.environ)
        detach_after_fork(self, Client._detach)
        self._run_waiting(lambda context, retry: operations.nothing(), wait)

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
        """Store a bytes-like object, an ndarray, or a dict of them, as one sealed region.

        A published name gets a new generation; readers of the old one keep it. `mode` says which users may
        open (read) and replace (write) it, as for a file. `progress` is called with the bytes written so
        far, every 16 MiB; if it raises, the put ends, and nothing is published.

        NumPy scalars come back as arrays without dimensions, a memmap as a plain array. TypeError: the object
        cannot be stored without loss, such as a masked array; the text says what to do. RegionExists: the
        name is taken and `replace` is False.
        AccessDenied, QuotaExceeded, RegionBusy.
        """
        region = self._run(
            lambda context: operations.put(context, Region, name, obj, mode, backend, replace, progress)
        )
        return self._adopt(region)

    def get(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> Any:
        """Return the value that was put: an ndarray, a memoryview or a dict, read-only and without a copy.

        The memory stays mapped while the value or any view of it exists. `wait` is the number of seconds
        to wait for the name, and for a stopped host to come back; WaitTimeout after that
        (`math.inf`: never). `after`: accept only a generation greater than this one (see `stat` and `open`
        for a value's generation); older ones count as missing.
        RegionNotFound: no such name. AddressConflict: its address is occupied in this process;
        `anywhere=True` maps it elsewhere. BadRegion: its content does not match its metadata.
        """

        def start(context: Context, retry: Retry) -> Operation[Any]:
            value = operations.get(context, name, retry.remaining, anywhere)
            return value if after is None else once_after(context, name, after, retry, value)

        return self._run_waiting(start, wait)

    def open(
        self, name: str, *, after: int | None = None, wait: float | None = None, anywhere: bool = False
    ) -> Region:
        """Return a handle of the current region of a name, mapped; `after` and errors as for `get`."""

        def start(context: Context, retry: Retry) -> Operation[list[Region]]:
            regions = operations.open_many(context, Region, (name,), retry.remaining, anywhere)
            return regions if after is None else once_after(context, name, after, retry, regions)

        return self._adopt(self._run_waiting(start, wait)[0])

    def open_many(
        self, names: Sequence[str], *, wait: float | None = None, anywhere: bool = False
    ) -> list[Region]:
        """Return handles of several regions, all or none, with one round trip for each 64 of them."""
        regions = self._run_waiting(
            lambda context, retry: operations.open_many(context, Region, names, retry.remaining, anywhere),
            wait,
        )
        return [self._adopt(region) for region in regions]

    @contextlib.contextmanager
    def create(
        self,
        name: str,
        size: int,
        *,
        mode: int = DEFAULT_MODE,
        seal: SealName = "full",
        backend: BackendName = "memfd",
        replace: bool = True,
    ) -> Iterator[RegionBuilder]:
        """Build a region of `size` payload bytes in place: leaving the block publishes it.

        Views and arrays over it stay valid, but **read-only: a write through one is SIGSEGV** from then
        on, in every thread. An exception in the block undoes the creation: the name is free at once, and
        remaining views are private memory. `seal="writer"` lets this process continue to write through the
        builder. RegionBusy at the end of the block: it still has a pin, or a child that was forked in the
        block has it mapped.
        """
        channel = self._connected()
        builder = _drive(
            channel,
            operations.create(channel.context, name, size, mode, seal, backend, replace),
        )
        try:
            yield builder
        except BaseException:
            abort(builder)
            raise
        self._adopt(_drive(channel, operations.publish(channel.context, Region, builder)))

    def list(self, prefix: str = "") -> list[RegionInfo]:
        """Return all current regions whose name starts with the prefix, sorted by name."""
        return self._run(lambda context: operations.list_regions(context, prefix))

    def __contains__(self, name: str) -> bool:
        try:
            self.stat(name)
        except RegionNotFound:
            return False
        return True

    def stat(self, name: str) -> RegionInfo:
        """Return the host's data about a current region."""
        return self._run(lambda context: operations.stat(context, name))

    def unlink(self, name: str) -> None:
        """Hide a name at once; its memory is freed with the last lease."""
        self._run(lambda context: operations.unlink(context, name))

    def chmod(self, name: str, mode: int) -> None:
        """Set which users may open (read) and replace or unlink (write) a region; only its owner may."""
        self._run(lambda context: operations.chmod(context, name, mode))

    def watch(self, prefix: str = "", *, wait: float | None = None) -> Watch:
        """Return an iterator of the changes of all names with a prefix, from now on.

        It never ends by itself. When the host stops, it raises HostGone; with a `wait`, it continues at the
        next host, and raises WaitTimeout if there is none for that many seconds (`math.inf`: never). It
        then reports the changes in between: `unlinked` for each missing name, with its last known state,
        `published` for each name with another region, `changed` for another mode. Of several
        generations in between, only the last is reported. `close`, or the end of a `with` block,
        ends it, on any thread; closing the client ends it with ClientClosed.
        """
        return Watch(self, prefix, wait)

    def follow(self, name: str, *, wait: float | None = math.inf, anywhere: bool = False) -> Follow:
        """Return an iterator of the value of a name: the current one, then each newer one.

        It never ends by itself, and continues at the next host when the host stops. Of several generations
        in between, it yields only the newest, and never one that is older than the last. If the name is
        unlinked, it waits. `wait` is the longest absence of the name or the host, in seconds; after that
        it raises WaitTimeout, and the next step waits again. None: no absence is allowed, so that
        RegionNotFound or HostGone is raised. Other errors as for `get`; it ends as a `watch` does.
        """
        return Follow(self, name, wait, anywhere)

    def fileno(self) -> int:
        """Return the descriptor of the connection, which holds the leases. The client still owns it."""
        return self._connected().fileno()

    def close(self) -> None:
        """Close the client. Mapped regions stay mapped, with their leases. May be called again."""
        self._is_closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _detach(self) -> None:  # in the child of a fork: start without the parent's connection
        self._lock = threading.Lock()
        self._channel = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        channel = getattr(self, "_channel", None)
        if channel is not None and not is_finalizing():
            channel.outbox.close()  # no thread can be waiting: it would keep the client

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its socket_path, and connect in the other process")

    def __repr__(self) -> str:
        return f"<Client of {self.socket_path}{', closed' if self._is_closed else ''}>"

    def _connected(self, limit_s: float | None = None) -> Channel:
        """Return a live connection, a new one if necessary, within `limit_s`."""
        channel = self._channel
        if channel is not None and channel.is_alive():
            return channel
        over, end = self._attempts.over, time.monotonic() + (limit_s or 0)
        with self._turn_to_connect(limit_s):
            if self._is_closed:
                raise ClientClosed("the client is closed: connect again")
            if self._channel is None or not self._channel.is_alive():
                left = None if limit_s is None else end - time.monotonic()
                with self._attempts.next(left, over) as connect_s:
                    self._channel = Channel(self.socket_path, self._timeout_s, connect_s)
            channel = self._channel
            self._close_if_closed()
            return channel

    @contextlib.contextmanager
    def _turn_to_connect(self, limit_s: float | None) -> Iterator[None]:
        lock, limit_s = self._lock, self._attempts.limit(limit_s)
        if not lock.acquire(timeout=limit_s):
            raise others_connect(self.socket_path, limit_s)
        try:
            yield
        finally:
            lock.release()

    def _close_if_closed(self) -> None:
        if self._is_closed:  # closed meanwhile, by a thread that did not see the new connection
            self.close()
            raise ClientClosed("the client is closed: connect again")

    def _run(self, start: Callable[[Context], Operation[T]]) -> T:
        channel = self._connected()
        return _drive(channel, start(channel.context))

    def _run_waiting(
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
                channel = self._connected(retry.remaining())
                retry.connected()
                return _drive(channel, start(channel.context, retry))
            except (HostGone, HostTimeout) as error:
                if (result := ready()) is not None:
                    return result
                if is_final(self.socket_path):
                    raise
                pause_s = retry.pause(error)
            time.sleep(pause_s)

    def _adopt(self, region: Region) -> Region:
        region._client = self
        return region


def _drive(channel: Channel, operation: Operation[T]) -> T:
    """Carry out the steps of an operation and return its result.

    Ctrl-C outside of a step may lose what the last one granted: the connection is retired then.
    """
    is_inside = False
    outcome: object = None
    try:
        step = next(operation)
        while True:
            try:
                outcome = _carry_out(channel, step)
            except BaseException as error:
                is_inside = isinstance(error, KeyboardInterrupt)
                step = operation.throw(error)
            else:
                step = operation.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result
    except KeyboardInterrupt:
        if not is_inside:
            operations.undo_creation(channel.context, outcome)
            channel.retire()
        raise


def _carry_out(channel: Channel, step: Step) -> object:
    if isinstance(step, Ask):
        return channel.ask(step)
    return channel.next_event(step) if isinstance(step, Next) else step.call()


class Stream(Generic[T]):
    """The result of `watch` and `follow`: an iterator, and a context manager that closes it."""

    def __init__(self, client: Client, source: Changes | Values, wait: float | None) -> None:
        self._client = client  # which must not be collected meanwhile
        self._source: Any = source
        self._wait = wait
        self._turn = threading.Lock()  # one thread drives the source at a time
        detach_after_fork(self, Stream._detach)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._turn:
            try:
                return self._ready() or self._run(self._source.next)
            except Closed:
                if self._source.listener.is_closed:
                    raise StopIteration from None
                raise

    def close(self) -> None:
        """End it, and a loop over it in another thread. May be called again."""
        self._source.listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_source") and not is_finalizing():
            self._source.listener.give_up()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the name, and watch or follow it in the other process")

    def _run(self, start: Callable[[Context, Retry], Operation[T]]) -> T:
        return self._client._run_waiting(start, self._wait, self._ready)

    def _ready(self) -> T | None:
        """Return what needs no host; Closed when it was closed."""
        if self._source.listener.is_closed:
            raise Closed("the watch is closed")
        pending: T | None = self._source.pending()
        return pending

    def _detach(self) -> None:  # in the child of a fork: the thread that had the turn is not here
        self._turn = threading.Lock()


class Watch(Stream[Change]):
    """The changes of names, as they happen; see `Client.watch`."""

    def __init__(self, client: Client, prefix: str, wait: float | None) -> None:
        source = Changes(prefix, resumes=wait is not None)
        super().__init__(client, source, wait)
        client._run_waiting(source.start, wait)


class Follow(Stream[Any]):
    """The value of a name, and each newer one; see `Client.follow`."""

    def __init__(self, client: Client, name: str, wait: float | None, anywhere: bool) -> None:
        super().__init__(client, Values(name, anywhere=anywhere), wait)


def connect(
    socket_path: str | os.PathLike[str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    wait: float | None = None,
) -> Client:
    """Connect to the host at a socket: the given one, $SHMHOST_SOCKET, or the default path.

    HostGone: no host answers there; with `wait`, retry for that many seconds, then raise WaitTimeout.
    AccessDenied: its socket is not for this user.
    """
    return Client(socket_path, timeout_s=timeout_s, wait=wait)
