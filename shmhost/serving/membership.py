"""The part of a host that its fleet is, if it has one. Loads nothing of that otherwise."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from shmhost.core.hub import Hub
from shmhost.core.state_records import FleetRecord
from shmhost.core.window import Allocator
from shmhost.settings.config import Config
from shmprotocol.errors import HostError

if TYPE_CHECKING:
    from shmhost.fleet.config import FleetConfig
    from shmhost.fleet.plan import SlicedAllocator
    from shmhost.fleet.service import Service


class Membership:
    """The fleet of a host, which may be none. `allocator` gives the addresses that it hands out.

    InvalidArgument: the file of the fleet has a mistake.
    """

    def __init__(self, config: Config) -> None:
        self._path = os.path.abspath(config.socket_path)
        self._plan: FleetConfig | None = None
        self.slices: int = 1
        self._service: Service | None = None  # while it is a member
        self._record: FleetRecord | None = None  # of a host whose place this one takes
        if not config.fleet:
            self.allocator: Allocator = Allocator(config.windows, secrets.randbelow)
            return
        from shmhost.fleet.config import read_fleet
        from shmhost.fleet.plan import SlicedAllocator

        self._plan = plan = read_fleet(config.fleet, config.windows)
        self.slices = plan.slices
        self._sliced: SlicedAllocator = SlicedAllocator(config.windows, plan.slices, secrets.randbelow)
        self.allocator = self._sliced

    def load(self) -> None:
        """Load all that a fleet needs, which takes a while. HostError: it is not installed."""
        if self._plan is not None:
            from shmhost.fleet import succession

            succession.load()

    def succeed(self, record: FleetRecord | None) -> None:
        """Take the place of a host with this part in a fleet. HostError: the one here is another."""
        if self._plan is None and record is None:
            return
        if self._plan is None or record is None:
            its = "in no fleet" if record is None else f"in fleet {record.fleet!r}"
            raise HostError(
                f"it is {its}, and stays so over a takeover: start this one likewise, or end that one first"
            )
        from shmhost.fleet import succession

        succession.check(record, self._plan)
        self._record = record
        succession.take_slices(record, self._sliced)

    @contextlib.asynccontextmanager
    async def joined(self, hub: Hub) -> AsyncIterator[None]:
        """Be a member of the fleet, if there is one. HostError: it refuses this host.

        In the place of another host, this one joins only after `begin`.
        """
        if self._plan is None:
            yield
            return
        from shmhost.fleet.service import joined

        async with joined(self._plan, hub, self._sliced, self._path, self._record) as service:
            hub.fleet_gauges = service.gauges
            self._service = service
            yield

    def adopt(self) -> None:
        """Go on with what the host before has shared: its regions are here. HostError: it has others."""
        if self._service is not None and self._record is not None:
            from shmhost.fleet import succession

            succession.adopt(self._service, self._record)

    def begin(self, predecessor: socket.socket | None) -> None:
        """Share regions from now on: the host has its state.

        `predecessor`: the host before, whose end is that of the connection, and which is a member until then.
        """
        if self._service is not None:
            self._service.sharing.begin()
        if self._service is not None and predecessor is not None:
            self._service.rejoin(predecessor.dup())

    def describe(self) -> FleetRecord | None:
        """Return what a successor must know."""
        if self._service is None:
            return None
        from shmhost.fleet import succession

        return succession.describe(self._service)

    def part(self) -> None:
        """Leave the fleet, as this process ends; touch nothing else. Waits for a moment."""
        if self._service is not None:
            self._service.part()
