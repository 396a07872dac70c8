"""Who is there: what the engine says, and what the news say that it has missed."""

from __future__ import annotations

from shmhost.fleet.members import CERTAIN_S, RECENT_S, SILENT_S, Members
from shmhost.fleet.messages import Card
from shmhost.fleet.names import MAX_HOSTS

ADDRESS = "a" * 32


def card(address: str) -> Card:
    return Card(1, address, "a", ((0, 2**36),), 8, 4096, (1, 0), 0, False, 0)


def test_host_whose_news_go_on_to_come_is_present() -> None:
    members = Members()
    assert not members.hear(ADDRESS, 100.0)
    assert not members.hear(ADDRESS, 100.0 + CERTAIN_S - 0.1)
    assert members.hear(ADDRESS, 100.0 + CERTAIN_S)
    assert members.hear(ADDRESS, 100.0 + CERTAIN_S)
    assert [member.address for member in members.pending()] == [ADDRESS]


def test_late_news_of_a_host_that_is_gone_do_not_bring_it_back() -> None:
    members = Members()
    assert not members.hear(ADDRESS, 100.0)
    assert not members.hear(ADDRESS, 100.0 + RECENT_S + 0.1)
    assert not members.hear(ADDRESS, 100.0 + RECENT_S + 0.2)
    assert members.present == {}


def test_host_is_silent_when_nothing_has_come_for_long() -> None:
    members = Members()
    other = card("b" * 32)
    members.appear(ADDRESS)  # no card of it has come: it is asked for that
    members.take(card("c" * 32), other, 100.0)
    assert members.silent(100.0 + SILENT_S) == []
    assert members.silent(100.0 + SILENT_S + 0.1) == [other.address]


def test_strangers_take_no_memory_without_end() -> None:
    members = Members()
    for number in range(10_000):
        members.hear(f"{number:032x}", 100.0)
    assert len(members._strangers) <= 4096


def test_hosts_that_are_present_take_no_memory_without_end() -> None:
    members = Members()
    for number in range(2 * MAX_HOSTS):
        assert members.appear(f"{number:032x}")
    assert not members.appear(ADDRESS)
    assert members.appear(f"{1:032x}")
    members.hear(ADDRESS, 100.0)
    assert not members.hear(ADDRESS, 100.0 + CERTAIN_S)
    assert len(members.present) == 2 * MAX_HOSTS
