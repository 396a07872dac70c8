"""What hosts have, all of it: asked for when news of a host were missed, and answered some names at a time.

In the thread of the loop. The names come in their order, so an answer says where the next one goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmhost.fleet.announcements import Known, page_of
from shmhost.fleet.events import Refusal
from shmhost.fleet.joining import ASK_S
from shmhost.fleet.messages import ID_DIGITS, pack, unpack
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

LOG = logging.getLogger("shmhost")


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
        try:
            while record.is_behind and address in self._service.members.present:
                try:
                    await self._read_once(address, record)
                except (Refusal, HostGone, HostTimeout):
                    record.is_behind = True  # also after the first page
                    await asyncio.sleep(0.5)
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
