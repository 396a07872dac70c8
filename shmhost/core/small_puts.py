"""Small values that come with their request, each published at once. Knows no socket, clock or thread.

Their creator never has a descriptor that can write, so that nothing can make this wait. The plain case is
done in one go, without the states and the records between; anything else is left to the steps of any other
put, which say what is wrong with it.
"""

from __future__ import annotations

from array import array

from shmhost.core import succession
from shmhost.core.accounts import Account
from shmhost.core.hub import Hub
from shmhost.core.leases import Leases, SendFrame
from shmhost.core.objects import Memfd, not_made
from shmhost.core.peers import Peer
from shmhost.core.records import note_of
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.native import builtins
from shmprotocol.wire.names import MAX_MODE, ChangeKind

# The answer of `parse_put`: Releases, their leases, the fields of a Put, and where its payload is.
Parsed = tuple[int, list[int], int, str, int, bool, int, int, int, int, int]


class SmallPuts:
    """The small values of one client. `leases` are the client's: a put gives it one."""

    __slots__ = ("_hub", "_leases", "_owner", "_peer", "_registry")

    def __init__(self, hub: Hub, peer: Peer, leases: Leases) -> None:
        self._hub = hub
        self._registry = hub.registry
        self._peer = peer
        self._leases = leases
        self._owner = peer.uid, peer.gid, peer.pid

    def put(self, parsed: Parsed, data: bytes, send_frame: SendFrame) -> bool:
        """Publish a value that is in the data; False, and nothing, if anything speaks against that.

        The budget has room for it. OSError: the reply cannot be sent. OutOfMemory: no memory or descriptor is
        left.
        """
        _, _, _, name, mode, replace, data_size, metadata, metadata_size, _, size = parsed
        if not size or data_size > size or metadata + metadata_size > size or mode > MAX_MODE:
            return False
        registry = self._registry
        older = registry.current.get(name)
        region = succession.begin(registry, older, name, mode, replace, size, self._peer)
        if region is None:
            return False
        region.size = data_size
        try:
            self._publish(region, older, parsed, data, send_frame)
        except BaseException:
            succession.give_up(registry, region, older)
            raise
        hub = self._hub
        if not hub.listeners:
            succession.complete(registry, region, older)
            return True
        before = hub.replaced(older, region)
        succession.complete(registry, region, older)
        hub.tell(ChangeKind.PUBLISHED, region, before)
        return True

    def _publish(
        self, region: Region, older: Region | None, parsed: Parsed, data: bytes, send_frame: SendFrame
    ) -> None:
        if not region.line:
            self._hub.note_full_board(region)
        book = self._registry.book
        region.record = book.take()
        lease = self._leases.add(region, region.created_ns)
        try:
            descriptor, frame, region.packed, failure = builtins.publish_put(
                data,
                parsed,
                self._owner,
                region.window.range,
                region.span,
                region.number,
                region.generation,
                region.created_ns,
                lease,
                region.line,
                region.rights,
                self._registry.board.word(region.line),
                book.memory,
                region.record,
            )
            region.object = Memfd.of(region.capacity, descriptor)
            region.readers = array("i", (descriptor,))
            if failure:
                book.lose(region, failure)
            send_frame(frame, region.readers, *note_of(book, older))
        except BaseException as error:
            self._leases.drop(region, lease)
            if isinstance(error, OSError) and region.object is None:
                raise not_made(region.capacity, error) from None
            raise


def has_room(account: Account, size: int) -> bool:
    """Whether an account has room for a value."""
    files, sizes = account.files, account.bytes
    more = page_up(HEADER_SIZE + size) + REGION_OVERHEAD
    has_file = files.used < files.booked or files.fits(1)
    return has_file and (sizes.used + more <= sizes.booked or sizes.fits(more))
