"""A reference on its way keeps its region, whatever becomes of its sender, and no longer than it must."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmclient
from reference_support import forget_references
from shmclient._drivers.references import TRANSIT
from shmhost.core.keeping import KEPT_S
from shmhost.testing import HostProcess
from support import WatchedHost, in_child, needs_root, wait_until
from takeover_support import line_of_hosts

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    forget_references()


def send(path: str, pipe: Any, *, is_killed: bool) -> None:
    """Put an array, send a reference to a part of it, unlink it, and end."""
    with shmclient.connect(path) as shm:
        shm.put("x", np.arange(10.0)).close()
        pipe.send_bytes(pickle.dumps(shmclient.reference(shm.get("x")[2:])))
        shm.unlink("x")
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)


def sent_by_another(path: str, *, is_killed: bool = False) -> bytes:
    """Return a reference whose sender has ended."""
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=send, args=(path, writer), kwargs={"is_killed": is_killed})
    process.start()
    writer.close()
    data = reader.recv_bytes()
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if is_killed else 0)
    return data


@pytest.mark.parametrize("is_killed", [False, True], ids=["ends", "is killed"])
def test_reference_outlives_its_sender(host: WatchedHost, is_killed: bool) -> None:
    sent = sent_by_another(host.socket_path, is_killed=is_killed)
    wait_until(lambda: host.counts()["links"] == 0)
    array = pickle.loads(sent)
    assert array.tolist() == list(range(2, 10))
    assert host.counts()["leases"] == 1  # the array's
    del array
    host.settle()


def put_and_end(path: str, queue: Any) -> None:
    with shmclient.connect(path) as shm:
        region = shm.put("x", np.arange(10.0))
        queue.put(region)
        queue.put(shmclient.reference(shm.get("x")))
    queue.close()
    queue.join_thread()
    shm = shmclient.connect(path)
    shm.unlink("x")


def test_process_ends_right_after_it_has_put_into_a_queue(host: WatchedHost) -> None:
    queue: Any = SPAWN.Queue()
    process = SPAWN.Process(target=put_and_end, args=(host.socket_path, queue))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    with queue.get(timeout=60) as region:
        assert region.value().sum() == 45
    assert queue.get(timeout=60).sum() == 45
    queue.close()
    queue.join_thread()


def test_each_pickle_keeps_the_region_until_it_is_loaded(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.put("x", np.arange(10.0)) as region:
        first, second = pickle.dumps(region), pickle.dumps(region)
        before = host.counts()
        for _ in range(100):
            pickle.loads(pickle.dumps(region)).close()
        after = host.counts()
    assert (after["leases"], after["descriptors"]) == (before["leases"], before["descriptors"])
    shm.unlink("x")
    for sent in (first, second):
        with pickle.loads(sent) as got:
            assert got.value().sum() == 45
    host.settle()
    with pytest.raises(shmclient.RegionNotFound, match=r"region 'x', generation 1 is gone.*loaded, once"):
        pickle.loads(second)


def test_reference_that_nobody_loads_is_dropped_in_the_end(host: WatchedHost, shm: shmclient.Client) -> None:
    keeping = host.host._hub.keeping
    with shm.put("x", np.arange(10.0)) as region:
        pickle.dumps(region)
    shm.unlink("x")
    host.settle(leases=1)
    now_ns = keeping.clock()
    for late_ns, left in ((-(10**9), 1), (10**9, 0)):
        keeping.clock = lambda late_ns=late_ns: now_ns + KEPT_S * 10**9 + late_ns
        host.call(lambda: list(keeping.expiring()))
        assert host.counts()["leases"] == left


def test_host_looks_by_itself_for_what_is_over(
    monkeypatch: pytest.MonkeyPatch, host: WatchedHost, shm: shmclient.Client
) -> None:
    monkeypatch.setattr("shmhost.core.keeping.KEPT_S", 0)
    monkeypatch.setattr("shmhost.serving.keeping.LOOK_AGAIN_S", 0)
    with shm.put("x", np.arange(10.0)) as region:
        pickle.dumps(region)
    shm.unlink("x")
    host.settle()


def test_reference_crosses_a_takeover_without_its_sender(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h") as line:
        sent = sent_by_another(line.path)
        for _ in range(2):
            line.take_over()
        assert pickle.loads(sent).tolist() == list(range(2, 10))
        with pytest.raises(shmclient.RegionNotFound):
            pickle.loads(sent)


def test_reference_that_is_pickled_without_a_host_is_kept_by_its_sender() -> None:
    with HostProcess() as host, shmclient.connect(host.socket_path) as shm:
        array = shm.put("x", np.arange(10.0)).value()
        host.kill()
        sent = pickle.dumps(shmclient.reference(array))
        del array
        assert len(TRANSIT._kept) == 1
        host.start()
        shm.get("x", wait=30)
        assert pickle.loads(sent).sum() == 45


@needs_root
def test_another_user_does_not_take_what_is_kept_for_this_one(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    os.chmod(host.socket_path, 0o666)
    with shm.put("x", np.arange(10.0), mode=0o644) as region:
        sent = pickle.dumps(region)
    shm.unlink("x")

    def load() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        pickle.loads(sent).close()

    in_child(load)
    with pickle.loads(sent) as got:
        assert got.value().sum() == 45


def test_user_without_leases_keeps_the_region_at_the_sender(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.put("x", np.arange(10.0)) as region:
        pickle.loads(pickle.dumps(region)).close()  # connects
        host.call(lambda: setattr(host.host._hub.keeping, "keep", refuse))
        sent = pickle.dumps(region)
    with pickle.loads(sent) as got:
        assert got.value().sum() == 45


def refuse(*_: object) -> None:
    raise shmclient.QuotaExceeded("no more leases")
