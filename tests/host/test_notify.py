"""What a host tells its service manager, by real children and sockets, and the environment it reads."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmhost
from manager_support import PID, Manager, child, finish, put_and_get, read_until, serve_command
from shmhost.serving.given import Given, take_given
from shmhost.serving.notify import Notifier, notify_address, watchdog_interval_s
from shmprotocol.errors import InvalidArgument
from support import wait_until

MAX_NUMBER = 2**64 - 2
BAD_NUMBERS = ["", "0", "-1", "x", "1.5", " 1", "1_0", "\u0661", str(MAX_NUMBER + 1), "9" * 5000]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, folder: Path) -> Iterator[Manager]:
    kinds = {"path": str(folder / "notify"), "abstract": f"@shmhost-test-{secrets.token_hex(8)}"}
    service = Manager(kinds[request.param])
    with service.socket:
        yield service


# --- what is said ---


def test_host_says_ready_when_a_client_can_connect(manager: Manager, folder: Path) -> None:
    path = folder / "host.sock"
    with child(serve_command(path), {"NOTIFY_SOCKET": manager.address}) as process:
        message = manager.receive()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # at once, without trying again
        assert message == ["READY=1", f"STATUS=listening on {path}", f"MAINPID={process.pid}"]
        finish(process)


def test_host_says_nothing_when_it_cannot_listen(path_manager: Manager, folder: Path) -> None:
    (folder / "host.sock").write_text("no socket")
    with child(serve_command(folder / "host.sock"), {"NOTIFY_SOCKET": path_manager.address}) as process:
        assert process.wait(30) == 1
    assert path_manager.pending() == []


def test_host_says_stopping_last_when_it_is_terminated(manager: Manager, folder: Path) -> None:
    with child(serve_command(folder / "host.sock"), {"NOTIFY_SOCKET": manager.address}) as process:
        manager.receive()
        finish(process)
        assert manager.receive() == ["STOPPING=1"]
        assert manager.pending() == []


def test_host_feeds_the_watchdog_again_and_again(manager: Manager, folder: Path) -> None:
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    with child(serve_command(folder / "host.sock"), variables) as process:
        manager.receive()
        assert [manager.receive() for _ in range(3)] == [["WATCHDOG=1"]] * 3
        finish(process)
        assert manager.receive_until("STOPPING=1")


def test_host_feeds_no_watchdog_that_is_for_another_process(path_manager: Manager, folder: Path) -> None:
    variables = {"NOTIFY_SOCKET": path_manager.address, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(PID)}
    with child(serve_command(folder / "host.sock"), variables) as process:
        path_manager.receive()
        put_and_get(folder / "host.sock")
        finish(process)
        assert path_manager.receive() == ["STOPPING=1"]


def test_stopped_host_feeds_no_watchdog(path_manager: Manager, folder: Path) -> None:
    variables = {"NOTIFY_SOCKET": path_manager.address, "WATCHDOG_USEC": "40000"}
    with child(serve_command(folder / "host.sock"), variables) as process:
        path_manager.receive_until("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: ") T " in Path(f"/proc/{process.pid}/stat").read_text())
        path_manager.pending()

        path_manager.socket.settimeout(0.4)  # 20 intervals
        with pytest.raises(TimeoutError):
            path_manager.receive()

        path_manager.socket.settimeout(20)
        process.send_signal(signal.SIGCONT)
        assert path_manager.receive() == ["WATCHDOG=1"]
        finish(process)


def test_embedded_host_says_nothing(path_manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """$NOTIFY_SOCKET is then for the program around it."""
    monkeypatch.setenv("NOTIFY_SOCKET", path_manager.address)
    with shmhost.embedded():
        pass
    assert path_manager.pending() == []


# --- a manager that does not play its part ---


def test_host_serves_when_nobody_reads_its_messages(path_manager: Manager, folder: Path) -> None:
    path = folder / "host.sock"
    variables = {"NOTIFY_SOCKET": path_manager.address, "WATCHDOG_USEC": "2000"}
    with child(serve_command(path), variables) as process:
        seen = read_until(process, "cannot notify")  # the queue is full, unix(7): max_dgram_qlen
        assert put_and_get(path) == b"value"
        log = seen + finish(process)
    assert log.count("cannot notify") == 1


@pytest.mark.parametrize("address", ["{folder}/nobody", "@shmhost-test-nobody", "{folder}"])
def test_host_serves_when_nobody_is_at_the_address(address: str, folder: Path) -> None:
    path = folder / "host.sock"
    variables = {"NOTIFY_SOCKET": address.format(folder=folder), "WATCHDOG_USEC": "2000"}
    with child(serve_command(path), variables) as process:
        seen = read_until(process, "cannot notify")
        assert put_and_get(path) == b"value"
        log = seen + finish(process)
    assert log.count("cannot notify") == 1


def test_host_serves_when_the_variables_are_bad(folder: Path) -> None:
    path = folder / "host.sock"
    variables = {"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "soon"}
    with child(serve_command(path), variables) as process:
        seen = read_until(process, "listening")
        assert put_and_get(path) == b"value"
        finish(process)
    assert "$NOTIFY_SOCKET is an absolute path or @name" in seen
    assert "'vsock:2:1'" in seen
    assert "$WATCHDOG_USEC is a number from 1" in seen


def test_ready_is_said_when_the_watchdog_is_bad(path_manager: Manager, folder: Path) -> None:
    variables = {"NOTIFY_SOCKET": path_manager.address, "WATCHDOG_USEC": "0"}
    with child(serve_command(folder / "host.sock"), variables) as process:
        assert path_manager.receive()[0] == "READY=1"
        finish(process)
        assert path_manager.receive() == ["STOPPING=1"]


# --- the timer, on a clock of the test's ---


class FakeHandle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None], FakeHandle]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle()
        self.timers.append((delay_s, call, handle))
        return handle


def test_watchdog_is_fed_at_half_of_its_time_until_the_block_ends(path_manager: Manager) -> None:
    loop: Any = FakeLoop()
    environ = {"NOTIFY_SOCKET": path_manager.address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}
    with Notifier(environ, PID).serving(loop, "two\nlines"):
        assert path_manager.receive() == ["READY=1", "STATUS=two lines", f"MAINPID={PID}"]
        assert path_manager.receive() == ["WATCHDOG=1"]
        loop.timers[-1][1]()
        assert path_manager.receive() == ["WATCHDOG=1"]
    assert path_manager.receive() == ["STOPPING=1"]
    assert [delay_s for delay_s, _, _ in loop.timers] == [15.0, 15.0]
    assert loop.timers[-1][2].cancelled


def test_stopping_is_said_when_the_block_ends_with_an_error(path_manager: Manager) -> None:
    loop: Any = FakeLoop()
    with (
        pytest.raises(asyncio.CancelledError),
        Notifier({"NOTIFY_SOCKET": path_manager.address}, PID).serving(loop, ""),
    ):
        raise asyncio.CancelledError
    path_manager.receive()
    assert path_manager.receive() == ["STOPPING=1"]


# --- the environment ---


def test_address_is_none_without_the_variable() -> None:
    assert notify_address({}) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [("/run/n", b"/run/n"), ("@n", b"\0n"), ("/" + "x" * 106, b"/" + b"x" * 106), ("@\udcff", b"\0\xff")],
)
def test_address_is_as_sendto_takes_it(text: str, address: bytes) -> None:
    assert notify_address({"NOTIFY_SOCKET": text}) == address


@pytest.mark.parametrize(
    "text", ["", "/", "@", "run/n", "vsock:2:1", "/" + "x" * 107, "@" + "x" * 107, "/a\0b"]
)
def test_address_is_refused_when_it_is_no_unix_socket(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"\$NOTIFY_SOCKET .*: unset it"):
        notify_address({"NOTIFY_SOCKET": text})


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_PID": str(PID)}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(PID)}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(PID + 1)}, None),
        ({"WATCHDOG_USEC": "1"}, 0.001),  # never a loop that does nothing else
        ({"WATCHDOG_USEC": str(MAX_NUMBER)}, MAX_NUMBER / 2_000_000),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, PID) == interval_s


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["WATCHDOG_USEC", "WATCHDOG_PID"])
def test_watchdog_is_refused_when_a_number_is_bad(name: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"\${name} is a number"):
        watchdog_interval_s({"WATCHDOG_USEC": "1", name: text}, PID)


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["LISTEN_FDS", "LISTEN_PID"])
def test_listener_is_refused_when_a_number_is_bad(name: str, text: str) -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID), "HOME": "/"} | {name: text}
    with pytest.raises(InvalidArgument, match=rf"\${name} is a number"):
        take_given(environ, PID)
    assert environ == {"HOME": "/"}


def test_listener_is_refused_when_there_are_two() -> None:
    with pytest.raises(InvalidArgument, match=r"serves one socket, not \$LISTEN_FDS=2"):
        take_given({"LISTEN_FDS": "2", "LISTEN_PID": str(PID)}, PID)


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": str(PID)}, {"LISTEN_FDS": "1", "LISTEN_PID": str(PID + 1)}],
)
def test_listener_is_none_when_none_is_for_this_process(environ: dict[str, str]) -> None:
    environ = environ | {"LISTEN_FDNAMES": "name"}
    assert take_given(environ, PID) == Given(None, ())
    assert environ == {}


@given(st.text(), st.text())
def test_environment_is_refused_or_taken_whatever_it_holds(text: str, other: str) -> None:
    with contextlib.suppress(InvalidArgument):
        notify_address({"NOTIFY_SOCKET": text})
    with contextlib.suppress(InvalidArgument):
        watchdog_interval_s({"WATCHDOG_USEC": text, "WATCHDOG_PID": other}, PID)
    with contextlib.suppress(InvalidArgument):
        take_given({"LISTEN_FDS": text, "LISTEN_PID": other}, 0)  # nobody's: 0 is never passed
