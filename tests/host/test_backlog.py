"""Bytes that wait for clients that do not read: in their uid's account, within a total over all uids."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from shmhost.core.accounts import NEWCOMERS, Accounts
from shmhost.core.peers import Peer
from shmhost.core.resources import LARGEST_REPLY, Totals
from shmhost.core.shares import GUARANTEES
from shmhost.serving.backlog import Backlog
from shmhost.serving.outbox import FRAME_OVERHEAD, Outbox
from shmhost.serving.turns import Turns
from shmhost.serving.unread import Flight

TOTAL = 2 * GUARANTEES * LARGEST_REPLY
GUARANTEE = TOTAL // GUARANTEES
ALICE, BOB = 7, 8


class Users:
    """Connections of two users; `ended` says which were ended, and why."""

    def __init__(self) -> None:
        self.accounts = Accounts(Totals(1, queued=TOTAL), privileged=())
        self.flight = Flight(self.accounts)
        self.ended: list[tuple[str, str]] = []
        for uid in (ALICE, BOB):
            self.accounts.of(uid).connect(Peer(uid, uid))

    def connection(self, uid: int, name: str) -> Backlog:
        return self.flight.share(uid).backlogs.begin(lambda why: self.ended.append((name, why)))

    def used(self, uid: int) -> int:
        return self.accounts.of(uid).queued.used


@pytest.fixture
def users() -> Iterator[Users]:
    users = Users()
    yield users
    for uid in (ALICE, BOB):
        assert users.used(uid) == 0
        users.accounts.of(uid).disconnect()
    assert users.accounts.in_use() == {}


# Both are there, so guarantees are kept for this many more.
MOST = TOTAL - GUARANTEE - (NEWCOMERS - 1) * GUARANTEE


def test_user_has_all_but_the_guarantees_of_others_to_the_byte(users: Users) -> None:
    alice, bob = users.connection(ALICE, "alice"), users.connection(BOB, "bob")
    alice.grow(MOST)
    bob.grow(GUARANTEE)
    assert users.ended == []
    alice.grow(1)
    ((name, why),) = users.ended
    assert name == "alice"
    assert f"over the share of uid {ALICE}, which has {MOST}" in why
    assert f"Of all, uid {ALICE} has {MOST + 1}, uid {BOB} has {GUARANTEE}" in why
    bob.grow(1)
    assert [name for name, _ in users.ended] == ["alice", "bob"]
    alice.shrink(MOST + 1)
    bob.shrink(GUARANTEE + 1)


def test_guarantee_is_kept_whatever_others_have(users: Users) -> None:
    crowd = [users.connection(ALICE, f"alice {number}") for number in range(GUARANTEES)]
    for each in crowd:
        each.grow(GUARANTEE)
    count = GUARANTEES - MOST // GUARANTEE
    assert len(users.ended) == count
    bob = users.connection(BOB, "bob")
    bob.grow(GUARANTEE)
    assert len(users.ended) == count
    for each in (bob, *crowd):
        each.shrink(GUARANTEE)


def test_connection_with_the_most_is_ended_and_once_for_what_its_end_frees(users: Users) -> None:
    small, large, late = (users.connection(ALICE, name) for name in ("small", "large", "late"))
    small.grow(10)
    large.grow(MOST - 10)
    small.grow(1)
    assert [name for name, _ in users.ended] == ["large"]
    assert (large.is_ended, small.is_ended) == (True, False)
    late.grow(MOST - 11)  # all that is about to be freed
    assert [name for name, _ in users.ended] == ["large"]
    assert users.used(ALICE) == 2 * MOST - 10
    late.grow(1)
    assert [name for name, _ in users.ended] == ["large", "late"]
    large.shrink(MOST - 10)
    late.shrink(MOST - 10)
    small.shrink(11)


def test_what_is_taken_beyond_a_share_is_at_most_what_is_about_to_be_freed(users: Users) -> None:
    crowd = [users.connection(ALICE, f"{number}") for number in range(2000)]
    for number, each in enumerate(crowd):
        each.grow(1 + number * 7919 % LARGEST_REPLY)
        if number > 20 and number % 3 == 0:
            freed = crowd[number - 20]
            freed.shrink(freed.size)
        going = sum(each.size for each in crowd if each.is_ended)
        assert users.used(ALICE) <= MOST + going
    for each in crowd:
        each.shrink(each.size)


def test_limit_of_a_policy_is_exact_and_named(users: Users) -> None:
    users.accounts.of(ALICE).queued.restrict(1000, "rule 'students'")
    alice, bob = users.connection(ALICE, "alice"), users.connection(BOB, "bob")
    alice.grow(1000)
    bob.grow(1001)
    assert users.ended == []
    alice.grow(1)
    ((name, why),) = users.ended
    assert name == "alice"
    assert why.startswith(
        "it does not read: 1 bytes for clients that do not read are over the 1000 that rule"
    )
    alice.shrink(1001)
    bob.shrink(1001)


def test_copies_of_descriptors_are_charged_and_refused_over_the_limit() -> None:
    async def fill(ours: socket.socket, others: socket.socket) -> list[int]:
        accounts, turns = Accounts(Totals(1), privileged=()), Turns()
        flight = Flight(accounts)
        alice, bob = (
            Outbox(sock, flight.share(uid), turns.of(uid), lambda: None, pytest.fail)
            for uid, sock in ((ALICE, ours), (BOB, others))
        )
        accounts.of(ALICE).files.restrict(64, "a rule")
        for outbox in (alice, bob):
            while outbox.is_empty:
                outbox.send(bytes(50_000), ())
            outbox.send(b"at the limit", [0] * 64)
        bob.send(b"another share", [0])
        with pytest.raises(OSError, match=r"over the 64 that a rule gives uid 7, .* uid 8 has 65, uid 7 has"):
            alice.send(b"over it", [0])
        used = [accounts.of(uid).files.used for uid in (ALICE, BOB)]
        await asyncio.sleep(0)
        for outbox in (alice, bob):
            outbox.close(lambda: None)
        turns.finish()
        assert accounts.in_use() == {}
        return used

    ours, theirs = socket.socketpair()
    others, readers = socket.socketpair()
    with ours, theirs, others, readers:
        for sock in (ours, others):
            sock.setblocking(False)
        assert asyncio.run(fill(ours, others)) == [64, 65]


def test_bytes_are_charged_until_their_memory_is_free_and_nothing_more_is_queued() -> None:
    async def fill(ours: socket.socket) -> list[int]:
        accounts, turns = Accounts(Totals(1)), Turns()
        used, share = accounts.of(ALICE).queued, Flight(accounts).share(ALICE)
        other = turns.of(BOB)  # so nothing is freed at once
        outbox = Outbox(ours, share, turns.of(ALICE), lambda: None, lambda _why: None)
        counts = []
        while outbox.is_empty:
            outbox.send(bytes(50_000), ())
        used.restrict(used.used, "a rule")
        outbox.send(b"one more", ())
        outbox.send(b"none", ())
        counts.append(used.used - sum(len(data) + FRAME_OVERHEAD for data, _ in outbox.queue))
        counts.append(outbox.queue[-1][0] == b"one more")
        outbox.close(lambda: None)
        counts.append(used.used > 6)
        turns.finish()
        counts.append(used.used)
        del other
        return counts

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert asyncio.run(fill(ours)) == [0, True, True, 0]
