"""The leases of one client: granted with a reply, and given back. Knows no socket, clock or thread."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from shmhost.core.peers import Peer
from shmhost.core.records import Note
from shmhost.core.regions import READ, Region
from shmhost.core.registry import Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.errors import QuotaExceeded, RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut

# Of one connection; † 0.4 KiB each (2026-11). A process has 65,530 mappings unless it raised that limit.
MAX_LEASES = 65_536

MAX_RELEASED = 128  # at once, which takes 50 us
MANY = 32  # regions, whose leases take 15 us, and their reply twice as long

M_contra = TypeVar("M_contra", contravariant=True)


class _Send(Protocol[M_contra]):
    def __call__(self, message: M_contra, fds: Sequence[int], note: Note = ..., /) -> None:
        """Send a message, and make a note; the descriptors stay the caller's. OSError: it cannot be."""


Send = _Send[m.Message]
SendFrame = _Send[bytes]


class Leases:
    """The leases that one client holds. `send` is as for a Session."""

    __slots__ = ("_peer", "_regions", "_registry", "_send", "_share")

    def __init__(self, registry: Registry, peer: Peer, send: Send) -> None:
        self._registry = registry
        self._peer = peer
        self._send = send
        self._regions: dict[int, Region] = {}
        self._share = registry.accounts.of(peer.uid).leases  # of one number more for each of `_regions`

    def open(
        self,
        request: m.Open,
        regions: Sequence[Region],
        ledger: tuple[int, int] = (0, 0),
        brought: Sequence[int] = (),
    ) -> None:
        """Grant the regions of a request, all or none, but those that the client has already.

        `ledger` comes with the reply, and so do the descriptors in `brought`.
        """
        for region in regions:
            region.check(self._peer, READ)
        if len(self._regions) + len(regions) > MAX_LEASES:
            raise self._too_many()
        grants, descriptors = [], []
        held = request.held or (0,) * len(regions)
        self._share.take(sum([region.number != has for region, has in zip(regions, held, strict=True)]))
        for region, has in zip(regions, held, strict=True):
            if region.number == has:
                grants.append(region.grant(0))
                continue
            grants.append(region.grant(self._lease(region)))
            descriptors.append(region.descriptor(self._peer))
        self.send(m.Opened(request.id, tuple(grants), ledger), grants, [*descriptors, *brought])

    def open_packed(
        self, request: int, regions: Sequence[Region], send_frame: SendFrame, *, in_parts: bool = False
    ) -> Steps | None:
        """Grant regions, none of them held, as `open` does, by a reply that is packed but for its numbers.

        `in_parts`: if they are many, the steps returned send the reply, after a pause.
        """
        peer = self._peer
        for region in regions:
            if not region.allows(peer, READ):
                region.check(peer, READ)
        if len(self._regions) + len(regions) > MAX_LEASES:
            raise self._too_many()
        share = self._share
        if (count := share.used + len(regions)) <= share.booked:
            share.used = count
        else:
            share.take(len(regions))
        if len(regions) == 1:
            region = regions[0]
            leases = [self._lease(region)]
            frame = shortcut.opened(request, leases, [region.packed_grant()])
            self._deliver(leases, send_frame, frame, region.reader())
            return None
        leases = self._lease_each(regions)
        if in_parts and len(regions) > MANY:
            return self._sending(request, leases, regions, send_frame)
        self._send_packed(request, leases, regions, send_frame)
        return None

    def _sending(
        self, request: int, leases: list[int], regions: Sequence[Region], send_frame: SendFrame
    ) -> Steps:
        yield PAUSE  # the leases keep the regions
        self._send_packed(request, leases, regions, send_frame)

    def _send_packed(
        self, request: int, leases: list[int], regions: Sequence[Region], send_frame: SendFrame
    ) -> None:
        grants = [region.packed_grant() for region in regions]
        readers = array("i", b"".join(map(Region.reader, regions)))
        self._deliver(leases, send_frame, shortcut.opened(request, leases, grants), readers)

    def publish_packed(
        self, request: int, region: Region, send_frame: SendFrame, note: Sequence[Note]
    ) -> None:
        """Grant a region to its creator, by a Published that is packed but for its numbers."""
        lease = self.add(region, self._registry.clock())
        frame = shortcut.published(request, lease, region.packed_grant())
        self._deliver((lease,), send_frame, frame, region.reader(), note)

    def _too_many(self) -> QuotaExceeded:
        return QuotaExceeded(
            f"one connection has at most {MAX_LEASES} leases, and this one has {len(self._regions)}: "
            "close regions that are not needed"
        )

    def grant(self, region: Region) -> m.Grant:
        """Return a grant of a region to its creator, with a new lease."""
        return region.grant(self.add(region, self._registry.clock()))

    def check_room(self) -> None:
        """Raise QuotaExceeded if the client gets no lease more."""
        if len(self._regions) >= MAX_LEASES:
            raise self._too_many()
        self._share.take(1)
        self._share.give(1)

    def regrant(self, region: Region) -> m.Grant:
        """Return a grant of a region that the client has mapped already, with a new lease. QuotaExceeded."""
        if len(self._regions) >= MAX_LEASES:
            raise self._too_many()
        self._share.take(1)
        return region.grant(self._lease(region))

    def add(self, region: Region, now_ns: int) -> int:
        """Note a lease of a region that a reply is about to give to its creator; return its number.

        No limit keeps a creator from it: what it has created is counted itself.
        """
        share = self._share
        share.used += 1
        if share.used > share.booked:
            share.add(0)  # books what is used
        number = next(self._registry.lease_numbers)
        region.leases[number] = self._peer, now_ns
        region.tally.leases += 1
        self._regions[number] = region
        return number

    def drop(self, region: Region, number: int) -> None:
        """Forget a lease whose reply could not be sent; its region is the caller's to give up."""
        self._share.give(1)
        del self._regions[number], region.leases[number]
        region.tally.leases -= 1

    def record(self) -> tuple[tuple[int, int, int], ...]:
        """Return each lease with the number of its region, and since when it is, for `resume`."""
        return tuple(
            (lease, region.number, region.leases[lease][1]) for lease, region in self._regions.items()
        )

    def resume(self, leases: Iterable[tuple[int, Region, int]]) -> None:
        """Take leases that another host has granted, whatever the limits say."""
        for lease, region, since_ns in leases:
            region.leases[lease] = self._peer, since_ns
            region.tally.leases += 1
            self._regions[lease] = region
            self._share.add(1)

    def _lease_each(self, regions: Sequence[Region]) -> list[int]:
        """Do what `_lease` does for each. For 64 that takes half of the time."""
        numbers = list(islice(self._registry.lease_numbers, len(regions)))
        entry = self._peer, self._registry.clock()
        for number, region in zip(numbers, regions, strict=True):
            region.leases[number] = entry
            region.tally.leases += 1
            self._regions[number] = region
        return numbers

    def _lease(self, region: Region) -> int:
        lease = self._registry.lease(region, self._peer)
        self._regions[lease] = region
        return lease

    def send(
        self,
        reply: m.Message,
        grants: Sequence[m.Grant],
        descriptors: Sequence[int],
        note: Sequence[Note] = (),
    ) -> None:
        """Send a reply with the leases that it gives, or take them back and raise OSError."""
        leases = [grant.lease for grant in grants if grant.lease]
        self._deliver(leases, self._send, reply, descriptors, note)

    def _deliver(
        self,
        leases: Sequence[int],
        send: _Send[M_contra],
        reply: M_contra,
        fds: Sequence[int],
        note: Sequence[Note] = (),
    ) -> None:
        try:
            send(reply, fds, *note)
        except OSError:
            self.give_back(leases)
            raise

    def release(self, leases: Sequence[int]) -> Steps | None:
        """Release leases, with pauses if they are many. RemoteProtocolError as for `give_back`."""
        if len(leases) > MAX_RELEASED:
            return self._releasing(leases)
        self.give_back(leases)
        return None

    def _releasing(self, leases: Sequence[int]) -> Steps:
        for start in range(0, len(leases), MAX_RELEASED):
            if start:
                yield PAUSE
            self.give_back(leases[start : start + MAX_RELEASED])

    def give_back(self, leases: Sequence[int]) -> None:
        """Release leases. RemoteProtocolError: the client does not hold one of them."""
        share = self._share
        for lease in leases:
            region = self._regions.pop(lease, None)
            if region is None:
                raise RemoteProtocolError(f"lease {lease} is not held by this connection")
            share.used -= 1
            self._registry.release(region, lease)
        if share.booked > share.guarantee:
            share.give(0)

    def closing(self) -> Iterator[None]:
        """Release all leases, one in each step."""
        while self._regions:
            lease, region = self._regions.popitem()
            self._share.give(1)
            self._registry.release(region, lease)
            yield
