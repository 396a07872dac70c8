"""The part of a host that its fleet is, if it has one. Loads nothing of that otherwise."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NoReturn

from shmhost.core.hub import Hub
from shmhost.core.window import Allocator
from shmhost.settings.config import Config
from shmprotocol.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from shmhost.fleet.config import FleetConfig


class Membership:
    """The fleet of a host, which may be none. `allocator` gives the addresses that it hands out.

    InvalidArgument: the file of the fleet has a mistake, or the host is to take another's place.
    """

    def __init__(self, config: Config, *, takes_over: bool = False) -> None:
        self._path = os.path.abspath(config.socket_path)
        self.plan: FleetConfig | None = None
        self.slices: int = 1
        self._begin: Callable[[], object] = bool
        if not config.fleet:
            self.allocator: Allocator = Allocator(config.windows, secrets.randbelow)
            return
        if takes_over:
            raise InvalidArgument("a host of a fleet cannot take another's place yet: stop that one instead")
        from shmhost.fleet.config import read_fleet
        from shmhost.fleet.plan import SlicedAllocator

        self.plan = plan = read_fleet(config.fleet, config.windows)
        self.slices = plan.slices
        self.allocator = SlicedAllocator(config.windows, plan.slices, secrets.randbelow)

    @contextlib.asynccontextmanager
    async def joined(self, hub: Hub) -> AsyncIterator[None]:
        """Be a member of the fleet, if there is one. HostError: it refuses this host."""
        if self.plan is None:
            yield
            return
        from shmhost.fleet.plan import SlicedAllocator
        from shmhost.fleet.service import joined

        assert isinstance(self.allocator, SlicedAllocator)
        hub.check_successor = _no_successor
        async with joined(self.plan, hub, self.allocator, self._path) as service:
            hub.fleet_gauges = service.gauges
            self._begin = service.sharing.begin
            yield

    def begin(self) -> None:
        """Share regions from now on: the host has its state."""
        self._begin()


def _no_successor(*_: object) -> NoReturn:
    raise Unsupported("a host of a fleet cannot be taken over yet: stop it, and start the next one")
