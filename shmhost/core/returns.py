"""The regions that one client hands back to a host whose predecessor was killed. Knows no socket or clock.

The identity of the object alone decides what it is, see `records`. A region that another client has handed
back before, or that this host has made, is the client's to use again by the same proof.
"""

from __future__ import annotations

from collections.abc import Callable

from shmhost.core.expected import Expected, Returned, is_of
from shmhost.core.hub import Returnables
from shmhost.core.leases import Leases
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.errors import InvalidArgument, QuotaExceeded
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_RESTORED, ChangeKind, State


class Returns:
    """The returns of one client. `tell` notifies who waits for a name, or watches."""

    def __init__(
        self,
        registry: Registry,
        expected: Expected,
        machine: Returnables,
        leases: Leases,
        tell: Callable[[ChangeKind, Region], None],
    ) -> None:
        self._registry = registry
        self._expected = expected
        self._machine = machine
        self._leases = leases
        self._tell = tell

    def restore(self, request: m.Restore, descriptors: list[int]) -> bool:
        """Take regions back, each or not; the reply is Restored. Return whether the client has one now.

        The descriptors of those are closed; the others stay in the list, and the caller's.
        """
        if len(request.regions) > MAX_RESTORED:
            raise InvalidArgument(f"{len(request.regions)} regions are over the {MAX_RESTORED} of a Restore")
        back: list[Region] = []
        grants = []
        for number, descriptor in zip(request.regions, descriptors[:], strict=False):
            region = self._find(number, descriptor, back)
            grants.append(self._grant(region) if region is not None else refusal(number))
            if region is not None:
                descriptors.remove(descriptor)
                self._machine.close(descriptor)
        grants += map(refusal, request.regions[len(grants) :])  # this process had no room for descriptors
        try:
            self._leases.send(m.Restored(request.id, tuple(grants)), grants, ())
        finally:  # they are back, whatever becomes of this client
            for region in back:
                if region.state is State.CURRENT:
                    self._tell(ChangeKind.PUBLISHED, region)
        return any(grant.lease for grant in grants)

    def _grant(self, region: Region) -> m.Grant:
        try:
            return self._leases.regrant(region)
        except QuotaExceeded:
            self._free_unused(region)
            return refusal(region.number)

    def _free_unused(self, region: Region) -> None:
        """Free a region that is not current, if nobody has a lease of it that could end."""
        if region.state is not State.CURRENT and not region.leases:
            self._registry.release(region, self._registry.lease(region, region.owner))

    def _find(self, number: int, descriptor: int, back: list[Region]) -> Region | None:
        """Return the region of an object; one that was expected is back then."""
        returned = self._machine.examine(descriptor)
        if returned is None:
            return None
        region = self._registry.regions.get(number)
        if region is not None:
            return region if self._is_the_object(region, returned) else None
        record = self._expected.find(number)
        if record is None or record.kind == KIND_ARENA or not is_of(record, returned):
            return None
        try:
            memory_object = self._machine.adopt(record, descriptor)
        except OSError:  # no descriptor is left
            return None
        back.append(self._expected.revive(record, memory_object))
        return back[-1]

    def _is_the_object(self, region: Region, returned: Returned) -> bool:
        if not region.generation or region.object is None or region.arena is not None:
            return False
        own = self._machine.examine(region.object.reader())
        return own is not None and own.identity == returned.identity


def refusal(number: int) -> m.Grant:
    """Return the grant that says that a region is not taken back."""
    return m.Grant(0, number, 0, "", 0, 0, 0, 0, 0, 0)
