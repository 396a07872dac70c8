"""References: regions, arenas and values of regions cross to other processes by their numbers and names.

The sender asks the host to keep a region whenever it pickles a reference, and the receiver says so when it
opens the region by one: in between nobody else has to have it, and the sender may be gone. Both do that by
one client for all references of a host, as the region may be an async client's, or its client closed. The
receiver opens the region by its number, so that it cannot be another generation of its name.

A host that is gone keeps nothing. The sender keeps the value for KEPT_S then, so that the next host gets the
region back: `_Transit`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from shmclient._arenas.view import BaseArenaView
from shmclient._connection.hosts import OPENER, path_of
from shmclient._drivers import operations
from shmclient._drivers.handles import Region
from shmclient._drivers.steps import Ask, Context, Operation
from shmclient._process import fork
from shmclient._process.lock import new_lock
from shmclient._regions.region import RegionHandle, attached
from shmprotocol.errors import HostGone, HostTimeout, QuotaExceeded, RegionNotFound, Unsupported
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import origin_of

KEPT_S = 60.0  # a killed host is back within a second


class Address(NamedTuple):
    """A region as a reference names it: by the socket and the origin of its host, and its number there."""

    path: str
    origin: str
    number: int
    label: str
    is_kept: bool = False  # by the host, for this reference


class _Transit:
    """The values whose references may be on their way, without a host. A thread drops them."""

    def __init__(self) -> None:
        self._begin()
        fork.at_fork(fork.INNER, lambda: self._lock.acquire(), lambda: self._lock.release(), self._begin)

    def _begin(self) -> None:  # also in the child of a fork: the thread is not there, and the parent has sent
        self._lock = new_lock()
        self._kept: dict[tuple[str, int], tuple[float, Any]] = {}

    def keep(self, address: Address, value: Any) -> None:
        """Keep a region mapped for KEPT_S from now on."""
        with self._lock:
            is_first = not self._kept
            self._kept[address.origin, address.number] = time.monotonic() + KEPT_S, value
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
    _check_host(context, address)
    try:
        outcome = yield Ask(m.Claim(context.outbox.next_id(), address.number, address.is_kept))
    except RegionNotFound as error:
        raise RegionNotFound(
            f"the {address.label} is gone, or not for this user ({error}): each pickle of a reference keeps "
            "it until it is loaded, once, within ten minutes; keep the region or its value at the sender "
            "until it is opened here, or send the name"
        ) from None
    return operations.opened(context, Region, outcome, (address.label,), False)[0]


def keep(context: Context, address: Address) -> Operation[None]:
    """Have the host keep the region at an address for one reference. RegionNotFound; QuotaExceeded."""
    _check_host(context, address)
    yield Ask(m.Keep(context.outbox.next_id(), address.number))


def _check_host(context: Context, address: Address) -> None:
    if context.outbox.origin != address.origin:
        raise RegionNotFound(f"the {address.label} was at a host that is gone: have it put again")
    if context.version < m.CLAIM_VERSION:
        raise Unsupported(f"the host is too old to open the {address.label} by its number: send the name")


def open_region(*address: Any) -> Region:
    """Return a handle of a region that was pickled."""
    where = Address(*address)
    client = OPENER.client(where.path)
    region: Region = client._adopt(client._run(claim, where))
    return region


def open_view(path: str, name: str) -> Any:
    """Return a view of an arena that was pickled: of the current arena of its name."""
    return OPENER.client(path).open_arena(name)


def sent(origin: str, number: int, label: str, value: Any) -> Address:
    """Return the address of a region for a reference that is pickled now, and keep it; `value` maps it."""
    address = Address(path_of(origin), origin, number, label)
    try:
        OPENER.client(address.path)._run(keep, address)
    except (HostGone, HostTimeout, RegionNotFound, QuotaExceeded, Unsupported):
        TRANSIT.keep(address, value)
        return address
    return address._replace(is_kept=True)


def reduce_region(region: RegionHandle) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what `__reduce__` does for a handle, whose region is kept on its way."""
    label = f"region {region.name!r}, generation {region.generation}"
    value = attached(region).memory()
    return open_region, tuple(sent(origin_of(region._host_id), region.number, label, value))


def reduce_view(view: BaseArenaView) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what `__reduce__` does for a view of an arena."""
    return open_view, (path_of(origin_of(view._reader.host_id)), view.name)
