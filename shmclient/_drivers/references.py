"""References: regions, arenas and values of regions cross to other processes by their numbers and names.

The receiver opens them, by one client for all references of a host. Two things
keep a region meanwhile. The sender's handle or value does, and once it is pickled, the sender's mapping, with
its lease, is kept for KEPT_S even if both go: `_Transit`. A lease at the host would outlive the sender as
well, but somebody would have to end that of each pickle that is never loaded; a mapping of the sender ends
with the sender, and costs no memory but the region's. It is kept once for each region, not for each pickle.
The receiver opens the region by its number, so that it cannot be another generation of its name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shmclient._arenas.view import BaseArenaView
from shmclient._connection.hosts import OPENER, path_of
from shmclient._drivers import operations
from shmclient._drivers.handles import Region
from shmclient._drivers.steps import Ask, Context, Operation
from shmclient._process import fork
from shmclient._process.lock import new_lock
from shmclient._regions.region import RegionHandle, attached
from shmprotocol.errors import RegionNotFound, Unsupported
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import origin_of

KEPT_S = 60.0  # a receiver opens in milliseconds; a task in the queue of a busy pool waits for seconds


class Address(NamedTuple):
    """A region as a reference names it: by the socket and the origin of its host, and its number there."""

    path: str
    origin: str
    number: int
    label: str


class _Transit:
    """The mappings of regions whose references may be on their way. A thread drops them."""

    def __init__(self) -> None:
        self._begin()
        fork.at_fork(fork.INNER, lambda: self._lock.acquire(), lambda: self._lock.release(), self._begin)

    def _begin(self) -> None:  # also in the child of a fork: the thread is not there, and the parent has sent
        self._lock = new_lock()
        self._kept: dict[tuple[str, int], tuple[float, Any]] = {}

    def keep(self, address: Address, memory: Any) -> None:
        """Keep a region mapped for KEPT_S from now on."""
        with self._lock:
            is_first = not self._kept
            self._kept[address.origin, address.number] = time.monotonic() + KEPT_S, memory
        if is_first:
            threading.Thread(target=self._expire, name="shmclient references", daemon=True).start()

    def _expire(self) -> None:
        is_empty = False
        while not is_empty:
            time.sleep(KEPT_S / 4)
            is_empty = self.drop(time.monotonic())

    def drop(self, now_s: float) -> bool:
        """Drop what is over by then; whether that was the last."""
        with self._lock:
            over = [key for key, (end, _) in self._kept.items() if end <= now_s]
            ended = [self._kept.pop(key) for key in over]  # unmapped without the lock
            is_empty = not self._kept
        del ended
        return is_empty


TRANSIT = _Transit()


def claim(context: Context, address: Address) -> Operation[Region]:
    """Return a handle of the region at an address. RegionNotFound: it is gone, or the host is another one."""
    if context.outbox.origin != address.origin:
        raise RegionNotFound(f"the {address.label} was at a host that is gone: have it put again")
    if context.version < m.CLAIM_VERSION:
        raise Unsupported(f"the host is too old to open the {address.label} by its number: send the name")
    try:
        outcome = yield Ask(m.Claim(context.outbox.next_id(), address.number))
    except RegionNotFound as error:
        raise RegionNotFound(
            f"the {address.label} is gone, or not for this user ({error}): a reference keeps it for "
            f"{KEPT_S:.0f} s, and no longer than its sender lives; keep the region or its value there until "
            "it is opened here, or send the name"
        ) from None
    return operations.opened(context, Region, outcome, (address.label,), False)[0]


def open_region(*address: Any) -> Region:
    """Return a handle of a region that was pickled."""
    where = Address(*address)
    client = OPENER.client(where.path)
    region: Region = client._adopt(client._run(claim, where))
    return region


def open_view(path: str, name: str) -> Any:
    """Return a view of an arena that was pickled: of the current arena of its name."""
    return OPENER.client(path).open_arena(name)


def address_of(origin: str, number: int, label: str) -> Address:
    """Return the address of a region of a host that this process has been connected to."""
    return Address(path_of(origin), origin, number, label)


def reduce_region(region: RegionHandle) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what `__reduce__` does for a handle, whose region is kept on its way."""
    origin = origin_of(region._host_id)
    label = f"region {region.name!r}, generation {region.generation}"
    address = address_of(origin, region.number, label)
    TRANSIT.keep(address, attached(region).memory())
    return open_region, tuple(address)


def reduce_view(view: BaseArenaView) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what `__reduce__` does for a view of an arena."""
    return open_view, (path_of(origin_of(view._reader.host_id)), view.name)
