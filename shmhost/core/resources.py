"""The resources of a host that its users share, and how much there is of each. Pure."""

from __future__ import annotations

from typing import NamedTuple

from shmhost.core.shares import UNLIMITED, Pool
from shmprotocol.kernel.constants import KIB
from shmprotocol.wire.names import MAX_DESCRIPTORS

CONNECTION_FILES = 2
# Bytes of the largest reply, an inspection with all its holders: a user that reads can get each.
LARGEST_REPLY = 256 * KIB
LEAST_NEWS = 64  # changes in a burst of which each user is told, whatever others listen to
_UNLINK = "Close or unlink regions that you do not need"


class Totals(NamedTuple):
    """The resources of a host, of which `own_files` of the descriptors are its own.

    `files` are descriptors, `lines` those of the board, `listening` is watches and names that clients wait
    for, `addresses` bytes of the windows, for arenas to grow into, or for all that is mapped where
    `are_addresses_scarce`, `unread` descriptors that are sent and not read yet, some of them by the owners of
    arenas, `queued` bytes that wait until clients read, and `news` changes that clients are not told of yet.
    """

    bytes: int
    files: int = UNLIMITED
    leases: int = UNLIMITED
    own_files: int = 0
    lines: int = UNLIMITED
    listening: int = UNLIMITED
    addresses: int = UNLIMITED
    unread: int = UNLIMITED
    unread_by_owners: int = UNLIMITED
    queued: int = UNLIMITED
    news: int = UNLIMITED
    are_addresses_scarce: bool = False


def pools_of(totals: Totals) -> tuple[Pool, ...]:
    """Return the pools, in the order of an account's shares."""
    larger = f"{_UNLINK}, or start the host with a larger"
    files = Pool(
        "descriptors",
        totals.files,
        "descriptors of the host",
        f"{_UNLINK}, or give it more (ulimit -n, LimitNOFILE=)",
    )
    files.booked = totals.own_files
    return (
        Pool("connections", totals.files // CONNECTION_FILES, "connections", "Close some"),
        Pool("bytes", totals.bytes, "bytes", f"{larger} --budget", has_reserve=False),
        files,
        Pool("regions", UNLIMITED, "regions", _UNLINK),
        Pool("arenas", UNLIMITED, "arenas", "Unlink arenas that you do not need"),
        Pool("leases", totals.leases, "leases", "Close regions that you do not need"),
        Pool("lines", totals.lines, "lines of the board", f"{larger} --board"),
        Pool("watches", totals.listening, "watches and names that are waited for", "Cancel some"),
        Pool(
            "addresses",
            totals.addresses,
            "bytes of addresses" if totals.are_addresses_scarce else "bytes of addresses to grow into",
            f"{_UNLINK}, choose a smaller max_size, or start the host with a larger --window",
        ),
        # With the largest reply, so that each user gets one.
        Pool(
            "unread",
            totals.unread,
            "unread descriptors",
            "Read replies",
            is_for_all=True,
            least=MAX_DESCRIPTORS,
        ),
        Pool(
            "unread_by_owners",
            totals.unread_by_owners,
            "unread descriptors in control sockets",
            "Read messages",
            is_for_all=True,
            least=2,
        ),
        Pool(
            "queued",
            totals.queued,
            "bytes for clients that do not read",
            "Read replies and events",
            is_for_all=True,
            least=LARGEST_REPLY,
        ),
        Pool(
            "news",
            totals.news,
            "changes that clients are not told of yet",
            "Watch and wait for fewer names",
            is_for_all=True,
            least=LEAST_NEWS,
        ),
        # None, until a host knows that its service manager has a store.
        Pool("stored", 0, "places in the service manager's store", "Raise FileDescriptorStoreMax="),
    )
