"""Programs that gevent has patched, such as under gunicorn: greenlets share one client."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from support import WatchedHost, wait_until

PROGRAM = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, gevent.event, math, os, signal, sys
import shmclient

path = sys.argv[1]
def together(functions, timeout=40):
    greenlets = [gevent.spawn(function) for function in functions]
    gevent.joinall(greenlets, timeout=timeout)
    return [greenlet.get(block=False) for greenlet in greenlets]
"""


def start(program: str, host: WatchedHost) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(program), host.socket_path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(program: str, host: WatchedHost) -> str:
    """Return what a program prints; it must end well and say nothing of errors."""
    with start(program, host) as child:
        try:
            printed, errors = child.communicate(timeout=50)
        finally:
            child.kill()
    assert (child.returncode, errors) == (0, "")
    return printed


def test_greenlets_share_a_client_while_one_waits(host: WatchedHost) -> None:
    program = """
    with shmclient.connect(path) as shm:
        def use(number):
            for turn in range(20):
                shm.put(f"x/{number}", b"%d" % turn).close()
                assert bytes(shm.get(f"x/{number}")) == b"%d" % turn
            return number
        late = gevent.spawn(lambda: bytes(shm.get("late", wait=40)))
        done = together([lambda number=number: use(number) for number in range(50)])
        assert not late.ready()
        shm.put("late", b"here").close()
        print(sum(done), late.get(timeout=40))
    """
    assert run(program, host).split() == ["1225", "b'here'"]


def test_greenlet_that_waits_lets_the_others_run(host: WatchedHost) -> None:
    program = """
    ticks, is_over = [], gevent.event.Event()
    def tick():
        while not is_over.is_set():
            ticks.append(1)
            gevent.sleep(0.001)
    clock = gevent.spawn(tick)
    with shmclient.connect(path) as shm:
        try:
            shm.get("never", wait=0.3)
        except shmclient.WaitTimeout:
            pass
    is_over.set()
    clock.get()
    print(len(ticks) > 10)
    """
    assert run(program, host).split() == ["True"]


def test_greenlet_waits_no_longer_for_a_stopped_host_than_it_may(host: WatchedHost) -> None:
    program = """
    import socket
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".silent")
    listener.listen(0)
    for number in range(2):  # one that does not answer, one that does not accept
        try:
            shmclient.connect(path + ".silent", timeout=0.1)
        except shmclient.HostTimeout as error:
            print("answer" in str(error), "accepts no connections" in str(error))
        if number == 0:
            listener.accept()[0].close()
            pending = socket.socket(socket.AF_UNIX)
            pending.connect(path + ".silent")
    """
    assert run(program, host).split() == ["True", "False", "False", "True"]


@pytest.mark.parametrize("what", ["shm.get('never', wait=math.inf)", "next(shm.watch())"])
def test_close_ends_greenlets_that_wait(what: str, host: WatchedHost) -> None:
    program = f"""
    from shmprotocol.wire.query import Query
    counts = []
    def listeners():
        with Query(path) as query:
            return query.measure().listeners
    def wait(shm):
        try:
            {what}
        except shmclient.ClientClosed as error:
            return str(error)
    for _ in range(3):  # the first time, gevent keeps descriptors of its own
        shm = shmclient.connect(path)
        waiting = [gevent.spawn(wait, shm) for _ in range(3)]
        while listeners() == 0:
            gevent.sleep(0)
        shm.close()
        print(*[greenlet.get(timeout=40) for greenlet in waiting], sep=", ")
        counts.append(len(os.listdir("/proc/self/fd")))
    print(counts[2] - counts[1])
    """
    assert run(program, host).splitlines() == [", ".join(["the client is closed: connect again"] * 3)] * 3 + [
        "0"
    ]


def test_interrupt_ends_a_greenlet_that_waits(host: WatchedHost) -> None:
    program = """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with shmclient.connect(path) as shm:
        try:
            shm.get("never", wait=40)
        except KeyboardInterrupt:
            print("interrupted", shm.list())
    """
    with start(program, host) as child:
        wait_until(lambda: host.counts()["listeners"] == 1)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=40)[0] == "interrupted []\n"  # gevent reports the signal, too


def test_greenlet_that_waits_in_an_arena_stops_no_other(host: WatchedHost) -> None:
    program = """
    with shmclient.connect(path) as shm, shm.arena("camera", 1 << 20) as arena:
        view = shm.open_arena("camera")
        waits = [
            gevent.spawn(lambda: bytes(view.wait("x", wait=40).data)),
            gevent.spawn(lambda: bytes(shm.get("camera/x", wait=40))),
            gevent.spawn(lambda: next(view.changes(wait=40)).name),
            gevent.spawn(lambda: bytes(next(shm.follow("camera/x")))),
        ]
        ticks = 0
        for _ in range(20):
            gevent.sleep(0.001)
            ticks += not any(wait.ready() for wait in waits)
        arena["x"] = b"here"
        print(ticks, *[wait.get(timeout=40) for wait in waits])
    """
    assert run(program, host).split() == ["20", "b'here'", "b'here'", "x", "b'here'"]
