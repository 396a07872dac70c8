"""Forks: mappings are inherited, connections are not, and no lock is held across."""

from __future__ import annotations

import gc
import os
import signal
import threading

import numpy as np
import pytest

import shmclient
from shmclient._process import fork
from shmclient._regions.builder import abort
from support import WatchedHost, in_child, wait_until


def test_child_reads_what_the_parent_mapped(shm: shmclient.Client) -> None:
    shm.put("x", np.arange(100)).close()
    value = shm.get("x")

    def read() -> None:
        assert value.sum() == 4950

    assert in_child(read) == 0


def test_child_has_a_connection_of_its_own(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value, address = shm.get("x"), shm.open("x").address
    reader, writer = os.pipe()

    def use() -> None:
        assert bytes(shm.get("x")) == b"1"
        assert shm.open("x").address == address
        shm.put("from the child", b"2").close()
        os.read(reader, 1)

    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os.close(writer)
        code = 1
        try:
            use()
            code = 0
        finally:
            os._exit(code)
    os.close(reader)
    wait_until(lambda: [info.name for info in shm.list()] == ["from the child", "x"])
    assert host.counts()["links"] == 2
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until(lambda: host.counts()["links"] == 1)
    assert bytes(value) == b"1"


def test_childs_exit_never_frees_the_parents_leases(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value, region = shm.get("x"), shm.open("x")
    before = host.counts()

    def drop_everything() -> None:
        nonlocal value, region
        region.close()
        del value, region
        gc.collect()
        shm.close()

    assert in_child(drop_everything) == 0
    assert in_child(lambda: None) == 0
    wait_until(lambda: host.counts() == before)
    assert bytes(value) == b"1"
    assert region.is_current()


def test_child_can_unmap_and_map_again(shm: shmclient.Client) -> None:
    shm.put("x", b"1234").close()
    value = shm.get("x")

    def remap() -> None:
        nonlocal value
        del value
        gc.collect()
        again = shm.get("x")
        assert bytes(again) == b"1234"

    assert in_child(remap) == 0
    assert bytes(value) == b"1234"


def test_child_cannot_publish_what_the_parent_builds(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        builder.data[:6] = b"parent"
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            code = 1
            try:
                abort(builder)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bytes(shm.get("x")[:6]) == b"parent"


def test_leaving_the_block_in_the_child_is_host_gone(shm: shmclient.Client) -> None:
    context = shm.create("x", 100)
    context.__enter__()

    def leave() -> None:
        with pytest.raises(shmclient.HostGone, match="parent process"):
            context.__exit__(None, None, None)

    assert in_child(leave) == 0
    context.__exit__(None, None, None)
    assert [info.name for info in shm.list()] == ["x"]


def test_child_of_a_child_works_too(shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()

    def once_more() -> None:
        assert bytes(shm.get("x")) == b"1"
        assert in_child(lambda: shm.get("x")) == 0

    assert in_child(once_more) == 0


def test_forks_in_the_middle_of_requests_never_hang(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                shm.put(f"t/{number}", b"1").close()
                shm.get("x")
                shm.list()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()

    def use() -> None:
        assert bytes(shm.get("x")) == b"1"

    try:
        assert [in_child(use) for _ in range(40)] == [0] * 40
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    wait_until(lambda: host.counts()["links"] == 1)
    wait_until(lambda: host.counts()["leases"] == 0)


@pytest.mark.parametrize("owner", ["channel", "outbox"])
def test_lock_of_another_thread_is_free_in_the_child(owner: str, shm: shmclient.Client) -> None:
    channel = shm._core.channel
    assert channel is not None
    lock = channel._lock if owner == "channel" else channel.outbox._gate.lock
    is_held, may_go_on = threading.Event(), threading.Event()
    changes, context = shm.watch(), shm.create("x", 100)
    context.__enter__()

    def hold() -> None:
        with lock:
            is_held.set()
            may_go_on.wait(30)

    def leave() -> None:
        changes.close()
        with pytest.raises(shmclient.HostGone, match="parent process"):
            context.__exit__(None, None, None)
        shm.close()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(30)
    try:
        assert in_child(leave) == 0
    finally:
        may_go_on.set()
        thread.join()
    context.__exit__(None, None, None)
    assert next(changes).info.name == "x"


def test_parents_death_is_seen_although_its_child_lives(host: WatchedHost) -> None:
    reader, writer = os.pipe()

    def parent() -> None:
        shm = shmclient.connect(host.socket_path)
        shm.put("x", b"1").close()
        value = shm.get("x")
        if os.fork() == 0:
            signal.alarm(30)
            os.close(writer)
            os.read(reader, 1)  # holds the mapping, has no connection
            assert bytes(value) == b"1"
        os._exit(0)

    in_child(parent)
    os.close(reader)
    wait_until(lambda: host.counts()["links"] == 0)
    assert host.counts()["leases"] == 0
    os.close(writer)


def test_hook_that_comes_during_a_fork_is_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def bring_another() -> None:
        calls.append("before")
        fork.at_fork(fork.INNER, lambda: calls.append("late"), lambda: calls.append("late in parent"))

    monkeypatch.setattr(fork, "_hooks", fork._hooks)
    fork.at_fork(fork.INNER, bring_another, lambda: calls.append("in parent"), lambda: None)
    assert in_child(lambda: None) == 0
    assert calls == ["before", "in parent"]
