"""Regions that are superseded or unlinked, each charged to somebody who keeps it. Pure.

Its owner bears it as long as a process of the owner's has it leased; then another holder does. So a reader
that closes nothing fills its own account, and never that of the publisher.
"""

from __future__ import annotations

from itertools import islice

from shmhost.core.accounts import Accounts
from shmhost.core.regions import Region

LOOKED_AT = 1024  # leases, in 30 us; an owner whose lease comes behind so many others' does not bear it


def bear(accounts: Accounts, region: Region) -> None:
    """Charge a region that is not current to one of its holders; it has some."""
    bearer = region.charge.account.uid
    for peer, _since in islice(region.leases.values(), LOOKED_AT):
        if peer.uid == bearer:
            return
    # The last one is reached at once; before the first, as many that were released may have to be skipped.
    number, lease = region.leases.popitem()
    region.leases[number] = lease
    region.charge.move(accounts.of(lease[0].uid))
