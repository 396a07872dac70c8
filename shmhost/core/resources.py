"""The resources of a host that its users share, and how much there is of each. Pure."""

from __future__ import annotations

from functools import partial

from shmhost.core.shares import UNLIMITED, Pool
from shmprotocol.kernel.constants import KIB
from shmprotocol.tuples import NamedTuple
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
    # None is stored, until a host knows that its service manager has a store.
    stored = Pool("stored", 0, "places in the service manager's store", "Raise FileDescriptorStoreMax=")
    return (*_owned(totals), *_passing(totals), stored)


def _owned(totals: Totals) -> tuple[Pool, ...]:
    """Return the pools of what users have until they give it up."""
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
    )


def _passing(totals: Totals) -> tuple[Pool, ...]:
    """Return the pools of what waits until users read; each user has the `least` of it."""
    for_all = partial(Pool, is_for_all=True)
    by_owners, in_control = totals.unread_by_owners, "unread descriptors in control sockets"
    late, news = "bytes for clients that do not read", "changes that clients are not told of yet"
    return (
        for_all("unread", totals.unread, "unread descriptors", "Read replies", least=MAX_DESCRIPTORS),
        for_all("unread_by_owners", by_owners, in_control, "Read messages", least=2),
        for_all("queued", totals.queued, late, "Read replies and events", least=LARGEST_REPLY),
        for_all("news", totals.news, news, "Watch and wait for fewer names", least=LEAST_NEWS),
    )
