"""Accounts: the part of the host's resources that each uid has, as tokens that are undone by a release. Pure.

Every uid has a guarantee of each resource, a 64th of the total, which is booked for it as long as it has
anything. It may have more, up to nearly all, as long as that leaves the guarantees of NEWCOMERS that are not
here yet. So a uid that takes all it can get keeps nobody from a guarantee, and one that is alone has nine
tenths. (dbus-broker gives n users 1/n to 1/n^2 of what is left, and a single one a half: see its user.h.)
Nothing is ever taken back: a uid over its guarantee is only refused more.

The host's own uid and uid 0 could end the host anyway, so they are held to the totals alone. Their guarantees
of all but bytes are booked from the start, so that `shmhost rm` gets in whatever others do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shmprotocol.errors import QuotaExceeded

GUARANTEES = 64  # parts of a total: users of a shared machine, most of whom are not here
NEWCOMERS = 4  # a user who is alone may have 93.75% of the bytes, and 90.6% of the rest
UNLIMITED = 2**64
CONNECTION_FILES = 2
KEPT_FILES = (
    16  # of the host's own: privileged uids connect by these when they have taken all others themselves
)


class Pool:
    """The whole of one resource. `booked` is the sum of what the shares have booked.

    `reserve` is the guarantee of privileged uids; `unit` and `advice` are for people.
    """

    __slots__ = ("advice", "booked", "guarantee", "reserve", "shares", "total", "unit")

    def __init__(self, total: int, unit: str, advice: str, *, has_reserve: bool = True) -> None:
        self.total = total
        self.guarantee = total // GUARANTEES
        self.reserve = self.guarantee if has_reserve else 0
        self.unit = unit
        self.advice = advice
        self.booked: int = 0
        self.shares: set[Share] = set()

    @property
    def used(self) -> int:
        """The sum of what is in use."""
        return sum([share.used for share in self.shares])


class Share:
    """The part of one resource that one account has: numbers here, for which others keep the tokens.

    `booked` of it are the account's: what it uses, or its guarantee, if that is more. So most of the time
    taking and giving back is a sum.
    """

    __slots__ = ("account", "booked", "guarantee", "limit", "pool", "used")

    def __init__(self, account: Account, pool: Pool) -> None:
        self.account = account
        self.pool = pool
        self.limit: int = UNLIMITED
        self.used: int = 0
        self.guarantee = self.booked = 0
        pool.shares.add(self)
        self._book_guarantee()

    def take(self, count: int) -> None:
        """Take some, or raise QuotaExceeded with the figures; nothing is taken then."""
        after = self.used + count
        if after > self.booked:
            refusal = self._refusal(count)
            if refusal:
                raise QuotaExceeded(refusal)
            self._book(max(after, self.guarantee))
        self.used = after

    def fits(self, count: int, freed: int = 0) -> bool:
        """Whether `take` would take it, if others had given back what is `freed`."""
        return self.used + count <= self.booked or not self._refusal(count, freed)

    def add(self, count: int) -> None:
        """Take some, whatever the limits say: it is there already."""
        self.used += count
        if self.used > self.booked:
            self._book(max(self.used, self.guarantee))

    def give(self, count: int) -> None:
        """Give some back."""
        self.used -= count
        if self.booked > self.guarantee or not self.used:
            self.settle()

    def settle(self) -> None:
        """Book no more than what is used or guaranteed; close the account if nothing is left in it."""
        self._book(max(self.used, self.guarantee))
        if not self.used and not self.account.connections.used:
            self.account.settle()

    def end(self) -> None:
        """Give the guarantee back."""
        self._book(0)
        self.pool.shares.discard(self)

    def _book(self, booked: int) -> None:
        self.pool.booked += booked - self.booked
        self.booked = booked

    def _book_guarantee(self) -> None:
        pool = self.pool
        guarantee = pool.reserve if self.account.is_privileged else pool.guarantee
        if not self.guarantee and guarantee <= pool.total - pool.booked + self.booked:
            self.guarantee = guarantee
            self._book(max(self.used, self.guarantee))

    def _refusal(self, count: int, freed: int = 0) -> str:
        """Return why an account gets no more; "" if it does."""
        if self.account.is_adopting():
            return ""
        self._book_guarantee()  # there was no room for it when there were too many others
        pool, uid = self.pool, self.account.uid
        after = self.used + count
        if after > self.limit:
            return (
                f"{count} {pool.unit} are over the limit of uid {uid}: {self.used} of {self.limit} are in "
                f"use. {pool.advice}"
            )
        free = pool.total - pool.booked + freed
        more = after - self.booked
        if more <= free - self.account.promised(pool):
            return ""
        used = pool.used
        if count > pool.total - used + freed:
            return (
                f"{count} {pool.unit} are over what the host has: {used} of {pool.total} are in use, "
                f"{self.used} of these by uid {uid}. {pool.advice}"
            )
        return (
            f"{count} {pool.unit} are over the share of uid {uid}, which has {self.used}: of {pool.total}, "
            f"{pool.total - used} are free, but others are guaranteed theirs. {pool.advice}"
        )


class Account:
    """The shares of one uid. It is there as long as the uid has anything."""

    __slots__ = ("_accounts", "bytes", "connections", "files", "is_privileged", "leases", "uid")

    def __init__(self, accounts: Accounts, uid: int, is_privileged: bool) -> None:
        self._accounts = accounts
        self.uid = uid
        self.is_privileged = is_privileged
        self.bytes = Share(self, accounts.bytes)
        self.files = Share(self, accounts.files)
        self.leases = Share(self, accounts.leases)
        self.connections = Share(self, accounts.connections)

    def is_adopting(self) -> bool:
        """Whether it gets what it had with another host, whatever the limits are here."""
        return self._accounts.is_adopting

    def shares(self) -> tuple[Share, ...]:
        """Return all shares, the one that is empty last comes first."""
        return self.connections, self.bytes, self.files, self.leases

    def promised(self, pool: Pool) -> int:
        """Return how much of a pool an account must leave, beside what is booked."""
        return 0 if self.is_privileged else self._accounts.newcomers(self) * pool.guarantee

    def settle(self) -> None:
        """Close the account if nothing is left in it."""
        if not any(share.used for share in self.shares()):
            self._accounts.forget(self)

    def charge(self, size: int, files: int = 0) -> Charge:
        """Take bytes, and descriptors of the host, or raise QuotaExceeded with the figures."""
        self.bytes.take(size)
        if files:
            try:
                self.files.take(files)
            except QuotaExceeded:
                self.bytes.give(size)
                raise
        return Charge(self, size, files)

    def take(self, size: int, files: int) -> Charge:
        """Take what is in use already, whatever the limits say."""
        self.bytes.add(size)
        self.files.add(files)
        return Charge(self, size, files)

    def connect(self) -> None:
        """Take what a connection has: its socket and the descriptor of its process. QuotaExceeded."""
        try:
            self.connections.take(1)
        except QuotaExceeded:
            self.settle()
            raise
        try:
            self.files.take(CONNECTION_FILES)
        except QuotaExceeded:
            if not self.is_privileged or self.files.pool.booked >= self.files.pool.total + KEPT_FILES:
                self.connections.give(1)
                raise
            self.files.add(CONNECTION_FILES)

    def disconnect(self) -> None:
        """Give back what a connection had."""
        self.files.give(CONNECTION_FILES)
        self.connections.give(1)


class Charge:
    """Bytes and descriptors taken from an account until `release`, which may be called again."""

    __slots__ = ("account", "files", "size")

    def __init__(self, account: Account, size: int, files: int) -> None:
        self.account = account
        self.size: int = size
        self.files: int = files

    def release(self) -> None:
        """Give all back."""
        account, size, files = self.account, self.size, self.files
        self.size = self.files = 0
        if size:
            account.bytes.give(size)
        if files:
            account.files.give(files)

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
        """Have another account bear it, whatever that has already."""
        before = self.account
        account.bytes.add(self.size)
        account.files.add(self.files)
        self.account = account
        before.bytes.give(self.size)
        before.files.give(self.files)


class Totals(NamedTuple):
    """The resources of a host: bytes of memory objects, descriptors, leases; and descriptors of its own."""

    bytes: int
    files: int = UNLIMITED
    leases: int = UNLIMITED
    own_files: int = 0


_UNLINK = "Close or unlink regions that you do not need"


class Accounts:
    """The accounts of a host, by uid. `privileged` are uids that have theirs from the start."""

    def __init__(self, totals: Totals, privileged: Iterable[int] = (0,)) -> None:
        advice = f"{_UNLINK}, or start the host with a larger --budget"
        self.bytes = Pool(totals.bytes, "bytes", advice, has_reserve=False)
        self.files = Pool(
            totals.files, "descriptors of the host", f"{_UNLINK}, or give it more (ulimit -n, LimitNOFILE=)"
        )
        self.files.booked = totals.own_files
        self.leases = Pool(totals.leases, "leases", "Close regions that you do not need")
        self.connections = Pool(totals.files // CONNECTION_FILES, "connections", "Close some")
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

    def in_use(self) -> dict[int, tuple[int, ...]]:
        """Return what each uid has that has anything, in the order of `Account.shares`."""
        sums = {account.uid: tuple([share.used for share in account.shares()]) for account in self}
        return {uid: figures for uid, figures in sums.items() if any(figures)}

    def newcomers(self, account: Account) -> int:
        """Return for how many uids that are not here guarantees are left when this one takes more."""
        others = len(self._accounts) - len(self._privileged) - (not account.is_privileged)
        return max(1, NEWCOMERS - others)

    def forget(self, account: Account) -> None:
        """Close an account that has nothing; a privileged one stays, with its guarantees."""
        if not account.is_privileged and self._accounts.pop(account.uid, None) is not None:
            for share in account.shares():
                share.end()

    def _open(self, uid: int) -> Account:
        account = self._accounts[uid] = Account(self, uid, uid in self._privileged)
        return account
