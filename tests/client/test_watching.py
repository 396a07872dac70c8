"""Watches over hosts that go and come back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmclient
import shmclient.aio
from shmprotocol.wire.query import Query
from support import Machine, WatchedHost, drop_clients, put_values, wait_until


def seen(changes: Iterator[shmclient.Change], count: int) -> list[tuple[str, str]]:
    return [(change.kind, change.info.name) for change in itertools.islice(changes, count)]


def test_watch_tells_what_changed_while_there_was_no_host(machine: Machine) -> None:
    put_values(machine.path, gone=b"1", back=b"1")
    with shmclient.connect(machine.path) as shm, shm.watch(wait=60) as changes, ThreadPoolExecutor() as pool:
        put_values(machine.path, told=b"1")
        assert seen(changes, 1) == [("published", "told")]
        machine.kill()
        machine.start()
        put_values(machine.path, back=b"2", new=b"1")
        events = pool.submit(seen, changes, 5)
        wait_until(lambda: _listens(machine.path))
        put_values(machine.path, live=b"1")
        changed = events.result(30)
        assert sorted(name for kind, name in changed if kind == "published") == ["back", "live", "new"]
        assert [name for kind, name in changed if kind == "unlinked"] == ["gone", "told"]  # after some grace


def _listens(path: str) -> bool:
    with Query(path) as query:
        return query.measure().listeners > 0


def test_watch_tells_what_changed_while_the_connection_was_broken(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    with shmclient.connect(host.socket_path) as other:
        for name in ("same", "gone", "again", "mode"):
            other.put(name, b"1").close()
        with shm.watch(wait=60) as changes:
            drop_clients(host)
            for name in ("again", "again", "passing"):
                other.put(name, b"2").close()
            other.unlink("passing")
            other.unlink("gone")
            other.chmod("mode", 0o640)
            assert seen(changes, 3) == [("unlinked", "gone"), ("published", "again"), ("changed", "mode")]
            other.chmod("same", 0o640)
            assert seen(changes, 1) == [("changed", "same")]


@pytest.mark.parametrize("is_read", [True, False])
def test_watch_tells_first_what_came_before_the_host_went(machine: Machine, is_read: bool) -> None:
    with shmclient.connect(machine.path) as shm, shm.watch(wait=60) as changes:
        put_values(machine.path, x=b"1")
        if is_read:
            shm.list()
        machine.kill()
        assert seen(changes, 1) == [("published", "x")]
        machine.start()
        assert seen(changes, 1) == [("unlinked", "x")]


@pytest.mark.parametrize("restarts", [True, False])
def test_request_after_a_restart_succeeds_though_events_are_unread(machine: Machine, restarts: bool) -> None:
    with shmclient.connect(machine.path) as shm, shm.watch():
        put_values(machine.path, x=b"1")  # its event is not read by anybody
        if restarts:
            machine.restart()
        shm.put("y", b"1").close()


def test_watch_without_wait_ends_with_its_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.watch() as changes:
        machine.kill()
        with pytest.raises(shmclient.HostGone):
            next(changes)
        machine.start()
        put_values(machine.path, x=b"1")
        with pytest.raises(shmclient.HostGone):
            next(changes)


def test_watch_ends_its_wait_for_a_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.watch(wait=0.05) as changes:
        machine.kill()
        with pytest.raises(shmclient.WaitTimeout, match="no host answered"):
            next(changes)
        machine.start()
        put_values(machine.path, x=b"1")
        assert seen(changes, 1) == [("published", "x")]


@pytest.mark.anyio
async def test_async_watch_goes_on_over_a_killed_host(machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm, ashm.watch(wait=60) as changes:
        (await ashm.put("x", b"1")).close()
        assert (await anext(changes)).kind == "published"
        machine.kill()
        machine.start()
        (await ashm.put("y", b"1")).close()
        later = [(await anext(changes)).kind for _ in range(2)]
        assert later == ["published", "unlinked"]  # a name may come back, for some time
