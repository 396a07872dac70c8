"""A client that is killed at any step of a put leaves nothing behind, such as a charge or a spare."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import pytest

import shmclient
from support import WatchedHost, wait_until

PACKAGES = ("/shmclient/", "/shmprotocol/")
STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 9  # of the places to be killed at
LARGE = bytes(100_000)


def put_small(shm: shmclient.Client) -> None:
    shm.put("new", b"1").close()
    with shm.put("new", b"2") as region:
        assert bytes(region.data) == b"2"
    shm.put("new", memoryview(b"3")).close()  # by the plain road


def put_by_a_spare(shm: shmclient.Client) -> None:
    shm.put("new", LARGE).close()


def connect_and_reserve(shm: shmclient.Client) -> None:
    with shmclient.connect(shm.socket_path, reserve=2**20) as reserved:
        for _ in range(3):
            reserved.put("new", LARGE).close()


def killed_at(number: int) -> Callable[[FrameType, str, object], None]:
    """Return a profile function that kills this process at the n-th call or return in the packages."""
    left = number

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if any(package in frame.f_code.co_filename for package in PACKAGES):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile


def run_child(path: str, operation: Callable[[shmclient.Client], None], number: int) -> int:
    """Have a child do an operation until it is killed; return its exit code, 0 if it got to the end."""
    child = os.fork()
    if not child:
        try:
            shm = shmclient.connect(path)
            for _ in range(2):
                shm.put("new", LARGE).close()
            sys.setprofile(killed_at(number))
            operation(shm)
            sys.setprofile(None)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("operation", [put_small, put_by_a_spare, connect_and_reserve])
def test_killed_client_leaves_nothing_behind(
    operation: Callable[[shmclient.Client], None], host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.list()
    before = host.counts()
    number, code = 1, -signal.SIGKILL
    while code == -signal.SIGKILL:
        code = run_child(host.socket_path, operation, number)
        wait_until(lambda: host.counts()["links"] == 1)  # what the child asked for is done
        shm.unlink("new")
        wait_until(lambda: host.is_back_at(before), shown=lambda: (host.counts(), before))
        number += STRIDE
    assert code == 0
    assert number > 50
