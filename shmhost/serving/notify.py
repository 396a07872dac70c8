"""Messages to the service manager of a host: sd_notify(3), written to its protocol.

The functions parse an environment and wait for nothing; `Notifier` sends, and neither waits nor raises.
It knows no region and no session. It needs no libsystemd: sd_notify(3) promises that the protocol is stable.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.paths import MAX_SOCKET_PATH

LOG = logging.getLogger("shmhost")

_MAX_NUMBER = 2**64 - 2  # USEC_INFINITY, 2**64 - 1, is not an interval, sd_watchdog_enabled(3)
_INTERVAL_MIN_S = 0.001  # the resolution of uvloop's timers: 0 would be a loop that does nothing else

# The manager has not read what was sent, unix(7): messages are too many, or descriptors in flight.
_LATER = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)


def notify_address(environ: Mapping[str, str]) -> bytes | None:
    """Return where to send, as `sendto` takes it, or None without $NOTIFY_SOCKET.

    InvalidArgument when it is neither an absolute path nor an abstract `@name`.
    """
    text = environ.get("NOTIFY_SOCKET")
    if text is None:
        return None
    address = os.fsencode(text)
    if not 2 <= len(address) <= MAX_SOCKET_PATH or address[:1] not in (b"/", b"@") or b"\0" in address:
        raise InvalidArgument(
            f"$NOTIFY_SOCKET is an absolute path or @name of 2 to {MAX_SOCKET_PATH} bytes, "
            f"not {text!r:.120}: unset it, or let the service manager set it"
        )
    return b"\0" + address[1:] if address[:1] == b"@" else address


def store_room(environ: Mapping[str, str], most: int | None) -> int:
    """Return how many descriptors the manager keeps for this service, and `most` of them at most.

    Without `most`, none if it does not say how many: systemd does since version 254.
    """
    said = None
    with _logged():
        said = number_in(environ, "FDSTORE")
    if most is None or said is None:
        return most or said or 0
    return min(most, said)


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return half of $WATCHDOG_USEC in seconds, or None when nobody watches this process.

    InvalidArgument if $WATCHDOG_USEC or $WATCHDOG_PID is not a number over 0.
    """
    usec = number_in(environ, "WATCHDOG_USEC")
    watched = number_in(environ, "WATCHDOG_PID")
    if usec is None or watched not in (None, pid):
        return None
    return max(usec / 2_000_000, _INTERVAL_MIN_S)


def number_in(environ: Mapping[str, str], name: str) -> int | None:
    """Return the number in a variable, None if it is not set. InvalidArgument: it is not a number over 0."""
    text = environ.get(name)
    if text is None:
        return None
    # 20 digits hold 2**64; int() of many more would be slow.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= _MAX_NUMBER):
        raise InvalidArgument(f"${name} is a number from 1 to {_MAX_NUMBER}, not {text!r:.40}: unset it")
    return int(text)


class Notifier:
    """Tells the service manager how a host is doing; says nothing when no manager asked."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._pid = pid
        self._address: bytes | None = None
        self._interval_s: float | None = None
        self._socket: socket.socket | None = None
        self._failed = False  # and that was logged
        self._is_lost = False
        # Each on its own: a bad watchdog must not keep READY from being said.
        with _logged():
            self._address = notify_address(environ)
        with _logged():
            self._interval_s = watchdog_interval_s(environ, pid)

    def record(self) -> tuple[bytes, float]:
        """Return where to send and how often, for `resume`; b"" and 0: nowhere and never."""
        return self._address or b"", self._interval_s or 0.0

    def resume(self, address: bytes, interval_s: float) -> None:
        """Send where another host of the same service did, unless this process was told where."""
        if self._address is None and address:
            self._address = address
            self._interval_s = interval_s or None

    def hand_over(self, pid: int) -> None:
        """Say that another process is the service from now on."""
        self._send(f"MAINPID={pid}")

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager to tell, and the last message did not show that there is none."""
        return self._address is not None and not self._is_lost

    @contextlib.contextmanager
    def serving(self, loop: asyncio.AbstractEventLoop, status: str) -> Iterator[None]:
        """Say READY, then WATCHDOG from the loop's own timer, and STOPPING at the end of the block.

        A loop that hangs says nothing: that is what the watchdog is for.
        """
        if self._address is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                # Kept open: a host that runs out of descriptors must not also look as if it hung.
                self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                self._socket.setblocking(False)
            except OSError as error:
                self._log_once(error)
            self._send(f"READY=1\nSTATUS={' '.join(status.splitlines())}\nMAINPID={self._pid}")
            if self._interval_s is not None:
                timer = _Timer(loop, self._interval_s, lambda: self._send("WATCHDOG=1"))
                stack.callback(timer.cancel)
            try:
                yield
            finally:
                self._send("STOPPING=1")

    def store(self, entry: str, descriptor: int) -> bool:
        """Have the manager keep a descriptor under this name; False: not now, try again."""
        # FDPOLL=0: a region's object is never at its end.
        return self._pass_on(f"FDSTORE=1\nFDNAME={entry}\nFDPOLL=0", (descriptor,))

    def remove(self, entry: str) -> bool:
        """Have the manager close what it keeps under this name; False: not now, try again."""
        return self._pass_on(f"FDSTOREREMOVE=1\nFDNAME={entry}", ())

    def barrier(self, descriptor: int) -> bool:
        """Have the manager close a descriptor when it has done all it was told before; False: not now."""
        return self._pass_on("BARRIER=1", (descriptor,))

    def _pass_on(self, message: str, descriptors: Sequence[int]) -> bool:
        if self._socket is None or self._address is None:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg((os.fsencode(message),), rights, socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            self._is_lost = error.errno not in _LATER
            if self._is_lost:
                self._log_once(error)
            return False
        self._is_lost = False
        return True

    def _send(self, message: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto(os.fsencode(message), socket.MSG_NOSIGNAL, self._address)
        except OSError as error:  # nobody reads, or nobody is there: no reason to end a host
            self._log_once(error)

    def _log_once(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            LOG.error("cannot notify the service manager at $NOTIFY_SOCKET: %s", error.strerror or error)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except InvalidArgument as error:
        LOG.error("ignored: %s", error)


class _Timer:
    """Calls a function again and again from the loop, first at once, until it is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._call = call
        self._tick()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self._interval_s, self._tick)
        self._call()

    def cancel(self) -> None:
        self._handle.cancel()
