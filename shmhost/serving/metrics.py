"""The counters of a host as Prometheus metrics, and the small HTTP server that they are scraped from.

The server has one thread and answers one scrape at a time. It never touches the host's state: it asks the
event loop for a snapshot and waits for that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.metadata
import logging
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import anyio
import anyio.to_thread

from shmhost.core.hub import Gauge, Hub
from shmhost.core.meter import Latency
from shmhost.machine.socket_file import SocketFile
from shmhost.settings.config import metrics_address
from shmprotocol.errors import HostError
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.messages import Measured, Total
from shmprotocol.wire.names import State

LOG = logging.getLogger("shmhost")

PATIENCE_S = 5.0  # for the event loop to give a snapshot
SCRAPE_S = 6.0  # for a whole scrape, however slowly its request comes
RETRY_S = 0.2  # while this process has no descriptor left
STATES = [state for state in State if state is not State.FREED]


class Snapshot(NamedTuple):
    """The data of one scrape. `latencies`: by operation; `windows`: base, size and free bytes of each;
    `stored`: regions that a service manager has, and may have; `fleet`: what the part that joins hosts says.
    """

    measured: Measured
    latencies: dict[str, Latency]
    windows: list[tuple[int, int, int]]
    stored: tuple[int, int] = (0, 0)
    fleet: Sequence[Gauge] = ()


def snapshot_of(hub: Hub) -> Snapshot:
    """Take a snapshot, in the thread of the host."""
    return Snapshot(
        hub.measure(0),
        {name: latency.copy() for name, latency in hub.meter.latencies.items()},
        [(window.base, window.size, window.free()) for window in hub.registry.allocator.windows],
        (len(hub.stored), hub.stored.room) if hub.stored is not None else (0, 0),
        hub.fleet_gauges(),
    )


class Collector:
    """Gives prometheus_client the metrics of a snapshot that is taken at each scrape."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._version = importlib.metadata.version("shmhost")  # read off the disk

    def collect(self) -> Iterator[Any]:
        """Yield the metric families."""
        snapshot = self._take()
        yield from _host_families(snapshot, self._version)
        yield from _region_families(snapshot)
        yield from _request_families(snapshot)


def _host_families(snapshot: Snapshot, version: str) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    measured = snapshot.measured
    yield InfoMetricFamily("shmhost", "The host that serves these metrics", value={"version": version})
    for name, text, value in (
        ("start_time_seconds", "Start time of the host, seconds since the epoch", measured.started_ns / 1e9),
        ("memory_budget_bytes", "Limit of the memory that regions may use", measured.budget),
        ("memory_used_bytes", "Memory of the budget in use by regions", measured.used),
        ("clients", "Connected clients", measured.clients),
        ("listeners", "Clients that wait for a name or watch a prefix", measured.listeners),
        ("arenas", "Arenas, of the regions", measured.arenas),
        ("ledgers", "Clients that have opened an arena, each with a ledger", measured.ledgers),
        ("expected_regions", "Names of a killed host that are not back yet", measured.expected),
        ("expected_region_bytes", "Bytes of their regions, as whole objects", measured.expected_bytes),
        ("stored_regions", "Regions in the store of the service manager", snapshot.stored[0]),
        ("stored_regions_max", "Limit of the regions there", snapshot.stored[1]),
        *snapshot.fleet,
    ):
        if isinstance(value, Latency):
            yield _histogram(name, text, [], [((), value)])
        else:
            yield GaugeMetricFamily(f"shmhost_{name}", text, value=value)
    for name, text, value in (
        ("restarts", "Earlier starts of a host at this socket", measured.restarts),
        ("connections", "Accepted connections", measured.connections),
        ("dropped_clients", "Clients dropped: broke the protocol or did not read", measured.dropped),
    ):
        yield CounterMetricFamily(f"shmhost_{name}", text, value=value)


def _region_families(snapshot: Snapshot) -> Iterator[Any]:
    totals = {total.state: total for total in snapshot.measured.totals}
    states = [totals.get(state, Total(state, 0, 0, 0)) for state in STATES]
    users = snapshot.measured.accounts
    windows = snapshot.windows
    yield _gauges("regions", "Regions", "state", [(entry.state, entry.regions) for entry in states])
    text = "Bytes of regions, as whole objects"
    yield _gauges("region_bytes", text, "state", [(entry.state, entry.capacity) for entry in states])
    text = "Leases: regions that clients may have mapped"
    yield _gauges("leases", text, "state", [(entry.state, entry.leases) for entry in states])
    yield _gauges("user_regions", "Regions of a user", "uid", [(user.uid, user.regions) for user in users])
    text = "Bytes of a user's regions, as whole objects"
    yield _gauges("user_bytes", text, "uid", [(user.uid, user.capacity) for user in users])
    text = "Connected clients of a user"
    yield _gauges("user_clients", text, "uid", [(user.uid, user.clients) for user in users])
    uses = [((str(use.uid), use.resource), use) for use in snapshot.measured.uses]
    labels = ["uid", "resource"]
    text = "The part of a resource that a user has"
    yield _labelled("user_used", text, labels, [(texts, use.used) for texts, use in uses])
    text = "The most of a resource that a user may have as things are"
    yield _labelled("user_most", text, labels, [(texts, use.most) for texts, use in uses])
    text = "Addresses of a window"
    yield _gauges("window_bytes", text, "window", [(hex(base), size) for base, size, _ in windows])
    text = "Free addresses of a window"
    yield _gauges("window_free_bytes", text, "window", [(hex(base), free) for base, _, free in windows])


