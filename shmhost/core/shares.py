"""The parts of one resource that uids have: what is taken, guaranteed, limited, and refused. Pure.

A guarantee is booked for a share as long as it has an account, so that taking and giving back within it is a
sum. Beyond it, a share is booked what it uses, to the unit; or a little more, but nothing of the second half.
"""

from __future__ import annotations

from typing import Protocol

from shmprotocol.errors import QuotaExceeded

GUARANTEES = 64  # parts of a total: users of a shared machine, most of whom are not here
UNLIMITED = 2**64
AHEAD = 64  # of what comes in ones and is given back at once in dozens: see `book_ahead`


class Holder(Protocol):
    """The account of a share."""

    uid: int
    is_privileged: bool

    @property
    def is_connected(self) -> bool:
        """Whether the account stays, whatever is given back."""

    def is_adopting(self) -> bool:
        """Whether it gets what it had with another host, whatever the limits are here."""

    def objection(self, share: Share) -> str:
        """Return why a share gets no more for another one's sake; "" if nothing speaks against it."""

    def settle(self) -> None:
        """Close the account if nothing is left in it."""


class ShareExceeded(QuotaExceeded):
    """A QuotaExceeded, with the pool of the resource."""

    def __init__(self, text: str, pool: Pool) -> None:
        super().__init__(text)
        self.pool = pool


