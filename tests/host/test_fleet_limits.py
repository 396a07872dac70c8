"""The limits of what a host holds for others: how much, and how long."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet_parts import OWN, sharing_parts
from shmhost.core.accounts import Accounts
from shmhost.core.registry import Registry
from shmhost.core.resources import Totals
from shmhost.core.window import STEP, Span
from shmhost.fleet import joining, service
from shmhost.fleet import sharing as sharing_module
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.claims import Claims
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import MAX_QUESTION, MAX_TOLD, MAX_UNANSWERED, Engine
from shmhost.fleet.members import Members
from shmhost.fleet.messages import FORM, Card
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.sharing import Known, Sharing
from shmhost.fleet.threads import Threads

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

PLAN = FleetConfig("fleet.toml", "test", "a", imports=("models/",))
OTHER = "b" * 32
X = Announcement("models/x", 1, (1 << 40) + 40 * STEP, 5000, 1, 5000, 0, 0, 0, 0, 1, 0o644, "root", b"t" * 32)


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return self


def card(address: str) -> Card:
    return Card(FORM, address, address[0], (), 8, 4096, (1, 0), None, False, 0)


def test_object_of_a_transfer_that_ends_while_it_is_made_is_closed() -> None:
    has_begun, may_end, was_closed = threading.Event(), threading.Event(), threading.Event()

    def make() -> Any:
        has_begun.set()
        may_end.wait(30)
        return SimpleNamespace(close=was_closed.set)

    async def run() -> None:
        threads = Threads()
        task = asyncio.create_task(threads.make(make))
        await asyncio.to_thread(has_begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        threads.close()

    asyncio.run(run())
    assert was_closed.is_set()


def test_slice_that_a_copy_comes_into_while_it_is_asked_for_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joining, "SETTLE_S", 0.0)
    allocator, claims = SlicedAllocator(((1 << 40, 64 * STEP),), 2), Claims("a" * 16, 2)

    def learn() -> None:
        if claims.claiming is not None and allocator.is_free(0) and allocator.is_free(1):
            part = 32 * STEP * claims.claiming
            assert allocator.claim(Span((1 << 40) + part, STEP)) is not None

    engine: Any = None
    agreeing = joining.Joining(engine, Members(), claims, allocator, OWN).agree(None, learn)
    number = asyncio.run(agreeing)
    allocator.use(number)


def test_copy_that_nobody_can_send_is_not_tried_again_until_somebody_can() -> None:
    async def run() -> None:
        allocator = SlicedAllocator(((1 << 40, 64 * STEP),), 2)
        allocator.use(0)
        registry = Registry(
            allocator, Accounts(Totals(1 << 30), {0}), time.time_ns, lambda each: each.close()
        )
        parts = sharing_parts(PLAN, registry, allocator=allocator)
        sharing = Sharing(parts)
        sharing._has_begun = True
        sharing.known[OTHER[:16]] = Known({"models/x": X})
        sharing.replicas.failed["models/x"] = "no host sends it any more", -1e9
        sharing.beat()
        assert sharing.replicas.pulls == {}
        parts.members.take(card(OWN), card(OTHER), time.monotonic())
        sharing.beat()
        assert list(sharing.replicas.pulls) == ["models/x"]
        await sharing.close()

    asyncio.run(run())


def test_host_that_was_not_heard_of_for_longest_is_forgotten_unless_its_copies_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing_module, "MAX_HOSTS", 3)

    async def run() -> tuple[list[str], dict[str, Any], set[str]]:
        registry = SimpleNamespace(current={}, regions={})
        parts = sharing_parts(PLAN, registry, start=lambda steps: steps.close())
        sharing = Sharing(parts)
        sharing._has_begun = True
        copy: Any = SimpleNamespace(host="1" * 16)
        sharing.replicas.current["models/x"] = copy
        for number in (1, 2, 3, 2, 4):
            sharing.meet(card(f"{number}" * 32))
            sharing.known[f"{number}" * 16].names[f"models/{number}"] = X
            sharing.replicas.failed[f"models/{number}"] = "it is full", 0.0
            assert not sharing.replicas._slots[f"{number}" * 16].locked()  # it has had a transfer
        sharing.replicas.current.clear()
        await sharing.close()
        return list(sharing.known), sharing.replicas.failed, set(sharing.replicas._slots)

    hosts, failed, slots = asyncio.run(run())
    assert slots == set(hosts)
    assert hosts == ["1" * 16, "2" * 16, "4" * 16]
    assert set(failed) == {"models/1", "models/2", "models/4"}


def test_long_news_are_not_queued() -> None:
    async def run() -> list[object]:
        events: list[object] = []
        engine = Engine(PLAN, OWN, events.append)
        engine._names.appear(OTHER, "b")
        for size in (MAX_QUESTION, MAX_QUESTION + 1):
            engine._heard(SimpleNamespace(key_expr=f"shmhost/test/news/b/{OTHER}/all", payload=Payload(size)))
        await asyncio.sleep(0)
        engine.close()
        return events

    assert [len(event.data) for event in asyncio.run(run())] == [MAX_QUESTION]  # type: ignore[attr-defined]


def test_questions_that_come_faster_than_they_can_be_refused_are_dropped() -> None:
    """A flood of them would fill the memory with refusals."""
    may_end = threading.Event()

    class Query:
        key_expr, payload = f"shmhost/test/ask/a/{OWN}/b", None

        def __enter__(self) -> None:
            may_end.wait(30)

        def __exit__(self, *_: object) -> None: ...

        def reply_err(self, _text: bytes) -> None: ...

    async def run() -> int:
        engine = Engine(PLAN, OWN, lambda _: None)
        engine._session = SimpleNamespace(close=lambda: None)
        for _ in range(MAX_UNANSWERED + 100):
            engine._asked(Query())
        work = engine._work
        may_end.set()
        engine.close()
        return work

    assert asyncio.run(run()) == MAX_UNANSWERED + 1


def test_messages_that_come_faster_than_the_links_take_them_are_dropped_but_for_cards() -> None:
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
    may_go_on = threading.Event()
    sent: list[bytes] = []

    def put(_key: str, data: bytes, **_: object) -> None:
        may_go_on.wait(30)
        sent.append(data)

    async def run() -> int:
        engine = Engine(PLAN, OWN, lambda _: None)
        engine._session = SimpleNamespace(close=lambda: None, put=put)
        for _ in range(MAX_TOLD + 100):
            engine.tell(b"news")
        engine.tell(b"card", is_card=True)
        may_go_on.set()
        engine._news.shutdown(wait=True)
        assert (engine._told, engine.untold) == (0, 100)
        engine.tell(b"late")  # the threads have ended
        engine.close()
        return engine._told

    assert asyncio.run(run()) == 0
    assert sent == [*[b"news"] * MAX_TOLD, b"card"]


def test_host_goes_on_to_say_that_it_is_there_when_its_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
    monkeypatch.setattr(service, "HEARTBEAT_S", 0.001)

    async def run() -> None:
        said = asyncio.Queue[str]()
        allocator = SlicedAllocator(((1 << 40, 64 * STEP),), 2)
        hub: Any = SimpleNamespace(registry=SimpleNamespace(regions={}))
        host = service.Service(PLAN, hub, allocator, str(tmp_path / "not there" / "socket"))
        host.claims.lost = [1]  # nothing is left there, and that is written
        host._began_s -= service.RETURN_S + 1
        monkeypatch.setattr(host.engine, "tell", lambda _, peer, is_card: said.put_nowait(peer))
        beating = asyncio.create_task(host._beat())
        for _ in range(2):
            assert await asyncio.wait_for(said.get(), 30) == "all"
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await host.close()

    asyncio.run(run())
