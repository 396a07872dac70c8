"""Long work is done in slices, in order, and others go first between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from shmhost.serving.chores import Chores


def later(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


def work(log: list[str], name: str, steps: int) -> Iterator[None]:
    for number in range(steps):
        log.append(f"{name}{number}")
        yield


def test_short_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmhost.serving.chores.SLICE_NS", 10**10)

    async def main() -> None:
        log: list[str] = []
        Chores().add(work(log, "a", 2), later)
        assert log == ["a0", "a1"]

    asyncio.run(main())


def test_long_work_lets_others_go_first_and_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmhost.serving.chores.SLICE_NS", -1)  # each step is a slice

    async def main() -> None:
        chores, log = Chores(), list[str]()
        chores.add(work(log, "a", 3), later)
        chores.add(work(log, "b", 2), later)
        assert log == ["a0"]
        while len(log) < 5:
            await asyncio.sleep(0)
            log.append("other") if len(log) == 2 else None
        assert log == ["a0", "a1", "other", "a2", "b0"]
        await asyncio.sleep(0)
        assert log[5:] == ["b1"]

    asyncio.run(main())


def test_work_that_fails_is_logged_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Iterator[None]:
        yield
        raise ValueError("a bug")

    async def main() -> None:
        chores, log = Chores(), list[str]()
        chores.add(fail(), later)
        chores.add(work(log, "a", 1), later)
        assert log == ["a0"]

    asyncio.run(main())
    assert "a bug" in caplog.text