class Pool:
    """The whole of one resource: `booked` is what the shares have, `kept` is for uids that may still come.

    `name` is that of a limit in a policy, `reserve` the guarantee of privileged uids; `unit` and `advice` are
    for people. A guarantee is a 64th, or `least`, if that is more. With `is_for_all`, privileged uids leave
    room for others as well.
    """

    __slots__ = (
        "_full",
        "_has_reserve",
        "_least",
        "_newcomers",
        "advice",
        "booked",
        "guarantee",
        "is_for_all",
        "kept",
        "name",
        "reserve",
        "shares",
        "total",
        "unit",
    )
    guarantee: int

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        advice: str,
        *,
        has_reserve: bool = True,
        is_for_all: bool = False,
        least: int = 0,
    ) -> None:
        self.is_for_all: bool = is_for_all
        self.name: str = name
        self._least = least
        self._has_reserve = has_reserve
        self.unit: str = unit
        self.advice: str = advice
        self.booked: int = 0
        self.shares: set[Share] = set()

        self._newcomers = 0
        self.kept: int = 0
        self.resize(total)

    def resize(self, total: int) -> None:
        """Have another total, before anything is taken."""
        self.total: int = total
        self.guarantee = self._full = min(total, max(total // GUARANTEES, self._least))
        self.reserve: int = self.guarantee if self._has_reserve else 0
        self.kept = self._newcomers * self.guarantee
        for share in self.shares:
            share.restrict(share.limit, share.rule)

    @property
    def used(self) -> int:
        """The sum of what is in use."""
        return sum([share.used for share in self.shares])

    def expect(self, newcomers: int) -> None:
        """Keep guarantees for so many uids that may still come."""
        self._newcomers = newcomers
        self.kept = newcomers * self.guarantee

    def enter(self, share: Share) -> None:
        """Add a share. If there is no room for its guarantee, all get smaller ones, until there is."""
        while self.guarantee > 0 and self.total - self.booked < self.guarantee:
            self.guarantee //= 2
            self.kept = self._newcomers * self.guarantee
            for other in self.shares:
                other.lower_guarantee()
        self.shares.add(share)

    def leave(self, share: Share) -> None:
        """Remove a share."""
        self.shares.discard(share)
        self.restore()

    def restore(self) -> None:
        """Where half of all is free, let guarantees be what they were, for uids that come or ask for more."""
        if self.total - self.booked >= self.total // 2:
            self.guarantee = self._full
            self.kept = self._newcomers * self.guarantee


class Share:
    """The part of one resource that one account has: numbers here, for which others keep the tokens.

    `booked` of it are the account's: what it uses, or its guarantee, if that is more. `limit` is what it may
    have by a policy, and `rule` the words for that.
    """

    __slots__ = ("_easy", "account", "booked", "guarantee", "limit", "pool", "rule", "used")
    booked: int
    guarantee: int

    def __init__(self, account: Holder, pool: Pool, limit: int = UNLIMITED, rule: str = "") -> None:
        self.account: Holder = account
        self.pool: Pool = pool
        self.limit: int = limit
        self.rule: str = rule
        self._easy = 0  # up to here `take` has nothing to look at but the pool
        self.used: int = 0
        self.guarantee = self.booked = 0
        pool.enter(self)
        self._book_guarantee()

    def take(self, count: int) -> None:
        """Take some, or raise QuotaExceeded with the figures; nothing is taken then."""
        after = self.used + count
        if after > self.booked:
            pool = self.pool
            booked = pool.booked + after - self.booked
            if after <= self._easy and booked + pool.kept <= pool.total:
                pool.booked, self.booked = booked, after
            elif refusal := self._refusal(count):
                raise ShareExceeded(refusal, pool)
            else:
                self._book(max(after, self.guarantee))
        self.used = after

    def fits(self, count: int, freed: int = 0) -> bool:
        """Whether `take` would take it, if others had given back what is `freed`."""
        after = self.used + count
        if after <= self.booked:
            return True
        pool = self.pool
        if after <= self._easy and pool.booked + after - self.booked + pool.kept <= pool.total:
            return True
        return not self._refusal(count, freed)

    def add(self, count: int) -> None:
        """Take some, whatever the limits say: it is there already."""
        self.used += count
        if self.used > self.booked:
            self._book(max(self.used, self.guarantee))

    def book_ahead(self) -> None:
        """Book what is used, and some more for what is taken next if that leaves half of all free."""
        pool = self.pool
        half = pool.total // 2 - pool.booked + self.booked
        self._book(max(self.used, min(self.used + AHEAD, half, self.limit), self.guarantee))

    def give(self, count: int) -> None:
        """Give some back."""
        after = self.used = self.used - count
        if self.booked > self.guarantee:
            booked = after if after > self.guarantee else self.guarantee
            self.pool.booked += booked - self.booked
            self.booked = booked
        if not after and not self.account.is_connected:
            self.account.settle()

    def restrict(self, limit: int, rule: str) -> None:
        """Set another limit; what is over it already stays."""
        self.limit, self.rule = limit, rule
        self.guarantee = min(self.guarantee, limit)
        self._book(max(self.used, self.guarantee))
        self._book_guarantee()

    def most(self) -> int:
        """Return how much it may have, as things are."""
        pool = self.pool
        if pool.total == UNLIMITED:
            return self.limit
        return min(self.limit, self.booked + max(0, pool.total - pool.booked - self._kept()))

    def is_over(self) -> bool:
        """Whether it has more than `take` would give it."""
        pool = self.pool
        if self.used > self.limit:
            return True
        return self.used > self.guarantee and pool.total - pool.booked < self._kept()

    def unbook(self) -> None:
        """Have the next `take` look at all there is to look at."""
        self.guarantee = self._easy = 0
        self._book(self.used)

    def end(self) -> None:
        """Give the guarantee back."""
        self.guarantee = 0
        self._book(0)
        self.pool.leave(self)

    def lower_guarantee(self) -> None:
        """Book no more than the smaller guarantee that others leave."""
        if not self.account.is_privileged:
            self.guarantee = min(self.guarantee, self.pool.guarantee)
            self._book(max(self.used, self.guarantee))

    def _kept(self) -> int:
        """Return how much it must leave to uids that may still come."""
        is_free = self.account.is_privileged and not self.pool.is_for_all
        return 0 if is_free else self.pool.kept

    def _book(self, booked: int) -> None:
        self.pool.booked += booked - self.booked
        self.booked = booked

    def _book_guarantee(self) -> None:
        pool = self.pool
        guarantee = min(self.limit, pool.reserve if self.account.is_privileged else pool.guarantee)
        if self.guarantee < guarantee <= pool.total - pool.booked + self.booked:
            self.guarantee = guarantee
            self._book(max(self.used, self.guarantee))
        self._easy = self.limit if self.guarantee >= guarantee else 0

    def _refusal(self, count: int, freed: int = 0) -> str:
        """Return why an account gets no more; "" if it does."""
        if self.account.is_adopting():
            return ""
        if objection := self.account.objection(self):
            return objection
        self.pool.restore()
        self._book_guarantee()  # there was no room for it when there were too many others
        pool, uid = self.pool, self.account.uid
        after = self.used + count
        if self.rule and after > self.limit:
            return (
                f"{count} {pool.unit} are over the {self.limit} that {self.rule} gives uid {uid}, which has "
                f"{self.used}. {pool.advice}"
            )
        if after - self.booked <= pool.total - pool.booked + freed - self._kept():
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
