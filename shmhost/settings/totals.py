"""The resources that a host has for its clients, by its settings and the limits of its process."""

from __future__ import annotations

import resource

from shmhost.core.resources import Totals
from shmhost.core.shares import UNLIMITED
from shmhost.core.window import STEP
from shmhost.settings.config import Config
from shmprotocol.kernel.constants import MIB
from shmprotocol.wire.names import MAX_DESCRIPTORS

# Descriptors that a host has beside those for clients: its sockets, files, pipes, threads; † 20, and as many
# for scrapes, for connections that are refused, and for what is being opened and closed; and KEPT_FILES.
OWN_FILES = 56
# † A lease takes 0.4 KiB of the host's memory, which are in no budget: so all take a tenth of it at most.
BYTES_PER_LEASE = 4096
MIN_LEASES, MAX_LEASES = 4096, 2**20
OWNERS_PART = 4  # of the descriptors in flight: for owners of arenas, who may read late
NO_FILES_LIMIT = 2**20  # descriptors in flight: where RLIMIT_NOFILE says none
# Bytes that wait until clients read: a sixteenth of the budget. At least a part of the host's OWN_MEMORY, in
# which there is room for 32 of the largest replies, and at most what a machine does not miss.
QUEUED_PART = 16
MIN_QUEUED, MAX_QUEUED = 8 * MIB, 64 * MIB
# Changes that clients are not told of yet, † 2 KiB each (2026-11): half as many bytes as wait in queues.
BYTES_PER_NEWS = 2 * QUEUED_PART * 2048
MIN_NEWS, MAX_NEWS = 2048, 16_384
MIN_LISTENING, MAX_LISTENING = 16_384, 2**20  # watches and names that are waited for: likewise


def totals_of(config: Config, slices: int = 1) -> Totals:
    """Return the totals of a host with these settings, in this process, and with one of so many slices."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        files = UNLIMITED
    addresses = sum(size // slices for _, size in config.windows)
    # Each region takes a STEP at least, and a descriptor. Where these are fewer than half of the steps, only
    # arenas can use up all addresses.
    are_scarce = addresses // STEP < 2 * files
    # As many as the kernel lets the host's user have in flight; a host of root may have more.
    unread = max(MAX_DESCRIPTORS * OWNERS_PART, files if files < UNLIMITED else NO_FILES_LIMIT)
    return Totals(
        config.budget,
        files,
        min(MAX_LEASES, max(MIN_LEASES, config.budget // BYTES_PER_LEASE)),
        min(OWN_FILES, files // 4),
        config.board,
        min(MAX_LISTENING, max(MIN_LISTENING, config.budget // BYTES_PER_LEASE)),
        addresses if are_scarce else addresses // 2,
        unread - unread // OWNERS_PART,
        unread // OWNERS_PART,
        min(MAX_QUEUED, max(MIN_QUEUED, config.budget // QUEUED_PART)),
        min(MAX_NEWS, max(MIN_NEWS, config.budget // BYTES_PER_NEWS)),
        are_scarce,
    )