def _request_families(snapshot: Snapshot) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    text = "Time spent on requests, by operation"
    rows = [((operation,), latency) for operation, latency in sorted(snapshot.latencies.items())]
    yield _histogram("request_duration_seconds", text, ["operation"], rows)
    refusals = CounterMetricFamily("shmhost_refusals", "Refused requests, by code", labels=["code"])
    for code, count in snapshot.measured.refusals:
        refusals.add_metric([code], count)
    yield refusals


def _histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Latency]]
) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"shmhost_{name}", text, labels=labels)
    for texts, latency in rows:
        bounds = [*(f"{bound / 1e9:g}" for bound in latency.bounds), "+Inf"]
        family.add_metric(
            texts, list(zip(bounds, accumulate(latency.counts), strict=True)), latency.total_ns / 1e9
        )
    return family


def _gauges(name: str, text: str, label: str, values: Iterable[tuple[object, int]]) -> Any:
    return _labelled(name, text, [label], [((str(value),), number) for value, number in values])


def _labelled(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], int]]
) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"shmhost_{name}", text, labels=labels)
    for texts, number in values:
        family.add_metric(texts, number)
    return family


@contextlib.asynccontextmanager
async def serving(
    address: str, mode: int, snapshot: Callable[[], Snapshot], given: Sequence[int] = ()
) -> AsyncIterator[tuple[int, ...]]:
    """Serve the metrics at an address while the block runs; not at all where the address is empty.

    `mode` is that of a socket file; `snapshot` is called in the event loop. Yields descriptors that another
    host can be `given` to go on at the same address: those of the listener, and of the lock of its file.
    HostError: prometheus_client is missing, or the address is not available.
    """
    if not address:
        yield ()
        return
    application = _application(asyncio.get_running_loop(), snapshot)
    with _listening(address, mode, given) as (listener, lock):
        server = _Server(listener, application)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        thread.start()
        LOG.info("metrics at %s", address)
        try:
            yield listener.fileno(), lock
        finally:
            # Not in the loop: a scrape under way waits for its snapshot.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(server.stop)
                await anyio.to_thread.run_sync(thread.join)


@contextlib.contextmanager
def _listening(address: str, mode: int, given: Sequence[int]) -> Iterator[tuple[socket.socket, int]]:
    target = metrics_address(address)
    assert target is not None
    if isinstance(target, str):
        file = SocketFile(target, mode, "choose another --metrics")
        if given:
            file.share(socket.socket(fileno=given[0]), given[1])
            file.own()
        with file as listener:
            yield listener, file.lock.fileno()
        return
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    try:
        listener = socket.socket(fileno=given[0]) if given else socket.create_server(target, family=family)
    except OSError as error:
        raise HostError(
            f"cannot serve metrics at {address}: {error.strerror}; choose another --metrics"
        ) from error
    with listener:
        listener.setblocking(False)
        yield listener, -1


def load() -> None:
    """Load what serving takes, which takes a while. HostError: it is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise HostError("--metrics needs prometheus_client: pip install 'shmhost[metrics]'") from None


def _application(loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Snapshot]) -> Any:
    load()
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(Collector(lambda: _call_in(loop, snapshot)))
    ProcessCollector(registry=registry)
    application = make_wsgi_app(registry)

    def answer(environ: Any, start_response: Any) -> Any:
        environ["QUERY_STRING"] = ""  # a choice of metrics would find none: they are made when asked for
        try:
            return application(environ, start_response)
        except (TimeoutError, RuntimeError):  # the loop is busy for seconds, or has ended
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the host is too busy, or ends\n"]
        except Exception:  # of the library: a header that it cannot read, for one
            LOG.debug("a scrape failed", exc_info=True)
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [b"the request is not understood\n"]

    return answer


def _call_in(loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Snapshot]) -> Snapshot:
    """Take a snapshot in the thread of a loop. TimeoutError; RuntimeError if the loop has ended."""
    future: concurrent.futures.Future[Snapshot] = concurrent.futures.Future()

    def give() -> None:
        try:
            future.set_result(snapshot())
        except Exception as error:
            future.set_exception(error)

    loop.call_soon_threadsafe(give)
    return future.result(PATIENCE_S)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log no requests."""


def _cut_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


class _Server(WSGIServer):
    """The WSGI server of the standard library, on a socket that listens already and stays its owner's."""

    def __init__(self, listener: socket.socket, application: Any) -> None:
        socketserver.BaseServer.__init__(self, ("", 0), _Handler)
        self.socket = listener
        self.server_name, self.server_port = "shmhost", 0
        self.setup_environ()
        self.set_app(application)
        self._active: socket.socket | None = None
        self._is_stopping = False

    def stop(self) -> None:
        """End the scrape that is under way, if there is one, and `serve_forever`."""
        self._is_stopping = True
        if (active := self._active) is not None:
            _cut_off(active)
        self.shutdown()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, _ = self.socket.accept()
        except BlockingIOError:
            raise
        except OSError:  # no descriptor is left: it would be tried again at once, for ever
            time.sleep(RETRY_S)
            raise
        return connection, ("local", 0)  # a Unix socket has no address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a scrape, in SCRAPE_S: a scraper that is slower than that keeps the others waiting."""
        self._active = request
        deadline = threading.Timer(0 if self._is_stopping else SCRAPE_S, _cut_off, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request(request, client_address)
        finally:
            self._active = None
            deadline.cancel()

    def handle_error(self, *_: object) -> None:
        """Assume the scraper disconnected; keep serving."""
        LOG.debug("a scrape failed", exc_info=True)
