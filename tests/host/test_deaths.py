"""Processes that end, and those who hear of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shmhost.serving.deaths import Deaths
from support import count_descriptors

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-S", "-c", "input()"]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    yield running
    for process in running:
        process.communicate()


class Watched:
    """Some processes that are watched, and those that are said to have ended, by their index."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.deaths = Deaths()
        self.pidfds = [os.pidfd_open(process.pid) for process in processes]
        self.news: list[int] = []
        self.changed = asyncio.Event()
        for index, pidfd in enumerate(self.pidfds):
            self.deaths.watch(pidfd, lambda index=index: self._tell(index))  # type: ignore[misc]

    def _tell(self, index: int) -> None:
        self.news.append(index)
        self.deaths.forget(self.pidfds[index])
        self.changed.set()

    async def more(self) -> None:
        await asyncio.wait_for(self.changed.wait(), 20)
        self.changed.clear()


async def test_each_end_is_told_once(processes: list[subprocess.Popen[bytes]]) -> None:
    before = count_descriptors() - len(processes)  # whose pipes are closed below
    watched = Watched(processes)
    await asyncio.sleep(0)
    assert watched.news == []
    for index in (1, 0, 2):
        processes[index].communicate(b"\n")
        await watched.more()
    assert watched.news == [1, 0, 2]
    watched.deaths.close()
    assert count_descriptors() == before


async def test_what_is_forgotten_is_not_told_though_a_child_has_a_copy(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    watched = Watched(processes)
    copy = os.dup(watched.pidfds[0])  # as a forked child has: the kernel would watch it on
    watched.deaths.forget(watched.pidfds[0])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(watched.pidfds[0])
    for index in (0, 1):
        processes[index].communicate(b"\n")
    await watched.more()
    assert watched.news == [1]
    assert watched.deaths._epoll.poll(0) == []  # nothing has the loop look again and again
    os.close(copy)
    watched.deaths.close()


async def test_one_that_another_has_forgotten_in_the_same_turn_is_not_told(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    deaths, news, is_told = Deaths(), [], asyncio.Event()
    pidfds = [os.pidfd_open(process.pid) for process in processes[:2]]

    def tell(pidfd: int) -> None:
        news.append(pidfd)
        for each in pidfds:
            deaths.forget(each)
        is_told.set()

    for pidfd in pidfds:
        deaths.watch(pidfd, lambda pidfd=pidfd: tell(pidfd))  # type: ignore[misc]
    for process in processes[:2]:
        process.communicate(b"\n")
    await asyncio.wait_for(is_told.wait(), 20)
    await asyncio.sleep(0)
    assert len(news) == 1
    deaths.close()


async def test_closing_closes_all(processes: list[subprocess.Popen[bytes]]) -> None:
    before = count_descriptors()
    watched = Watched(processes)
    watched.deaths.close()
    assert count_descriptors() == before
