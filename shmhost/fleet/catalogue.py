"""Catalogues of all that a host has: asked for when its news were missed, and answered some names at a time.

In the thread of the loop. The names come in their order, so an answer says where the next one goes on.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from shmhost.fleet.announcements import PAGE_NAMES, Known, page_of
from shmhost.fleet.events import Refusal
from shmhost.fleet.joining import ASK_S
from shmhost.fleet.messages import ID_DIGITS, pack, unpack
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

LOG = logging.getLogger("shmhost")

FIRST_S, LAST_S = 0.5, 60.0  # before a host is asked again; twice as long after each wrong answer


class Pages:
    """The names that this host has, in their order, some at a time. Sorted once for each that asks for all.

    These may be older than the regions: a host that asks for the next page has begun before, and hears of
    the difference by news.
    """

    def __init__(self, names: Callable[[], set[str]]) -> None:
        self._names = names
        self._sorted: list[str] | None = None

    def page(self, after: str, may: Callable[[str], bool]) -> tuple[list[str], str]:
        """Return the names after one that an asker may know, and the last of them if there are more."""
        if self._sorted is None or not after:
            self._sorted = sorted(self._names())
        names = self._sorted
        rest = range(bisect_right(names, after) if after else 0, len(names))
        page = list(islice((names[index] for index in rest if may(names[index])), PAGE_NAMES + 1))
        return page[:PAGE_NAMES], page[PAGE_NAMES - 1] if len(page) > PAGE_NAMES else ""


class Reading:
    """Reads what other hosts have.

    `take` gets each entry: a record, the address of its host, a kind and its fields; RemoteProtocolError.
    `gone` gets each name that a host has no more, and the identity of the host.
    """

    def __init__(
        self,
        service: Service,
        take: Callable[[Known, str, object, tuple[Any, ...]], None],
        gone: Callable[[str, str], None],
    ) -> None:
        self._service = service
        self._take = take
        self._gone = gone
        self._addresses: set[str] = set()  # of hosts that are being read

    def start(self, address: str, record: Known) -> None:
        """Read what a host has, unless that is being done."""
        if address not in self._addresses:
            self._addresses.add(address)
            self._service.start(self._read(address, record))

    async def _read(self, address: str, record: Known) -> None:
        """Ask a host for all that it has, until none of its news is missing."""
        wrong_s = FIRST_S
        try:
            while record.is_behind and address in self._service.members.present:
                try:
                    await self._read_once(address, record)
                    continue
                except (Refusal, HostGone, HostTimeout):
                    wait_s = FIRST_S
                except RemoteProtocolError as error:
                    text = "fleet %s: ignored what %s has, and ask again: %s"
                    LOG.warning(text, self._service.plan.fleet, address, error)
                    wait_s = wrong_s = min(2 * wrong_s, LAST_S)
                record.is_behind = True  # also after the first page
                await asyncio.sleep(wait_s)
        finally:
            self._addresses.discard(address)

    async def _read_once(self, address: str, record: Known) -> None:
        after, is_first = "", True
        while is_first or after:
            question = pack("catalogue", self._service.address, after)
            answer = unpack(await self._service.engine.ask(address, question, ASK_S))
            news, last, entries = page_of(answer, after)
            if is_first:
                record.begin(address, news)
            for kind, *values in entries:
                try:
                    self._take(record, address, kind, tuple(values))
                except RemoteProtocolError as error:  # the others may be right
                    text = "fleet %s: ignored an entry of %s: %s"
                    LOG.warning(text, self._service.plan.fleet, address, error)
            after, is_first = last, False
        for name in record.finish():
            self._gone(name, address[:ID_DIGITS])
