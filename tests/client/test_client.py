"""What users of a client rely on: names, waiting, lists, threads, and a host that goes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmclient
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import HEADER_SIZE
from support import (
    WatchedHost,
    count_descriptors,
    serve,
    wait_until,
    watched_host,
)


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "ä" * 128, "..", ".", "a/../b", "a\0b", "/a", "a//b", "a/", "a\nb", "\ud800"]
)
def test_names_are_refused_that_are_none(name: str, shm: shmclient.Client) -> None:
    for use in (lambda: shm.put(name, b""), lambda: shm.get(name), lambda: shm.stat(name)):
        with pytest.raises(shmclient.InvalidArgument):
            use()


@pytest.mark.parametrize("name", ["x", "x" * 255, "a/b/c", "ä" * 127, "...", "a b", "-"])
def test_names_are_taken_up_to_the_limit(name: str, shm: shmclient.Client) -> None:
    shm.put(name, b"1").close()
    assert [info.name for info in shm.list()] == [name]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1"])
def test_create_refuses_sizes_that_are_none(size: Any, shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument), shm.create("x", size):
        pass


def test_create_refuses_what_no_window_holds(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.QuotaExceeded, match="window"), shm.create("x", 1 << 60):
        pass


def test_budget_is_kept_to_the_byte(tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "h.sock"), budget=5 * 4096 + REGION_OVERHEAD) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        room = 5 * 4096 - HEADER_SIZE - 4096  # the builder's own room for metadata
        with pytest.raises(shmclient.QuotaExceeded, match="--budget"), shm.create("x", room + 1):
            pass
        with shm.create("x", room):
            pass
        with pytest.raises(shmclient.QuotaExceeded):
            shm.put("y", b"1")
        shm.unlink("x")
        gc.collect()
        wait_until(lambda: host.counts()["charged"] == 0)


# --- finding and waiting


def test_get_waits_for_the_name(host: WatchedHost, shm: shmclient.Client) -> None:
    values: list[bytes] = []
    waiter = threading.Thread(target=lambda: values.append(bytes(shm.get("late", wait=30))))
    waiter.start()
    wait_until(lambda: host.counts()["listeners"] == 1)
    assert shm.list() == []  # the same client, while another of its threads waits
    shm.put("late", b"here").close()
    waiter.join()
    assert values == [b"here"]
    assert host.counts()["listeners"] in (0, 1)


@pytest.mark.parametrize("error", [TimeoutError, FileNotFoundError, shmclient.WaitTimeout])
def test_get_gives_up_when_the_time_is_over(
    error: type[Exception], host: WatchedHost, shm: shmclient.Client
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=r"never.*0\.05"):
        shm.get("never", wait=0.05)
    assert time.monotonic() - began >= 0.05
    wait_until(lambda: host.counts()["listeners"] == 0)


def test_missing_name_is_an_error_that_says_so(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionNotFound, match="nothing") as caught:
        shm.get("nothing")
    assert caught.value.errno == 2


@pytest.mark.parametrize("count", [1, 64, 65, 130])
def test_many_regions_are_opened_together(count: int, host: WatchedHost, shm: shmclient.Client) -> None:
    names = [f"x/{number:03}" for number in range(count)]
    for name in names:
        shm.put(name, name.encode()).close()
    regions = shm.open_many(names)
    assert [bytes(region.data) for region in regions] == [name.encode() for name in names]
    assert host.counts()["leases"] == count


def test_no_region_is_opened_when_one_is_missing(host: WatchedHost, shm: shmclient.Client) -> None:
    names = [f"x/{number:03}" for number in range(70)]
    for name in names:
        shm.put(name, b"1").close()
    host.settle()
    before = host.counts()
    with pytest.raises(shmclient.RegionNotFound):
        shm.open_many([*names, "missing"])
    wait_until(lambda: host.counts() == before)


def test_list_is_complete_and_sorted_over_several_pages(shm: shmclient.Client) -> None:
    names = sorted([f"a/{number}" for number in range(1100)] + ["b", "A"])
    for name in names:
        shm.put(name, b"1").close()
    assert [info.name for info in shm.list()] == names
    assert [info.name for info in shm.list("a/99")] == [name for name in names if name.startswith("a/99")]


def test_watch_tells_of_each_change(shm: shmclient.Client) -> None:
    with shm.watch("w/") as changes:
        shm.put("w/x", b"1").close()
        shm.put("other", b"1").close()
        shm.chmod("w/x", 0o644)
        shm.unlink("w/x")
        events = [next(changes) for _ in range(3)]
    assert [(change.kind, change.info.name) for change in events] == [
        ("published", "w/x"),
        ("changed", "w/x"),
        ("unlinked", "w/x"),
    ]
    assert events[1].info.mode == 0o644


# --- when the host is not there


def test_connect_names_socket_and_cure_when_no_host_runs(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with pytest.raises(ConnectionError, match="shmhost serve") as caught:
        shmclient.connect(path)
    assert isinstance(caught.value, shmclient.HostGone)
    assert str(path) in str(caught.value)


def test_client_comes_back_by_itself_when_the_host_does(tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    with watched_host(path):
        shm = shmclient.connect(path)
        shm.put("x", b"before").close()
        view = shm.get("x")
    with pytest.raises(shmclient.HostGone):
        shm.get("y")
    assert bytes(shm.get("x")) == bytes(view) == b"before"
    with watched_host(path):
        with pytest.raises(shmclient.RegionNotFound):
            shm.stat("x")
        with pytest.raises(shmclient.RegionNotFound):
            shm.get("x")
        shm.put("y", b"after").close()
        assert [info.name for info in shm.list()] == ["y"]
        assert bytes(view) == b"before"
        shm.close()


def test_closed_client_says_so(shm: shmclient.Client) -> None:
    shm.close()
    with pytest.raises(shmclient.ClientClosed, match="client is closed"):
        shm.list()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e12])
def test_connect_refuses_timeouts_that_are_none(timeout: float, host: WatchedHost) -> None:
    with pytest.raises(shmclient.InvalidArgument):
        shmclient.connect(host.socket_path, timeout=timeout)


def test_stopped_host_is_a_timeout_and_the_late_reply_leaks_nothing(tmp_path: Path) -> None:
    import signal

    child = serve(tmp_path / "h.sock")
    try:
        with shmclient.connect(tmp_path / "h.sock", timeout=1) as shm:
            shm.put("x", b"1").close()
            descriptors = count_descriptors()
            child.send_signal(signal.SIGSTOP)
            with pytest.raises(shmclient.HostTimeout):
                shm.open("x")
            child.send_signal(signal.SIGCONT)
            wait_until(lambda: _leases(shm) == 0)
            assert count_descriptors() == descriptors
    finally:
        child.kill()
        child.communicate()


def _leases(shm: shmclient.Client) -> int:
    try:
        return shm.stat("x").leases
    except shmclient.HostTimeout:
        return -1


# --- many at once


def test_threads_share_a_client(host: WatchedHost, shm: shmclient.Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                value = np.full(50, number * 1000 + turn)
                shm.put(f"t/{number}", value).close()
                assert (shm.get(f"t/{number}") == value).all()
                shm.list("t/")
                with pytest.raises(shmclient.WaitTimeout):
                    shm.get(f"never/{number}", wait=0.001)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_until(lambda: host.counts()["leases"] == 0)


CHECKING_READER = """
import sys, zlib
import shmclient
shm = shmclient.connect(sys.argv[1])
seen = set()
while True:
    value = shm.get("shared", wait=20)
    body, checksum = value["body"], int.from_bytes(value["checksum"], "little")
    assert zlib.crc32(body) == checksum
    seen.add(checksum)
    if bytes(value["last"]) == b"1":
        break
