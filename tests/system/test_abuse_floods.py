"""Clients of another user that do what they can to hurt others: nobody else fails, nothing is left of them.

`make abuse` measures how much longer a bystander waits beside each of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

import shmclient
from benchmarks.abuse import kinds
from benchmarks.abuse.kinds import KINDS, NAMES, PUBLIC, Abuser
from shmprotocol.errors import RegionNotFound
from support import WatchedHost, needs_root, wait_until

NOBODY = 65534
ATTACHES = 40  # of the bystander, beside each abuser


@contextlib.contextmanager
def abused(kind: Abuser, path: str) -> Iterator[None]:
    """Let another user abuse a host during the block; return when its processes are gone."""
    begun, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            _abuse(kind, path, begins)
        os._exit(1)
    os.close(begins)
    try:
        assert os.read(begun, 1) == b"."
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the abuser ended by itself"
    finally:
        os.close(begun)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _abuse(kind: Abuser, path: str, begins: int) -> None:
    is_told = False
    while True:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(kind(path)) as steps:
            for _ in steps:
                if not is_told:
                    os.write(begins, b".")
                    is_told = True


@needs_root
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bystander_is_served_and_nothing_is_left_of_its_abuser(
    kind: Abuser, open_host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "HOLD_S", 0.001)
    with shmclient.connect(open_host.socket_path) as shm:
        for name in (PUBLIC, *NAMES):
            shm.put(name, b"for all", mode=0o644).close()
        shm.put("own", bytes(1 << 20)).close()
        shm.list()
        before = open_host.counts()
        with abused(kind, open_host.socket_path):
            for number in range(ATTACHES):
                region = shm.open("own")
                assert bytes(region.data[:1]) == b"\0"
                region.close()
                if number % 8 == 0:
                    shm.put("value", b"%d" % number).close()
                    assert bytes(shm.get("value")) == b"%d" % number
        shm.unlink("value")

        def is_back() -> bool:
            for info in shm.list():  # what an abuser has published stays, perhaps a moment after its end
                if info.uid == NOBODY:
                    with contextlib.suppress(RegionNotFound):  # which ends by itself, such as an arena
                        shm.unlink(info.name)
            return open_host.is_back_at(before)

        wait_until(is_back, shown=lambda: (before, open_host.counts()))
