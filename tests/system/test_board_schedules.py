"""The board under random schedules, and under a host that dies at its worst moment."""

from __future__ import annotations

import gc
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import shmclient
from support import serve, wait_until, watched_host


class Schedule:
    """Writers and readers of few names, each in a thread with a client and dice of its own."""

    def __init__(self, path: str) -> None:
        self.seed = random.randrange(2**32)
        self.errors: list[BaseException] = []
        self._path = path
        self._lock = threading.Lock()
        self._published: dict[str, int] = {}  # the newest value that is known to be there, by name

    def run(self, writers: int, readers: int) -> None:
        """Run them all to their end."""
        threads = [threading.Thread(target=self._guarded, args=(self._write, n)) for n in range(writers)]
        threads += [threading.Thread(target=self._guarded, args=(self._read, n)) for n in range(-readers, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    def _guarded(self, work: Callable[[shmclient.Client, int, random.Random], None], number: int) -> None:
        try:
            with shmclient.connect(self._path) as shm:
                work(shm, number, random.Random(self.seed + number))
        except BaseException as error:
            self.errors.append(error)

    def _write(self, shm: shmclient.Client, number: int, dice: random.Random) -> None:
        for count in range(1, 300):
            name = f"{number}/{dice.randrange(4)}"
            if dice.random() < 0.25:
                with self._lock:
                    self._published.pop(name, None)
                if name in shm:
                    shm.unlink(name)
            else:
                shm.put(name, f"{name} {count}".encode()).close()
                with self._lock:
                    self._published[name] = count

    def _read(self, shm: shmclient.Client, number: int, dice: random.Random) -> None:
        held: list[object] = []
        for _ in range(1500):
            name = f"{dice.randrange(2)}/{dice.randrange(4)}"
            with self._lock:
                least = self._published.get(name, 0)
            try:
                value = shm.get(name)
            except shmclient.RegionNotFound:
                continue
            title, count = bytes(value).decode().split()
            assert title == name, f"seed {self.seed}"
            assert int(count) >= least, f"seed {self.seed}: {name} {count} < {least}"
            held.append(value)
            if dice.random() < 0.3:
                del held[: dice.randrange(len(held) + 1)]


def test_random_schedules_never_see_another_name_or_an_older_value(tmp_path: Path) -> None:
    """Few lines for many names, so that lines change hands all the time."""
    path = str(tmp_path / "h.sock")
    with watched_host(path, board=3) as host:
        schedule = Schedule(path)
        schedule.run(writers=2, readers=3)
        assert not schedule.errors, schedule.errors[0]
        gc.collect()
        wait_until(lambda: host.counts()["leases"] == 0)
        assert host.host._board is not None
        users = host.call(lambda: dict(host.host._board._lines._users))  # type: ignore[union-attr]
        assert sum(users.values()) <= len(host.host.registry.current)


HOST_THAT_DIES = """
import os
from shmhost.core import small_puts
builtins = small_puts.builtins
publish_put = builtins.publish_put
def publish(data, parsed, owner, window, address, number, generation, *rest):
    answer = publish_put(data, parsed, owner, window, address, number, generation, *rest)
    if generation > 2:
        os.kill(os.getpid(), 9)  # said on the board, and no answer
    return answer
builtins.publish_put = publish
"""


def test_a_host_that_dies_between_board_and_answer_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    child = serve(path, HOST_THAT_DIES)
    try:
        with shmclient.connect(str(path)) as shm, shmclient.connect(str(path)) as writer:
            writer.put("x", b"1").close()
            region = writer.put("x", b"2")
            value = shm.get("x")
            with pytest.raises(shmclient.HostGone):
                writer.put("x", b"3")
            assert child.wait(20) == -signal.SIGKILL
            with pytest.raises(shmclient.HostGone):
                shm.get("x")  # the board says that there is a newer one, which nobody has
            with pytest.raises(shmclient.HostGone):
                region.is_current()
            assert bytes(value) == b"2"
    finally:
        child.kill()
        child.communicate()