"""


def test_readers_never_see_a_mixture_while_a_publisher_replaces(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    import zlib

    readers = [
        subprocess.Popen([sys.executable, "-c", CHECKING_READER, host.socket_path], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    wait_until(lambda: host.counts()["listeners"] == 3)
    for turn in range(200):
        body = os.urandom(20_000)
        checksum = zlib.crc32(body).to_bytes(4, "little")
        shm.put("shared", {"body": body, "checksum": checksum, "last": b"%d" % (turn == 199)}).close()
    for reader in readers:
        _, errors = reader.communicate(timeout=50)
        assert (reader.returncode, errors) == (0, b"")
    wait_until(lambda: host.counts()["regions"] == 1)


def test_two_creators_of_one_name_do_not_mix(shm: shmclient.Client) -> None:
    with shm.create("x", 100), pytest.raises(shmclient.RegionBusy, match="being created"):
        shm.put("x", b"1")


def test_put_leaves_what_is_there_when_it_may_not_replace(shm: shmclient.Client) -> None:
    shm.put("x", b"1", replace=False).close()
    with pytest.raises(FileExistsError):
        shm.put("x", b"2", replace=False)
    assert bytes(shm.get("x")) == b"1"


# --- descriptors of one region


@pytest.mark.parametrize("prefix", [5, None, b"bytes", "x" * 256, "\udc80"])
def test_prefix_that_no_name_has_is_refused_and_the_connection_lives(
    prefix: Any, shm: shmclient.Client
) -> None:
    shm.put("x", b"1")
    with pytest.raises(shmclient.InvalidArgument, match="a prefix"):
        shm.list(prefix)
    with pytest.raises(shmclient.InvalidArgument, match="a prefix"):
        shm.watch(prefix)
    assert bytes(shm.get("x")) == b"1"
