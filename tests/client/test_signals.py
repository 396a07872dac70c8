"""A signal's handler may use the client that the main thread is in: both calls get their replies."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

import pytest

import shmclient
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.gate import Gate
from support import Machine, WatchedHost, count_waits, mapped_addresses, put_values, wait_until


@contextlib.contextmanager
def interrupted(handle: Callable[[], object], is_time: Callable[[], bool]) -> Iterator[None]:
    """Call a function in a handler of this thread, in the block, once it is time."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handle())
    main = threading.get_ident()

    def send() -> None:
        wait_until(is_time)
        signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_wait_ends_when_a_handler_reads_its_reply(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("y", b"2").close()

    def handle() -> None:
        put_values(host.socket_path, x=b"1")
        assert bytes(shm.get("y")) == b"2"

    with interrupted(handle, lambda: count_waits(host) == 1):
        assert bytes(shm.get("x", wait=math.inf)) == b"1"
    assert bytes(shm.get("y")) == b"2"


def test_request_ends_when_a_handler_reads_its_reply(machine: Machine) -> None:
    with shmclient.connect(machine.path, timeout=1e6) as shm:
        shm.put("x", b"1").close()
        shm.put("y", b"2").close()
        channel = shm._core.channel
        assert channel is not None

        def handle() -> None:
            machine.signal(signal.SIGCONT)
            assert shm.stat("y").name == "y"

        for _ in range(3):  # also the next requests wait as long as they may
            machine.signal(signal.SIGSTOP)
            with interrupted(handle, lambda: channel._reader != 0):
                assert shm.stat("x").name == "x"


def test_handler_and_other_threads_take_turns(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("y", b"2").close()
    stop = threading.Event()
    counts = [0, 0, 0]

    def work(number: int) -> None:
        while not stop.is_set():
            assert bytes(shm.get("y")) == b"2"
            counts[number] += 1

    def handle() -> None:
        for _ in range(10):
            assert bytes(shm.get("y")) == b"2"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with interrupted(handle, lambda: True):
                for _ in range(20):
                    assert bytes(shm.get("y")) == b"2"
        before = list(counts)
        wait_until(lambda: all(now > then for now, then in zip(counts, before, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def at_a_call(code: CodeType, function: Callable[[], object], error: BaseException) -> None:
    """Call a function, and raise an error as a signal's handler does where other code begins, once."""
    errors = [error]

    def profile(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is code and event == "call" and errors:
            raise errors.pop()

    sys.setprofile(profile)
    try:
        function()
        for _ in range(10):  # it goes on here
            pass
    finally:
        sys.setprofile(None)
        assert not errors


@pytest.mark.parametrize("error", [KeyboardInterrupt("Ctrl-C"), TimeoutError("of an alarm's handler")])
@pytest.mark.parametrize("wait", [None, 20], ids=["fast", "plain"])
def test_error_of_a_handler_in_a_release_is_raised_after_it(
    host: WatchedHost, shm: shmclient.Client, wait: float | None, error: BaseException
) -> None:
    """Python prints what is raised in code that a deallocation calls, and a Ctrl-C would be lost."""
    shm.put("x", b"1").close()
    with shmclient.connect(host.socket_path) as client:
        values = [client.get("x", wait=wait)]
    with pytest.raises(type(error), match=str(error)):
        at_a_call(Gate.drain.__code__, values.clear, error)
    if wait is not None:
        ADDRESS_SPACE.settle()
    wait_until(lambda: host.counts()["leases"] == 0)
    assert mapped_addresses() == []
