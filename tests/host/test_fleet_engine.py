"""The queue between the threads of zenoh and the loop: bounded, and never silently."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import MAX_QUEUE, Engine
from shmhost.fleet.events import Absent, Event, Lost, News, Present
from shmhost.fleet.names import MAX_HOSTS

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
OTHER = "a" * 32


def news(key: str) -> SimpleNamespace:
    """Return what zenoh gives for a message."""
    payload = type("Payload", (), {"to_bytes": lambda _: b"x", "__len__": lambda _: 1})
    return SimpleNamespace(key_expr=key, payload=payload())


def test_messages_over_the_limit_are_dropped_with_a_word_and_hosts_that_come_are_not() -> None:
    events: list[Event] = []

    async def run() -> None:
        has_lost = asyncio.Event()

        def handle(event: Event) -> None:
            events.append(event)
            if isinstance(event, Lost):
                has_lost.set()

        engine = Engine(FleetConfig("", "test", "me"), "0" * 32, handle)
        for _ in range(MAX_QUEUE + 10):
            engine._heard(news(f"shmhost/test/news/other/{OTHER}/all"))
        engine._put(Present("b" * 32))
        await asyncio.wait_for(has_lost.wait(), 30)

    asyncio.run(run())
    assert events.count(News(OTHER, b"x")) == MAX_QUEUE
    assert [event for event in events if not isinstance(event, News)] == [Present("b" * 32), Lost()]


def test_news_in_the_name_of_another_host_are_not_taken() -> None:
    events: list[Event] = []

    async def run() -> None:
        engine = Engine(FleetConfig("", "test", "me"), "0" * 32, events.append)
        for name in ("other", "evil", "other"):
            engine._heard(news(f"shmhost/test/news/{name}/{OTHER}/all"))
        engine._heard(news(f"shmhost/test/news/me/{'0' * 32}/all"))
        await asyncio.sleep(0)
        assert engine.name_of(OTHER) == "other"

    asyncio.run(run())
    assert events == [News(OTHER, b"x")] * 2


def test_host_that_gives_its_place_to_another_is_gone() -> None:
    events: list[Event] = []

    async def run() -> None:
        engine = Engine(FleetConfig("", "test", "me"), "0" * 32, events.append)
        for number in range(MAX_HOSTS + 1):
            engine._heard(news(f"shmhost/test/news/evil/{number + 1:032x}/all"))
            for _ in range(2):
                await asyncio.sleep(0)
        assert engine.name_of(f"{1:032x}") == ""

    asyncio.run(run())
    assert [event for event in events if not isinstance(event, News)] == [Absent(f"{1:032x}")]
