"""What sessions share: listeners are told of changes, and the counters become one reply."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.hub import MAX_ACCOUNTS, Hub
from shmhost.core.news import News
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.resources import LEAST_NEWS, Totals
from shmhost.core.window import STEP, Allocator
from shmhost.core.work import run_now, run_to_end
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.messages import Create, Measured
from shmprotocol.wire.names import ChangeKind

ROOT = Peer(0, 0)


class Ear:
    """A listener that keeps what it hears, and then does something."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.heard: list[tuple[ChangeKind, str]] = []
        self.peer = ROOT
        self._then = then

    def fall_behind(self) -> None:
        self.heard.append((ChangeKind.CHANGED, "too far behind"))

    def hear(self, news: News) -> None:
        change = news.seen_by(ROOT)
        assert change is not None
        self.heard.append((change[0], change[1].name))
        self._then()


@pytest.fixture
def hub() -> Hub:
    clock = itertools.count(1)
    registry = Registry(
        Allocator(((1 << 40, (MAX_ACCOUNTS + 8) * STEP),)),
        Accounts(Totals(1 << 40)),
        lambda: next(clock),
        lambda _object: None,
    )
    return Hub(registry, "the host", lambda *_: pytest.fail("no object is made here"))


def create(hub: Hub, name: str, uid: int, size: int = 100) -> Region:
    region = hub.registry.create(Create(1, name, size, "full", "memfd", 0o600, True), Peer(uid, uid))
    region.object = object()  # type: ignore[assignment]
    return region


def publish(hub: Hub, name: str, uid: int, size: int = 100) -> Region:
    region = create(hub, name, uid, size)
    region.generation = hub.registry.next_generation(region)
    hub.registry.publish(region)
    return region


def accounts(hub: Hub) -> list[tuple[int, int, int, int]]:
    return [tuple(account) for account in hub.measure(1).accounts]  # type: ignore[misc]


def test_each_listener_is_told_of_a_change(hub: Hub) -> None:
    ears = Ear(), Ear()
    hub.listeners.update(ears)
    region = publish(hub, "x", 7)
    hub.tell(ChangeKind.PUBLISHED, region)
    hub.tell(ChangeKind.UNLINKED, region)
    assert [ear.heard for ear in ears] == [[("published", "x"), ("unlinked", "x")]] * 2


def test_listeners_of_a_user_that_is_too_far_behind_must_go(hub: Hub) -> None:
    ears = Ear(), Ear()
    ears[1].peer = Peer(8, 8)
    hub.listeners.update(ears)
    asked: list[int] = []

    def run_news(uid: int, news: Iterator[None]) -> bool:
        asked.append(uid)
        return uid == ROOT.uid and run_now(uid, news)

    hub.run_news = run_news
    hub.tell(ChangeKind.PUBLISHED, publish(hub, "x", 7))
    assert sorted(asked) == [0, 8]
    assert [ear.heard for ear in ears] == [[("published", "x")], [("changed", "too far behind")]]


def test_changes_that_wait_have_a_total_of_which_each_user_has_a_share(hub: Hub) -> None:
    hub.registry.accounts = accounts = Accounts(Totals(1 << 40, news=1000))
    pending: list[Iterator[None]] = []
    hub.run_news = lambda _uid, news: pending.append(news) is None
    region, ears = publish(hub, "x", 7), [Ear() for _ in range(3)]
    for uid, ear in zip((8, 9, 10), ears, strict=True):
        ear.peer = Peer(uid, uid)
        hub.listeners = {ear}
        while not ear.heard and len(pending) <= 1000:
            hub.tell(ChangeKind.CHANGED, region)
        assert ear.heard == [("changed", "too far behind")]
        assert accounts.of(uid).news.used >= LEAST_NEWS
    assert accounts.of(8).news.used > 500
    pool = accounts.of(8).news.pool
    assert pool.used == len(pending) <= 1000
    for news in pending:
        run_to_end(news)
    assert pool.used == 0


def test_changes_that_are_refused_or_fail_are_charged_no_more(hub: Hub) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    ear = Ear(fail)
    hub.listeners.add(ear)
    region = publish(hub, "x", 7)
    with pytest.raises(ZeroDivisionError):
        hub.tell(ChangeKind.CHANGED, region)
    hub.run_news = lambda _uid, _news: False
    hub.tell(ChangeKind.CHANGED, region)
    assert hub.registry.accounts.of(0).news.used == 0


def test_listener_may_leave_and_others_may_come_while_it_is_told(hub: Hub) -> None:
    """As a wait that is over, and a session that is closed since its client reads nothing."""
    late = Ear()
    ears = [Ear(lambda: (hub.listeners.discard(ears[0]), hub.listeners.add(late))) for _ in range(3)]
    hub.listeners.update(ears)
    hub.tell(ChangeKind.PUBLISHED, publish(hub, "x", 7))
    assert [ear.heard for ear in ears] == [[("published", "x")]] * 3
    assert (hub.listeners, late.heard) == ({*ears[1:], late}, [])


def test_measure_counts_regions_and_clients_of_each_user(hub: Hub) -> None:
    small, large = publish(hub, "small", 7), publish(hub, "large", 8, 100_000)
    hub.clients[7] += 2
    hub.clients[9] += 1
    hub.listeners.add(Ear())
    measured = hub.measure(5)
    assert measured.id == 5
    assert accounts(hub) == [(8, 1, large.capacity, 0), (7, 1, small.capacity, 2), (9, 0, 0, 1)]
    assert (measured.clients, measured.listeners) == (3, 1)
    assert (measured.budget, measured.used) == (1 << 40, hub.registry.accounts.bytes.used)


def test_users_with_as_much_memory_are_in_the_order_of_their_numbers(hub: Hub) -> None:
    for uid in (9, 7, 8):
        publish(hub, f"of {uid}", uid)
    assert [uid for uid, *_ in accounts(hub)] == [7, 8, 9]


@pytest.mark.parametrize("count", [0, 1, MAX_ACCOUNTS, MAX_ACCOUNTS + 1])
def test_reply_has_as_many_accounts_as_an_array_may_have(count: int, hub: Hub) -> None:
    for uid in range(count):
        hub.clients[uid] += 1
    publish(hub, "the largest", 1_000_000)
    measured = hub.measure(1)
    assert len(measured.accounts) == min(count + 1, MAX_ACCOUNTS)
    assert measured.accounts[0].uid == 1_000_000
    assert measured.clients == count
    connection = Connection("client")
    connection.receive(pack(measured))
    assert [message for message, _ in connection.messages()] == [measured]


def test_measure_of_an_idle_host_is_a_reply(hub: Hub) -> None:
    measured = hub.measure(1)
    assert isinstance(measured, Measured)
    assert (measured.accounts, measured.clients, measured.used) == ((), 0, 0)
