"""Accounts: the part of the host's resources that each uid has, as tokens that are undone by a release. Pure.

Every uid has a guarantee of each resource, a 64th of the total, which is booked for it as long as it has
anything; where so many are here that there is no room for that, half of it, and so on. One may have more, up
to nearly all, as long as that leaves the guarantees of NEWCOMERS that are not here yet. So one that takes all
that it gets keeps nobody from a guarantee, and one that is alone has nine tenths. (dbus-broker gives n users
1/n to 1/n^2 of what is left, and a single one a half: see its user.h.)
Nothing is ever taken back: a uid over its guarantee is only refused more.

The host's own uid and uid 0 could end the host anyway, so they are held to the totals of most alone. Their
guarantees of all but bytes are booked from the start, so that `shmhost rm` gets in whatever others do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shmhost.core.peers import Peer
from shmhost.core.policy import NO_LIMITS, Limits, Policy
from shmhost.core.resources import CONNECTION_FILES, Totals, pools_of
from shmhost.core.shares import UNLIMITED, Pool, Share
from shmhost.core.window import span_size
from shmprotocol.errors import QuotaExceeded

NEWCOMERS = 4  # a user who is alone may have 93.75% of the bytes, and 90.6% of the rest
KEPT_FILES = 16  # of the own ones: a privileged uid connects by these when it has taken all others itself


class Account:
    """The shares of one uid. It is there as long as the uid has anything."""

    __slots__ = (
        "_accounts",
        "_is_kept",
        "_limits",
        "addresses",
        "arenas",
        "borne",
        "bytes",
        "connections",
        "files",
        "groups",
        "is_privileged",
        "leases",
        "lines",
        "listening",
        "news",
        "queued",
        "regions",
        "shares",
        "stored",
        "uid",
        "unread",
        "unread_by_owners",
    )
    addresses: Share
    arenas: Share
    bytes: Share
    connections: Share
    files: Share
    leases: Share
    lines: Share
    listening: Share
    news: Share
    queued: Share
    regions: Share
    stored: Share
    unread: Share
    unread_by_owners: Share

    def __init__(self, accounts: Accounts, uid: int, is_privileged: bool) -> None:
        self._accounts = accounts
        self.uid: int = uid
        self.groups: frozenset[int] = frozenset()  # those of the first client
        self.is_privileged: bool = is_privileged
        self._limits = NO_LIMITS
        self._is_kept = False  # though it may have nothing
        self.borne: int = 0  # bytes of superseded and unlinked regions of others
        self.shares: tuple[Share, ...] = tuple([Share(self, pool) for pool in accounts.pools])
        # The last one that is emptied comes first, as it is looked at first.
        (
            self.connections,
            self.bytes,
            self.files,
            self.regions,
            self.arenas,
            self.leases,
            self.lines,
            self.listening,
            self.addresses,
            self.unread,
            self.unread_by_owners,
            self.queued,
            self.news,
            self.stored,
        ) = self.shares

    @property
    def is_connected(self) -> bool:
        """Whether a client is there, so that the account stays."""
        return self.connections.used > 0

    def is_adopting(self) -> bool:
        """Whether it gets what it had with another host, whatever the limits are here."""
        return self._accounts.is_adopting

    def objection(self, share: Share) -> str:
        """Return why it gets no leases while it keeps more than its share; "" if it does."""
        if share is not self.leases or not self.borne or not self.bytes.is_over():
            return ""
        return (
            f"uid {self.uid} gets no more leases: it keeps {self.borne} bytes of regions that others have "
            f"superseded or unlinked, and {self.bytes.used} are over its share. Close some"
        )

    def settle(self) -> None:
        """Close the account if nothing is left in it."""
        if not self._is_kept and not any(share.used for share in self.shares):
            self._accounts.forget(self)

    def keep(self) -> None:
        """Stay, whatever is given back, until `let_go`."""
        self._is_kept = True

    def let_go(self) -> None:
        """Stay no longer than there is something in it."""
        self._is_kept = False
        self.settle()

    def restrict(self, limits: Limits) -> None:
        """Set the limits that a policy gives it; what is over them already stays."""
        if limits != self._limits:
            self._limits = limits
            for share in self.shares:
                share.restrict(*limits.get(share.pool.name, (UNLIMITED, "")))

    def charge(self, size: int, files: int = 0, regions: int = 0) -> Charge:
        """Take bytes, descriptors of the host and regions, or raise QuotaExceeded with the figures."""
        # In one go as long as all is booked: a put takes and gives back once.
        sizes, descriptors, numbers = self.bytes, self.files, self.regions
        after, files_after, regions_after = (
            sizes.used + size,
            descriptors.used + files,
            numbers.used + regions,
        )
        if after > sizes.booked or files_after > descriptors.booked or regions_after > numbers.booked:
            return self._charge_each(size, files, regions)
        sizes.used, descriptors.used, numbers.used = after, files_after, regions_after
        return Charge(self, size, files, regions)

    def charge_region(self, size: int, files: int, extent: int, room: int = 0) -> Charge:
        """Do what `charge` does for a region that extends so far, with `room` to grow; addresses, too.

        Those are all that it takes where they are scarce, and else those to grow into.
        """
        charge = self.charge(size, files, 1)
        addresses = span_size(extent) if self._accounts.are_addresses_scarce else room
        if addresses:
            try:
                charge.also(self.addresses, addresses)
            except QuotaExceeded:
                charge.release()
                raise
        return charge

    def _charge_each(self, size: int, files: int, regions: int) -> Charge:
        charge = Charge(self, 0, 0, 0)
        try:
            self.bytes.take(size)
            charge.size = size
            self.files.take(files)
            charge.files = files
            self.regions.take(regions)
            charge.regions = regions
        except QuotaExceeded:
            charge.release()
            raise
        return charge

    def take(self, size: int, files: int) -> Charge:
        """Take what a region has that is in use already, whatever the limits say."""
        charge = Charge(self, size, files, 1)
        charge.add_to(self)
        return charge

    def connect(self, peer: Peer) -> None:
        """Take what a connection has: its socket and the descriptor of its process. QuotaExceeded."""
        if not self.is_connected:
            self.groups = peer.groups | {peer.gid}
            self.restrict(self._accounts.policy.limits_of(self.uid, self.groups))
        try:
            self.connections.take(1)
        except QuotaExceeded:
            if not self._accounts.is_taking_back or self.connections.used >= 2 * self.connections.limit:
                self.settle()
                raise
            self.connections.add(1)
        try:
            self.files.take(CONNECTION_FILES)
        except QuotaExceeded:
            if not self.is_privileged or self.files.pool.booked >= self.files.pool.total + KEPT_FILES:
                self.connections.give(1)
                raise
            self.files.add(CONNECTION_FILES)

    def spare(self) -> None:
        """Count a connection no more that only keeps what another host gave: its client has one beside it."""
        self.connections.give(1)

    def count(self) -> None:
        """Count a connection again. QuotaExceeded."""
        self.connections.take(1)

    def disconnect(self, *, is_counted: bool = True) -> None:
        """Give back what a connection had."""
        self.files.give(CONNECTION_FILES)
        if is_counted:
            self.connections.give(1)


class Charge:
    """All that a region has taken from an account, until `release`, which may be called again."""

    __slots__ = ("account", "files", "is_borne", "more", "regions", "size")

    def __init__(self, account: Account, size: int, files: int, regions: int) -> None:
        self.account: Account = account
        self.size: int = size
        self.files: int = files
        self.regions: int = regions
        self.is_borne: bool = False  # the account is not the owner's, who keeps it no more
        self.more: tuple[tuple[Share, int], ...] = ()

    def release(self) -> None:
        """Give all back."""
        account, size = self.account, self.size
        sizes, descriptors, numbers = account.bytes, account.files, account.regions
        sizes.used -= size
        descriptors.used -= self.files
        numbers.used -= self.regions
        self.size = self.files = self.regions = 0
        if self.is_borne:
            account.borne -= size
            self.is_borne = False
        more, self.more = self.more, ()
        for share, count in more:
            share.give(count)
        if (
            sizes.booked > sizes.guarantee
            or descriptors.booked > descriptors.guarantee
            or numbers.booked > numbers.guarantee
        ):
            sizes.give(0)
            descriptors.give(0)
            numbers.give(0)
        if not account.connections.used:
            account.settle()

    def also(self, share: Share, count: int) -> None:
        """Take something else of the owner's account, or raise QuotaExceeded with the figures."""
        share.take(count)
        self.more += ((share, count),)

    def shrink(self, size: int) -> None:
        """Give back all but this many bytes."""
        if size < self.size:
            self.account.bytes.give(self.size - size)
            self.size = size

    def grow(self, size: int) -> None:
        """Take more, up to this many bytes, or raise QuotaExceeded."""
        self.account.bytes.take(size - self.size)
        self.size = size

    def close_file(self) -> None:
        """Give back one of two descriptors, if it has two."""
        if self.files == 2:
            self.account.files.give(1)
            self.files = 1

    def move(self, account: Account) -> None:
        """Have another account bear it, whatever that has already; but for what was taken by `also`."""
        before, self.account = self.account, account
        self.add_to(account)
        if self.is_borne:
            before.borne -= self.size
        before.bytes.give(self.size)
        before.files.give(self.files)
        before.regions.give(self.regions)
        self.bear()

    def bear(self) -> None:
        """Note that the account has it for another's sake, so that it gets no leases beyond its share."""
        self.is_borne = True
        self.account.borne += self.size
        self.account.leases.unbook()

    def add_to(self, account: Account) -> None:
        """Take all from an account, whatever the limits say."""
        account.bytes.add(self.size)
        account.files.add(self.files)
        account.regions.add(self.regions)


