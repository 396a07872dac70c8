"""What hosts have, all of it: pages of names, and what comes after an answer that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest

from shmhost.fleet import catalogue
from shmhost.fleet.announcements import PAGE_NAMES, Known
from shmhost.fleet.catalogue import Pages, Reading
from shmhost.fleet.messages import pack

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

OTHER = "b" * 32


class Names:
    """Names, and how often they were asked for."""

    def __init__(self, count: int) -> None:
        self.names = {f"{number:06}" for number in range(count)}
        self.times = 0

    def __call__(self) -> set[str]:
        self.times += 1
        return self.names


def read(pages: Pages, **rights: Any) -> Iterator[list[str]]:
    after, is_first = "", True
    while is_first or after:
        names, after = pages.page(after, rights.get("may", lambda _: True))
        yield names
        is_first = False


@pytest.mark.parametrize("count", [0, 1, PAGE_NAMES, PAGE_NAMES + 1, 5 * PAGE_NAMES])
def test_all_names_come_in_order_and_are_sorted_once(count: int) -> None:
    names = Names(count)
    several = list(read(Pages(names)))
    assert list(chain.from_iterable(several)) == sorted(names.names)
    assert len(several) == max(1, -(-count // PAGE_NAMES))
    assert names.times == 1


def test_names_that_an_asker_may_not_know_do_not_come() -> None:
    several = list(read(Pages(Names(5 * PAGE_NAMES)), may=lambda name: name.endswith("0")))
    assert [len(names) for names in several] == [PAGE_NAMES // 2]


def test_whoever_goes_on_after_another_has_begun_gets_all_names() -> None:
    names = Names(3 * PAGE_NAMES)
    pages = Pages(names)
    first = read(pages)
    begun = next(first)
    names.names = {*names.names, "000000a", "999999"}
    next(read(pages))
    assert {*begun, *chain.from_iterable(first)} == names.names - {
        "000000a"
    }  # which its host tells of by news


def test_names_are_sorted_for_who_goes_on_with_a_host_that_has_restarted() -> None:
    assert Pages(Names(3)).page("000001", lambda _: True) == (["000002"], "")


def test_host_whose_later_page_is_wrong_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue, "FIRST_S", 0.001)
    answers = [pack(7, "a", ()), b"\xc1", pack(7, "a", ()), pack(7, "", 5), pack(8, "a", ()), pack(8, "", ())]
    record = Known()

    async def ask(*_: object) -> bytes:
        return answers.pop(0)

    async def run() -> None:
        tasks: list[asyncio.Task[None]] = []
        service: Any = SimpleNamespace(
            engine=SimpleNamespace(ask=ask),
            members=SimpleNamespace(present={OTHER}),
            address="a" * 32,
            plan=SimpleNamespace(fleet="test"),
            start=lambda steps: tasks.append(asyncio.ensure_future(steps)),
        )
        reading = Reading(service, lambda *_: None, lambda *_: None)
        reading.start(OTHER, record)
        reading.start(OTHER, record)  # it is being read
        (task,) = tasks
        await asyncio.wait_for(task, 30)

    asyncio.run(run())
    assert answers == []
    assert (record.news, record.is_behind) == (8, False)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        f"fleet test: ignored what {OTHER}"[:50],
        f"fleet test: ignored what {OTHER}"[:50],
    ]