class Accounts:
    """The accounts of a host, by uid. `privileged` are uids that have theirs from the start."""

    bytes: Pool
    files: Pool
    stored: Pool

    def __init__(self, totals: Totals, privileged: Iterable[int] = (0,)) -> None:
        self.pools: tuple[Pool, ...] = pools_of(totals)
        _, self.bytes, self.files, *_, self.stored = self.pools
        self.are_addresses_scarce: bool = totals.are_addresses_scarce
        self.policy: Policy = Policy()
        # Clients of a host that was killed hand back what they have, each by a connection beside its own.
        self.is_taking_back = False
        self.is_adopting = False  # what is taken was given by another host, so that no limit holds
        self._accounts: dict[int, Account] = {}
        self._privileged = frozenset(privileged)
        for uid in self._privileged:
            self._open(uid)

    def of(self, uid: int) -> Account:
        """Return the account of a uid."""
        return self._accounts.get(uid) or self._open(uid)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def restrict(self, policy: Policy) -> None:
        """Have this policy from now on."""
        self.policy = policy
        for account in self:
            account.restrict(policy.limits_of(account.uid, account.groups))

    def in_use(self) -> dict[int, tuple[int, ...]]:
        """Return what each uid has that has anything, in the order of the pools."""
        sums = {account.uid: tuple([share.used for share in account.shares]) for account in self}
        return {uid: figures for uid, figures in sums.items() if any(figures)}

    def forget(self, account: Account) -> None:
        """Close an account that has nothing; a privileged one stays, with its guarantees."""
        if not account.is_privileged and self._accounts.get(account.uid) is account:
            del self._accounts[account.uid]
            for share in account.shares:
                share.end()
            self._expect()

    def _open(self, uid: int) -> Account:
        account = self._accounts[uid] = Account(self, uid, uid in self._privileged)
        self._expect()
        return account

    def _expect(self) -> None:
        others = len(self._accounts) - len(self._privileged) - 1  # beside the one that takes something
        for pool in self.pools:
            pool.expect(max(1, min(NEWCOMERS, NEWCOMERS - others)))
